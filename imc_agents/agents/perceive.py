"""Perceive: where is the text noisy, by which kind of noise, and how badly."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable

from imc_agents.agents.context import AgentContext
from imc_agents.agents.findings import Perception
from imc_agents.agents.outputs import NoiseJudgement
from imc_agents.config.schema import Config
from imc_agents.text.channels import word_spans
from imc_agents.text.invariants import protected_spans
from imc_agents.text.lexicon import Lexicon
from imc_agents.text.suspicion import Suspicion, Thresholds, find_suspicions, span_surprisal
from imc_agents.trace.events import Flagged, Perceived, SuspiciousSpan

__all__ = ["lexicon_costs", "perceive", "unreadable"]

_LEAST_KNOWN = 0.3  # below this share of known words the text is not taken for English
_LEAST_WORDS = 4
_COMMON_ZIPF = 4.5
_SEVERITY_SHARES = (0.12, 0.25, 0.4, 0.6)


async def perceive(context: AgentContext, text: str, round_: int, *, noisy: bool) -> Perception:
    """Perceive the working text; costs one score call over its own tokens, none where it cannot be read.

    Args:
        context: What the agents share.
        text: The working text.
        round_: The round, from 1.
        noisy: Whether an earlier round found slips, so that known words are trusted less.
    """
    name, _ = context.role_of("perceiver")
    if flag := unreadable(text, context.config, context.lexicon):
        context.emit(Flagged(agent=name, round=round_, flag=flag, detail=_UNREADABLE[flag]))
        context.emit(Perceived(agent=name, round=round_, text=text, clean=False))
        return Perception(clean=False, flag=flag)
    (score,) = await context.score(name, round_, [" " + text])
    tokens = score.tokens
    settings = context.config.sms.perceive
    least = settings.known_word_nats - (settings.noisy_discount_nats if noisy else 0.0)
    thresholds = Thresholds(
        settings.web_word_nats,
        least,
        settings.alike_nats,
        0.0 if noisy else settings.noisy_discount_nats,
        lexicon_costs(context.config),
    )
    found = find_suspicions(
        text,
        lambda start, end: span_surprisal(tokens, start, end, 1),
        context.lexicon,
        thresholds,
        _protected(text, context.config),
    )
    noise, severity = _evidence(text, found)
    if settings.judgement == "model":
        noise, severity = await _judge(context, name, text, round_, found, noise, severity)
    clean = not found and not noise
    context.emit(
        Perceived(
            agent=name,
            round=round_,
            text=text,
            clean=clean,
            noise=dict(noise),
            severity=severity,
            spans=tuple(
                SuspiciousSpan(
                    start=s.start,
                    end=s.end,
                    text=text[s.start : s.end],
                    surprisal=round(s.surprisal, 3),
                    reason=s.reason,
                )
                for s in found
            ),
            mean_surprisal=round(-score.total / max(len(tokens), 1), 3),
        )
    )
    return Perception(clean, tuple(found), noise, severity)


_UNREADABLE = {
    "too_long": "longer than sms.max_question_chars; left unchanged",
    "unsupported_language": "not in English, which is what the vocabulary and the guard know; left unchanged",
    "control_characters": "holds control characters; left unchanged",
}


def unreadable(text: str, config: Config, lexicon: Lexicon) -> str | None:
    """The flag under which a text is left alone unread, or None."""
    if len(text) > config.sms.max_question_chars:
        return "too_long"
    if any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in text):
        return "control_characters"
    letters = [c for c in text if c.isalpha()]
    latin = sum("LATIN" in unicodedata.name(c, "") for c in letters)
    if not letters or 2 * latin < len(letters):
        return "unsupported_language"
    words = [text[a:b] for a, b in word_spans(text) if text[a:b].isalpha()]
    # Slips leave letters behind that still spell English words; another language leaves hardly any.
    known = sum(lexicon.is_known(word) or _is_misread(word, lexicon) for word in words)
    if len(words) >= _LEAST_WORDS and known < _LEAST_KNOWN * len(words):
        return "unsupported_language"
    return None


def _is_misread(word: str, lexicon: Lexicon) -> bool:
    """Whether character recognition may have made the token out of a common English word."""
    return any(lexicon.frequency(other) >= _COMMON_ZIPF for other in lexicon.same_shape(word))


def lexicon_costs(config: Config) -> dict[str, float]:
    """The slip cost of every noise kind that an enabled lexicon specialist handles; the cheapest where several do."""
    costs: dict[str, float] = {}
    for role in config.roles.values():
        if role.kind == "specialist" and role.enabled and role.source == "lexicon":
            for kind in role.handles:
                costs[kind] = min(role.slip_cost, costs.get(kind, role.slip_cost))
    return costs


def _protected(text: str, config: Config) -> Callable[[int, int], bool]:
    spans = [(s.start, s.end) for s in protected_spans(text) if s.invariant in ("acronym", "answer_option")]
    lower = text.lower()
    for term in config.guard.protected_terms:
        at = lower.find(term.lower())
        while at >= 0:
            spans.append((at, at + len(term)))
            at = lower.find(term.lower(), at + 1)
    return lambda start, end: any(start < stop and begin < end for begin, stop in spans)


def _evidence(text: str, found: list[Suspicion]) -> tuple[tuple[tuple[str, float], ...], int]:
    if not found:
        return (), 0
    shares: defaultdict[str, float] = defaultdict(float)
    for suspicion in found:
        for kind in suspicion.kinds:
            shares[kind] += 1 / (len(suspicion.kinds) * len(found))
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    share = len(found) / max(len(word_spans(text)), 1)
    severity = 1 + sum(share > bound for bound in _SEVERITY_SHARES)
    return tuple((kind, round(value, 4)) for kind, value in ranked), severity


async def _judge(
    context: AgentContext,
    name: str,
    text: str,
    round_: int,
    found: list[Suspicion],
    noise: tuple[tuple[str, float], ...],
    severity: int,
) -> tuple[tuple[tuple[str, float], ...], int]:
    prompt = context.config.roles[name].prompt or name
    suspicious = [text[s.start : s.end] for s in found]
    judgement = await context.ask(
        name, round_, prompt, NoiseJudgement, {"question": text, "suspicious": suspicious}
    )
    # The evidence of the text stays; the model may add kinds that leave no trace in single words.
    added = {finding.kind: 0.0 for finding in judgement.noise if not judgement.clean} | dict(noise)
    worst = max((finding.severity for finding in judgement.noise), default=0)
    return tuple(added.items()), max(severity, 0 if judgement.clean else worst)
