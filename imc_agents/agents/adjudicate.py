"""Adjudicate: the MLLM assesses every proposed edit by the likelihood of the text with and without it.

Noisy-channel decision per span, left to right, so that each span is read behind the repairs before it:
``margin = gain - cost``, where gain is log p(window with the edit) - log p(window as it stands) under the MLLM and cost
is what the slip costs: slips x the role's slip cost, more for a known word, less for a word common in medicine. (The
classic decomposition of Kernighan, Church and Gale 1990, with the MLLM as the source model.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from imc_agents.agents.context import AgentContext
from imc_agents.agents.findings import Proposal, Ruling
from imc_agents.agents.propose import edit_record, role_config
from imc_agents.config.schema import AdjudicateConfig
from imc_agents.text.channels import plausibility, word_spans
from imc_agents.text.edits import Edit
from imc_agents.text.invariants import clinical_pair, is_clinical
from imc_agents.text.lexicon import Lexicon
from imc_agents.trace.events import Assessed, Flagged

__all__ = ["adjudicate"]

_MOST_PER_SPAN = 10
_BETWEEN_WORDS = ("asr", "casing")  # slips that turn words into words: their slip cost has that priced in
_UNKNOWN_ZIPF = 4.0  # what the domain frequency of a repair is measured against where the original is no word


@dataclass(frozen=True, slots=True)
class _Candidate:
    edit: Edit
    cost: float


@dataclass(frozen=True, slots=True)
class _Verdict:
    candidate: _Candidate
    gain: float
    meaning: float | None = None

    @property
    def margin(self) -> float:
        return self.gain - self.candidate.cost


async def adjudicate(
    context: AgentContext, text: str, round_: int, proposals: Sequence[Proposal], *, noisy: bool
) -> Ruling:
    """Decide every span that has edits.

    Args:
        context: What the agents share.
        text: The working text.
        round_: The round.
        proposals: The proposals of this round.
        noisy: Whether the text holds misspelt words, so that known ones are trusted less.
    """
    name, _ = context.role_of("adjudicator")
    settings = context.config.sms.adjudicate
    spans = _spans(context, text, [edit for proposal in proposals for edit in proposal.edits], noisy=noisy)
    accepted: list[Edit] = []
    flags: list[str] = []
    certainty = 1.0
    done, at = "", 0
    for number, candidates in enumerate(spans):
        start = min(c.edit.start for c in candidates)
        end = max(c.edit.end for c in candidates)
        following = (
            min((c.edit.start for c in spans[number + 1]), default=len(text)) if spans[number + 1 :] else None
        )
        done, at = done + text[at:start], start
        right = text[end : _window_end(text, end, following, settings.window_words)]
        verdicts = await _assess(context, name, round_, text, done, (start, end), right, candidates)
        winner, rest = _decide(verdicts, settings)
        runner = max((v.margin for v in rest), default=-math.inf)
        if winner is not None:
            certainty *= _probability(winner.margin - max(runner, settings.accept_margin))
            accepted.append(winner.candidate.edit)
            edit = winner.candidate.edit
            done, at = done + text[start : edit.start] + edit.after, edit.end
        elif verdicts and verdicts[0].margin > settings.accept_margin:
            flag = f"ambiguous:{text[start:end].strip()[:40]}"
            flags.append(flag)
            first, second = (
                verdicts[0].candidate.edit.after,
                verdicts[min(1, len(verdicts) - 1)].candidate.edit.after,
            )
            context.emit(
                Flagged(agent=name, round=round_, flag=flag, detail=f"{first!r} or {second!r}; left as it is")
            )
        elif verdicts:
            certainty *= _probability(settings.accept_margin - verdicts[0].margin)
        flags += _look_alikes(context, name, round_, text, verdicts, winner)
        _report(context, name, round_, text, verdicts, winner, settings)
    return Ruling(tuple(accepted), tuple(flags), certainty)


def _spans(context: AgentContext, text: str, edits: list[Edit], *, noisy: bool) -> list[list[_Candidate]]:
    """Group overlapping edits into spans, price them, and keep the most plausible of each span."""
    groups: list[list[Edit]] = []
    for edit in sorted(edits, key=lambda e: (e.start, e.end, e.after, e.role)):
        if groups and any(edit.overlaps(other) for other in groups[-1]):
            groups[-1].append(edit)
        else:
            groups.append([edit])
    spans: list[list[_Candidate]] = []
    for group in groups:
        best: dict[tuple[int, int, str], _Candidate] = {}
        for edit in group:
            candidate = _Candidate(edit, _cost(context, text, edit, noisy=noisy))
            known = best.get((edit.start, edit.end, edit.after))
            if known is None or candidate.cost < known.cost:
                best[(edit.start, edit.end, edit.after)] = candidate
        ranked = sorted(
            best.values(),
            key=lambda c: (c.cost - _prior(c.edit.after, context.lexicon), c.edit.start, c.edit.after),
        )
        spans.append(ranked[:_MOST_PER_SPAN])
    return spans


def _prior(after: str, lexicon: Lexicon) -> float:
    return min((plausibility(word.lower(), 0.0, lexicon) for word in after.split()), default=0.0)


def _cost(context: AgentContext, text: str, edit: Edit, *, noisy: bool) -> float:
    settings, lexicon = context.config.sms.adjudicate, context.lexicon
    cost = role_config(context, edit.role).slip_cost * edit.slips
    before, after = edit.before(text), edit.after
    if not after.strip() or edit.kind == "shorthand":
        return cost
    known = all(lexicon.is_known(text[a + edit.start : b + edit.start]) for a, b in word_spans(before))
    if known and edit.kind not in _BETWEEN_WORDS:
        discount = context.config.sms.perceive.noisy_discount_nats if noisy else 0.0
        cost += max(settings.known_word_cost - discount, 0.0)
    reference = _domain(before, lexicon) if known else _UNKNOWN_ZIPF
    return cost - settings.domain_weight * (_domain(after, lexicon) - reference)


def _domain(text: str, lexicon: Lexicon) -> float:
    return min((lexicon.domain_frequency(text[a:b]) for a, b in word_spans(text)), default=0.0)


def _window_end(text: str, end: int, following: int | None, words: int) -> int:
    ahead = [span for span in word_spans(text) if span[0] >= end]
    stop = ahead[words - 1][1] if len(ahead) > words else len(text)
    if following is not None and following < stop:
        # The next span is suspicious itself: what it says about this one would be noise.
        stop = end + len(text[end:following].rstrip())
    return max(stop, end)


async def _assess(
    context: AgentContext,
    name: str,
    round_: int,
    text: str,
    done: str,
    span: tuple[int, int],
    right: str,
    candidates: Sequence[_Candidate],
) -> list[_Verdict]:
    """Verdicts on the candidates of one span, best first."""
    start, end = span
    versions = [text[start:end]]
    for candidate in candidates:
        edit = candidate.edit
        versions.append(text[start : edit.start] + edit.after + text[edit.end : end])
    verdicts: list[_Verdict] = []
    if all(not candidate.edit.after.strip() for candidate in candidates):
        for candidate in candidates:
            gain = await _off_topic(context, name, round_, candidate.edit.before(text))
            verdicts.append(_Verdict(candidate, gain))
    else:
        scores = await context.score(name, round_, [" " + done + version + right for version in versions])
        for candidate, score in zip(candidates, scores[1:], strict=True):
            verdicts.append(_Verdict(candidate, score.total - scores[0].total))
    verdicts.sort(key=lambda v: (-v.margin, v.candidate.edit.after))
    if context.config.sms.adjudicate.judge == "meaning" and verdicts:
        judged = await _meaning(context, name, round_, done + versions[0] + right, done, right, verdicts[0])
        verdicts[0] = judged
    return verdicts


async def _off_topic(context: AgentContext, name: str, round_: int, sentence: str) -> float:
    """How much likelier a sentence is off the topic than among clinical questions, in nats.

    A deletion cannot be judged by the likelihood of the shorter text, which is always greater.
    """
    prompts, settings = context.prompts, context.config.sms
    text = " " + sentence.strip()
    (on,) = await context.score(name, round_, [text])
    off_context = prompts[settings.offtopic_prompt].render_text().rstrip()
    (off,) = await context.score(name, round_, [text], context=off_context)
    return off.total - on.total


async def _meaning(
    context: AgentContext, name: str, round_: int, before: str, done: str, right: str, verdict: _Verdict
) -> _Verdict:
    """Ask whether the meaning is unchanged: p(yes) against p(no) as the answer to the adjudicator's prompt."""
    after = done + verdict.candidate.edit.after + right
    prompt = context.prompts[context.config.roles[name].prompt or name]
    messages = prompt.render(original=before, candidate=after)
    asked = "\n\n".join(message.content for message in messages)
    yes, no = await context.score(name, round_, [" yes", " no"], context=asked + "\nAnswer:")
    return replace(verdict, meaning=round(_probability(yes.total - no.total), 4))


def _decide(
    verdicts: Sequence[_Verdict], settings: AdjudicateConfig
) -> tuple[_Verdict | None, Sequence[_Verdict]]:
    if not verdicts or verdicts[0].margin <= settings.accept_margin:
        return None, verdicts
    best, rest = verdicts[0], verdicts[1:]
    if rest and best.margin - rest[0].margin < settings.ambiguity_nats:
        return None, verdicts
    if best.meaning is not None and best.meaning < settings.min_meaning:
        return None, verdicts
    return best, rest


def _look_alikes(
    context: AgentContext,
    name: str,
    round_: int,
    text: str,
    verdicts: Sequence[_Verdict],
    winner: _Verdict | None,
) -> list[str]:
    """Flag a clinical word whose clinical sound-alike is not clearly worse: nobody can tell which one was said."""
    flags: list[str] = []
    for verdict in verdicts:
        edit = verdict.candidate.edit
        before = edit.before(text)
        if verdict is winner or edit.kind != "asr" or verdict.gain <= -verdict.candidate.cost:
            continue
        if is_clinical(before) and clinical_pair(before.lower(), edit.after.lower()):
            flag = f"look_alike:{before}/{edit.after}"
            flags.append(flag)
            detail = f"{edit.after!r} sounds alike and fits {verdict.gain:+.1f} nats; left for a person"
            context.emit(Flagged(agent=name, round=round_, flag=flag, detail=detail))
    return flags


def _probability(nats: float) -> float:
    return 1 / (1 + math.exp(-max(min(nats, 50.0), -50.0)))


def _report(
    context: AgentContext,
    name: str,
    round_: int,
    text: str,
    verdicts: Sequence[_Verdict],
    winner: _Verdict | None,
    settings: AdjudicateConfig,
) -> None:
    for verdict in verdicts:
        if verdict is winner:
            word = "accepted"
        elif verdict.margin <= settings.accept_margin or (winner is None and verdict.meaning is not None):
            word = "rejected"
        else:
            word = "outranked" if winner is not None else "ambiguous"
        context.emit(
            Assessed(
                agent=name,
                round=round_,
                role=verdict.candidate.edit.role,
                edit=edit_record(text, verdict.candidate.edit),
                gain=round(verdict.gain, 3),
                slip_cost=round(verdict.candidate.cost, 3),
                margin=round(verdict.margin, 3),
                meaning=verdict.meaning,
                verdict=word,
            )
        )
