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
from itertools import takewhile

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
    span: str  # the span as the edit leaves it
    gain: float
    meaning: float | None = None

    @property
    def margin(self) -> float:
        return self.gain - self.candidate.cost


@dataclass(frozen=True, slots=True)
class _Decision:
    """What became of the span ``start:end`` of the working text.

    Attributes:
        start: Offset of its first character.
        end: Offset behind its last character.
        verdicts: Those that compete, best first.
        winner: The one that is accepted, if any.
        beaten: Verdicts too far behind to be weighed again; they were read before other words than the others.
    """

    start: int
    end: int
    verdicts: Sequence[_Verdict]
    winner: _Verdict | None
    beaten: Sequence[_Verdict] = ()

    def is_open(self, settings: AdjudicateConfig) -> bool:
        """Whether something beats the text as it stands, but nothing wins."""
        return self.winner is None and any(
            v.margin > settings.accept_margin and not _changes_meaning(v, settings) for v in self.verdicts
        )

    @property
    def assessed(self) -> Sequence[_Verdict]:
        return (*self.verdicts, *self.beaten)

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
    bounds = [(min(c.edit.start for c in span), max(c.edit.end for c in span)) for span in found]
    decisions: list[_Decision] = []
    for candidates, (start, end), following in zip(found, bounds, [*bounds, None][1:], strict=True):
        stop = _window_end(text, end, settings.window_words)
        if following is not None:
            stop = _cut(text, end, stop, following[0])
        decided = [edit for decision in decisions for edit in decision.edits]
        verdicts = await _assess(context, round_, text, decided, (start, end), stop, candidates)
        decisions.append(_Decision(start, end, verdicts, _winner(verdicts, settings)))
    for number in reversed(range(len(decisions))):
        decisions[number] = await _again(context, round_, text, decisions, number)
    return _rule(context, round_, text, decisions)


async def _again(
    context: AgentContext, round_: int, text: str, decisions: Sequence[_Decision], number: int
) -> _Decision:
    """Decide a span again where it was close and a doubtful word that cut its window off is decided by now."""
    settings, decision = context.config.sms.adjudicate, decisions[number]
    full = stop = _window_end(text, decision.end, settings.window_words)
    sees_more = False
    for behind in decisions[number + 1 :]:
        if behind.start >= full:
            break
        if behind.is_open(settings):
            stop = _cut(text, decision.end, stop, behind.start)
            break
        sees_more, stop = True, max(stop, behind.end)
    best = max([settings.accept_margin, *(v.margin for v in decision.verdicts)])
    close = [v for v in decision.verdicts if best - v.margin < settings.revisit_nats]
    leaves = best - settings.accept_margin < settings.revisit_nats
    if not sees_more or len(close) + leaves < _OPEN or _deletes([v.candidate for v in close]):
        return decision
    others = [edit for other in decisions if other is not decision for edit in other.edits]
    span = (decision.start, decision.end)
    again = await _assess(context, round_, text, others, span, stop, [v.candidate for v in close])
    beaten = [v for v in decision.verdicts if v not in close]
    return replace(decision, verdicts=again, winner=_winner(again, settings), beaten=beaten)


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
        elif decision.is_open(settings):
            flag = f"ambiguous:{text[decision.start : decision.end].strip()[:40]}"
            flags.append(flag)
            readings = " or ".join(
                repr(v.candidate.edit.after) for v in (verdicts[0], *_rivals(verdicts, settings)[:1])
            )
            context.emit(Flagged(agent=name, round=round_, flag=flag, detail=f"{readings}; left as it is"))
        elif verdicts:
            certainty *= _probability(settings.accept_margin - verdicts[0].margin)
        flags += _look_alikes(context, name, round_, text, decision)
        _report(context, name, round_, text, decision)
    return Ruling(tuple(e for decision in decisions for e in decision.edits), tuple(flags), certainty)


def _window_end(text: str, end: int, words: int) -> int:
    """Where the window behind a place ends: ``words`` words on, or at the end of the text."""
    ahead = [span for span in word_spans(text) if span[0] >= end]
    return ahead[words - 1][1] if len(ahead) > words else len(text)


def _cut(text: str, end: int, stop: int, suspicious: int) -> int:
    """End the window before a suspicious place: what that says about this one would be noise."""
    return stop if suspicious >= stop else end + len(text[end:suspicious].rstrip())


def _deletes(candidates: Sequence[Candidate]) -> bool:
    return all(not candidate.edit.after.strip() for candidate in candidates)


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
    after = {c: text[start : c.edit.start] + c.edit.after + text[c.edit.end : end] for c in candidates}
    gains: dict[Candidate, float] = {}
    if written := [candidate for candidate in candidates if not _deletes([candidate])]:
        versions = [text[start:end], *(after[candidate] for candidate in written)]
        first, *others = await context.score(name, round_, [" " + left + v + right for v in versions])
        gains = {c: score.total - first.total for c, score in zip(written, others, strict=True)}
    for candidate in candidates:
        if candidate not in gains:
            gains[candidate] = await _off_topic(context, name, round_, candidate.edit.before(text))
    verdicts = [_Verdict(candidate, after[candidate], gains[candidate]) for candidate in candidates]
    verdicts.sort(key=lambda v: (-v.margin, v.candidate.edit.after))
    settings = context.config.sms.adjudicate
    if settings.judge == "meaning" and verdicts[0].margin > settings.accept_margin:
        wordings = (left + text[start:end] + right, left + verdicts[0].span + right)
        verdicts[0] = replace(verdicts[0], meaning=await _meaning(context, name, round_, *wordings))
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


async def _meaning(context: AgentContext, name: str, round_: int, before: str, after: str) -> float:
    """How sure the model is that the meaning is unchanged: p(yes) against p(no) as the answer to the prompt."""
    prompt = context.prompts[context.config.roles[name].prompt or name]
    messages = prompt.render(original=before, candidate=after)
    fixed = len(list(takewhile(lambda message: message.fixed, messages[:-1])))
    head, asked = ("\n\n".join(m.content for m in part) for part in (messages[:fixed], messages[fixed:]))
    answers = [f"\n\n{asked}\nAnswer: {word}" for word in ("yes", "no")]
    yes, no = await context.score(name, round_, answers, context=head or "\n")
    return round(_probability(yes.total - no.total), 4)


def _winner(verdicts: Sequence[_Verdict], settings: AdjudicateConfig) -> _Verdict | None:
    if not verdicts or verdicts[0].margin <= settings.accept_margin or _rivals(verdicts, settings):
        return None
    return None if _changes_meaning(verdicts[0], settings) else verdicts[0]


def _changes_meaning(verdict: _Verdict, settings: AdjudicateConfig) -> bool:
    return verdict.meaning is not None and verdict.meaning < settings.min_meaning


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
    after = verdict.span.lower()
    return [after[span.start : span.end] for span in protected_spans(after)]


def _look_alikes(context: AgentContext, name: str, round_: int, text: str, decision: _Decision) -> list[str]:
    """Flag a clinical word whose clinical sound-alike is not clearly worse: nobody can tell which one was said."""
    flags: list[str] = []
    for verdict in decision.assessed:
        edit = verdict.candidate.edit
        before = edit.before(text)
        if verdict is decision.winner or edit.kind != "asr" or verdict.gain <= -verdict.candidate.cost:
            continue
        if is_clinical(before.lower()) and clinical_pair(before.lower(), edit.after.lower()):
            flag = f"look_alike:{before}/{edit.after}"
            flags.append(flag)
            detail = f"{edit.after!r} sounds alike and fits {verdict.gain:+.1f} nats; left for a person"
            context.emit(Flagged(agent=name, round=round_, flag=flag, detail=detail))
    return flags


def _probability(nats: float) -> float:
    return 1 / (1 + math.exp(-max(min(nats, 50.0), -50.0)))


def _report(context: AgentContext, name: str, round_: int, text: str, decision: _Decision) -> None:
    settings, winner = context.config.sms.adjudicate, decision.winner
    for verdict in decision.assessed:
        if verdict is winner:
            word = "accepted"
        elif verdict.margin <= settings.accept_margin or _changes_meaning(verdict, settings):
            word = "rejected"
        else:
            word = "outranked" if winner is not None or verdict in decision.beaten else "ambiguous"
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
