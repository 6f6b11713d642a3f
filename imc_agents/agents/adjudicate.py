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

from imc_agents.agents.candidates import Candidate, spans
from imc_agents.agents.context import AgentContext
from imc_agents.agents.findings import Proposal, Ruling
from imc_agents.agents.propose import edit_record
from imc_agents.config.schema import AdjudicateConfig
from imc_agents.text.channels import word_spans
from imc_agents.text.edits import Edit, apply_edits
from imc_agents.text.invariants import clinical_pair, is_clinical, protected_spans
from imc_agents.trace.events import Assessed, Flagged

__all__ = ["adjudicate"]

_OPEN = 2  # readings of a span, leaving it alone among them


@dataclass(frozen=True, slots=True)
class _Verdict:
    candidate: Candidate
    gain: float
    meaning: float | None = None

    @property
    def margin(self) -> float:
        return self.gain - self.candidate.cost


@dataclass(frozen=True, slots=True)
class _Decision:
    """A span ``start:end`` of the working text; its verdicts, best first; the winner, where there is one.

    ``hasty`` says that a doubtful neighbour cut off what stands behind the span.
    """

    start: int
    end: int
    verdicts: Sequence[_Verdict]
    winner: _Verdict | None
    hasty: bool

    @property
    def edits(self) -> list[Edit]:
        return [] if self.winner is None else [self.winner.candidate.edit]


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
    settings = context.config.sms.adjudicate
    found = spans(context, text, [edit for proposal in proposals for edit in proposal.edits], noisy=noisy)
    starts = [min(c.edit.start for c in candidates) for candidates in found]
    decisions: list[_Decision] = []
    for candidates, start, following in zip(found, starts, [*starts, None][1:], strict=True):
        end = max(c.edit.end for c in candidates)
        stop = _window_end(text, end, settings.window_words)
        hasty = following is not None and following < stop
        if hasty:
            # The next span is suspicious itself: what it says about this one would be noise.
            stop = max(end, end + len(text[end:following].rstrip()))
        decided = [edit for decision in decisions for edit in decision.edits]
        verdicts = await _assess(context, round_, text, decided, (start, end), stop, candidates)
        decisions.append(_Decision(start, end, verdicts, _winner(verdicts, settings), hasty))
    for number in reversed(range(len(decisions))):
        decisions[number] = await _again(context, round_, text, decisions, number)
    return _rule(context, round_, text, decisions)


async def _again(
    context: AgentContext, round_: int, text: str, decisions: Sequence[_Decision], number: int
) -> _Decision:
    """Decide a hasty span again where it was close, now that what stands behind it is repaired."""
    settings, decision = context.config.sms.adjudicate, decisions[number]
    best = max([settings.accept_margin, *(v.margin for v in decision.verdicts)])
    close = [v for v in decision.verdicts if best - v.margin < settings.revisit_nats]
    leaves = best - settings.accept_margin < settings.revisit_nats
    if not decision.hasty or len(close) + leaves < _OPEN:
        return decision
    others = [edit for other in decisions if other is not decision for edit in other.edits]
    stop = _window_end(text, decision.end, settings.window_words)
    for other in decisions[number + 1 :]:
        if other.start < stop:
            stop = max(stop, other.end)
    again = await _assess(
        context, round_, text, others, (decision.start, decision.end), stop, [v.candidate for v in close]
    )
    verdicts = [*again, *(v for v in decision.verdicts if v not in close)]
    return replace(decision, verdicts=verdicts, winner=_winner(again, settings))


def _rule(context: AgentContext, round_: int, text: str, decisions: Sequence[_Decision]) -> Ruling:
    """Report the decisions and sum them up."""
    name, _ = context.role_of("adjudicator")
    settings = context.config.sms.adjudicate
    flags: list[str] = []
    certainty = 1.0
    for decision in decisions:
        verdicts, winner = decision.verdicts, decision.winner
        if winner is not None:
            runner = max((v.margin for v in verdicts if v is not winner), default=-math.inf)
            certainty *= _probability(winner.margin - max(runner, settings.accept_margin))
        elif verdicts and verdicts[0].margin > settings.accept_margin:
            flag = f"ambiguous:{text[decision.start : decision.end].strip()[:40]}"
            flags.append(flag)
            readings = " or ".join(
                repr(v.candidate.edit.after) for v in (verdicts[0], *_rivals(verdicts, settings)[:1])
            )
            context.emit(Flagged(agent=name, round=round_, flag=flag, detail=f"{readings}; left as it is"))
        elif verdicts:
            certainty *= _probability(settings.accept_margin - verdicts[0].margin)
        flags += _look_alikes(context, name, round_, text, verdicts, winner)
        _report(context, name, round_, text, verdicts, winner, settings)
    return Ruling(tuple(e for decision in decisions for e in decision.edits), tuple(flags), certainty)


def _window_end(text: str, end: int, words: int) -> int:
    """Where the window behind a place ends: ``words`` words on, or at the end of the text."""
    ahead = [span for span in word_spans(text) if span[0] >= end]
    return ahead[words - 1][1] if len(ahead) > words else len(text)


async def _assess(
    context: AgentContext,
    round_: int,
    text: str,
    decided: Sequence[Edit],
    span: tuple[int, int],
    stop: int,
    candidates: Sequence[Candidate],
) -> list[_Verdict]:
    """Verdicts on the candidates of one span, best first, read among the edits that are decided, up to ``stop``."""
    name, _ = context.role_of("adjudicator")
    (start, end), seen = span, text[:stop]
    around = [edit for edit in decided if edit.end <= stop]
    left = apply_edits(text[:start], [edit for edit in around if edit.end <= start])
    right = apply_edits(seen, [edit for edit in around if edit.start >= end])[end:]
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
        scores = await context.score(name, round_, [" " + left + version + right for version in versions])
        for candidate, score in zip(candidates, scores[1:], strict=True):
            verdicts.append(_Verdict(candidate, score.total - scores[0].total))
    verdicts.sort(key=lambda v: (-v.margin, v.candidate.edit.after))
    if context.config.sms.adjudicate.judge == "meaning" and verdicts:
        judged = await _meaning(context, name, round_, left + versions[0] + right, left, right, verdicts[0])
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


def _winner(verdicts: Sequence[_Verdict], settings: AdjudicateConfig) -> _Verdict | None:
    if not verdicts or verdicts[0].margin <= settings.accept_margin or _rivals(verdicts, settings):
        return None
    best = verdicts[0]
    if best.meaning is not None and best.meaning < settings.min_meaning:
        return None
    return best


def _rivals(verdicts: Sequence[_Verdict], settings: AdjudicateConfig) -> list[_Verdict]:
    """The verdicts that the best one does not clearly beat; more is asked where one would change what is protected."""
    best = verdicts[0]
    rivals: list[_Verdict] = []
    for verdict in verdicts[1:]:
        alike = _protected(verdict) == _protected(best)
        least = settings.ambiguity_nats if alike else settings.protected_ambiguity_nats
        if verdict.margin > settings.accept_margin and best.margin - verdict.margin < least:
            rivals.append(verdict)
    return rivals


def _protected(verdict: _Verdict) -> list[str]:
    after = verdict.candidate.edit.after.lower()
    return [after[span.start : span.end] for span in protected_spans(after)]


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
