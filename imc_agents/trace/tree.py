"""One question's trace as a tree: who was instantiated and why, what they proposed, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from imc_agents.trace.calibration import calibration_line
from imc_agents.trace.calls import CallViews
from imc_agents.trace.diff import word_diff
from imc_agents.trace.events import (
    Critiqued,
    Event,
    Flagged,
    Merged,
    Perceived,
    SuspiciousSpan,
)
from imc_agents.trace.look import LINE_CHARS, Look, bar, inert, number, shorten
from imc_agents.trace.marks import FATE_MARKS, FLAG_STYLE, STATUS_STYLES, cost_columns, cost_parts, counted
from imc_agents.trace.proposals import Proposals, veto_line
from imc_agents.trace.rounds import Cost, Round, Specialist, group_rounds
from imc_agents.trace.sample import Sample

__all__ = ["sample_tree"]

_MAX_WIDTH = 132
_MAX_SPANS = 10
_BAR_CELLS = 10
_QUESTION_CHARS = 1200
_INSTRUCTIONS_CHARS = 4000


def sample_tree(record: Sample, events: Iterable[Event], *, prompts: bool = False) -> RenderableType:
    """Return the trace of one question as a tree by round.

    It adapts to the console: colours or ``[-x-]{+y+}`` marks, box characters or ASCII, any width from about 60.

    Args:
        record: The sample.
        events: Its events.
        prompts: Show each call's prompt and reply under its agent.
    """
    return _SampleTree(record, group_rounds(events), prompts)


@dataclass(frozen=True)
class _SampleTree:
    record: Sample
    rounds: list[Round]
    prompts: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        look = Look.of(console, options)
        parts: list[RenderableType] = [_header(self.record, look), ""]
        calls = CallViews(look) if self.prompts else None
        for found in self.rounds:
            parts += [_RoundTree(found, look, calls).tree(), ""]
        parts.append(_outcome(self.record, self.rounds, look))
        yield from console.render(Group(*parts), options.update(width=min(options.max_width, _MAX_WIDTH)))


def _header(record: Sample, look: Look) -> RenderableType:
    title = Text.assemble(
        (shorten(record.id, look, 60), "bold"), (f"{look.dot}row {record.row_index + 1:,}", "dim")
    )
    rule = Rule(title, align="left", style="dim", characters=look.pick("─", "-"))
    return Group(rule, Text(shorten(record.refinement.original, look, _QUESTION_CHARS), overflow="fold"))


def _outcome(record: Sample, rounds: Sequence[Round], look: Look) -> RenderableType:
    outcome = record.refinement
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    status = (outcome.status, f"bold {STATUS_STYLES[outcome.status]}")
    confidence = f"{look.dot}confidence {outcome.confidence:.2f} "
    style = "green" if outcome.confidence >= 0.5 else "yellow"
    lines.add_row(
        "outcome", Text.assemble(status, confidence, bar(outcome.confidence, _BAR_CELLS, look, style))
    )
    if outcome.changed:
        lines.add_row("refined", Text(shorten(outcome.refined, look, _QUESTION_CHARS), "bold"))
        merged = [event for found in rounds for event in found.merged if event.before != event.after]
        if [(event.before, event.after) for event in merged] != [(outcome.original, outcome.refined)]:
            lines.add_row("changes", word_diff(outcome.original, outcome.refined, look))
    else:
        lines.add_row("refined", Text("the original, byte for byte", "dim"))
    for flag, detail in _flags(record, rounds).items():
        note = f"  {shorten(detail, look, LINE_CHARS)}" if detail else ""
        lines.add_row("flag", Text.assemble((shorten(flag, look, 80), FLAG_STYLE), note))
    if outcome.error:
        lines.add_row("error", Text(shorten(outcome.error, look, LINE_CHARS), "red"))
    for found in rounds:
        for event in found.calibrated:
            lines.add_row("image", calibration_line(event, look))
        for answered in found.answered:
            name = "answer" if answered.way == "full" else f"answer ({answered.way})"
            lines.add_row(name, Text(shorten(answered.answer, look, LINE_CHARS), "bold"))
    cost = Cost(outcome.calls, outcome.prompt_tokens, outcome.completion_tokens, outcome.milliseconds)
    lines.add_row("cost", Text(", ".join([counted(outcome.rounds, "round"), *cost_parts(cost)])))
    if not any(found.assessed or any(event.spans for event in found.perceived) for found in rounds):
        return lines
    return Group(
        lines, Padding(Text("gain, slip cost, margin and surprisal in nats", "dim italic"), (1, 0, 0, 0))
    )


def _flags(record: Sample, rounds: Sequence[Round]) -> dict[str, str]:
    flagged: list[Flagged] = [event for found in rounds for event in found.flagged]
    return dict.fromkeys(record.refinement.flags, "") | {event.flag: event.detail for event in flagged}


@dataclass
class _RoundTree:
    """Draws one round; each agent's calls are drawn where the agent appears first."""

    found: Round
    look: Look
    call_views: CallViews | None
    drawn: set[str] = field(default_factory=set[str])

    def tree(self) -> Tree:
        found = self.found
        tree = Tree(Text(f"round {found.number}", "bold"), guide_style="dim")
        for event in found.perceived[:1]:
            tree.add(self._perceived(event))
        if found.specialists:
            self._specialists(tree)
        if found.assessed:
            says = Text(f"assesses {counted(len(found.assessed), 'edit')}")
            tree.add(self._agent(found.assessed[0].agent, says, more=self._tally()))
        if found.vetoed:
            tree.add(self._guard())
        for event in found.merged:
            tree.add(self._merged(event))
        for event in found.perceived[1:]:
            tree.add(self._perceived(event))
        for event in found.critiqued:
            tree.add(self._critiqued(event))
        for agent in found.calls:
            if agent not in self.drawn:
                tree.add(self._agent(agent, Text()))
        return tree

    def _agent(
        self,
        agent: str,
        says: Text,
        *details: RenderableType,
        more: Text | None = None,
        style: str = "bold cyan",
    ) -> RenderableType:
        """An agent's line with its cost at the right, the details below, and its calls if asked for."""
        calls = [] if agent in self.drawn else self.found.calls.get(agent, [])
        self.drawn.add(agent)
        name = Text.assemble((shorten(agent, self.look, 40), style), "  ", says)
        cost = Text(cost_columns(self.found.cost(agent)) if calls else "", "dim")
        shown: list[RenderableType] = [_AgentLine(name, more, cost, self.look)]
        for call in calls:
            if call.error:
                failed = (
                    f"{self.look.pick('✗', 'x')} call failed: {shorten(call.error, self.look, LINE_CHARS)}"
                )
                shown.append(Text(failed, "red"))
        shown += details
        if self.call_views:
            shown += [self.call_views.view(call, at, len(calls)) for at, call in enumerate(calls, 1)]
        return Group(*shown)

    def _perceived(self, event: Perceived) -> RenderableType:
        look = self.look
        if event.clean:
            says = Text(f"{look.pick('✓', '+')} clean: left alone", "green")
        elif flags := [inert(other.flag, look) for other in self.found.flagged if other.agent == event.agent]:
            says = Text(f"not judged: {', '.join(flags)}", FLAG_STYLE)
        else:
            noise = sorted(event.noise.items(), key=lambda item: -item[1])
            says = Text("noisy: ")
            says.append(
                ", ".join(f"{inert(kind, look)} {share:.2f}" for kind, share in noise) or "kind unknown"
            )
        more = Text()
        if event.severity:
            full, empty = look.pick("●", "*"), look.pick("○", ".")
            dots = full * min(event.severity, 5) + empty * max(0, 5 - event.severity)
            more.append("severity ", "dim").append(dots, "yellow").append(f" {event.severity}/5", "dim")
            more.append(look.dot if event.mean_surprisal else "", "dim")
        if event.mean_surprisal:
            more.append(f"mean surprisal {number(event.mean_surprisal)}", "dim")
        return self._agent(
            event.agent, says, *([_spans(event.spans, look)] if event.spans else []), more=more
        )

    def _specialists(self, tree: Tree) -> None:
        look, specialists = self.look, self.found.specialists
        known = [specialist.instantiated for specialist in specialists if specialist.instantiated]
        generated = sum(event.source == "generated" for event in known)
        says = Text(f"instantiates {counted(len(known), 'specialist')}")
        says.append(f", {generated} generated" if generated else "")
        branch = tree.add(self._agent(known[0].agent, says)) if known else tree
        for specialist in specialists:
            details = list(_why(specialist, look, whole=self.call_views is not None))
            proposals = sum(len(place) for place in specialist.candidates)
            says = Text(counted(proposals, "proposal") if proposals else "no proposal", "dim")
            if proposals:
                details.append(Proposals(specialist, look))
            style = "bold magenta" if specialist.instantiated else "bold magenta italic"
            branch.add(self._agent(specialist.role, says, *details, style=style))

    def _tally(self) -> Text:
        tally = Text()
        for verdict, mark in FATE_MARKS.items():
            edits = sum(event.verdict == verdict for event in self.found.assessed)
            if edits:
                tally.append("  " if tally else "").append(
                    f"{mark.of(self.look)} {edits} {verdict}", mark.style
                )
        return tally

    def _guard(self) -> RenderableType:
        vetoed = self.found.vetoed
        invariants = ", ".join(dict.fromkeys(inert(event.invariant, self.look) for event in vetoed))
        says = Text(f"{counted(len(vetoed), 'veto')}: {invariants}", "red")
        whole = [veto_line(event, self.look) for event in vetoed if event.edit is None]
        return self._agent(vetoed[0].agent, says, *whole)

    def _merged(self, event: Merged) -> RenderableType:
        says = Text(f"merges {counted(event.accepted, 'edit')}" if event.accepted else "merges nothing")
        changed = [word_diff(event.before, event.after, self.look)] if event.before != event.after else []
        return self._agent(event.agent, says, *changed)

    def _critiqued(self, event: Critiqued) -> RenderableType:
        mark = self.look.pick("↻", ">") if event.again else self.look.pick("✓", "+")
        says = Text(
            f"{mark} {'another round' if event.again else 'done'}", "yellow" if event.again else "green"
        )
        return self._agent(event.agent, says, more=Text(shorten(event.reason, self.look, LINE_CHARS)))


@dataclass(frozen=True)
class _AgentLine:
    """What an agent says at the left, more of it behind or, where that does not fit, below; the cost at the right."""

    says: Text
    more: Text | None
    cost: Text
    look: Look

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - (self.cost.cell_len + 2 if self.cost else 0)
        says, below = self.says, self.more
        if self.more and says.cell_len + self.more.cell_len + len(self.look.dot) <= room:
            says, below = says.copy().append(self.look.dot, "dim").append_text(self.more), None
        line = Table.grid(expand=True)
        line.add_column(ratio=1, overflow="fold")
        if self.cost:
            line.add_column(width=self.cost.cell_len + 2, justify="right", no_wrap=True, overflow="fold")
            line.add_row(says, self.cost)
        else:
            line.add_row(says)
        yield line
        if below:
            yield below


def _spans(spans: Sequence[SuspiciousSpan], look: Look) -> RenderableType:
    """The suspicious words in the order of the text, the most surprising ones where there are many."""
    shown = sorted(sorted(spans, key=lambda span: -span.surprisal)[:_MAX_SPANS], key=lambda span: span.start)
    highest = max(10.0, *(span.surprisal for span in spans))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(max_width=24, overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for span in shown:
        word = Text(shorten(span.text, look, 48), "yellow")
        filled = bar(span.surprisal / highest, _BAR_CELLS, look, "yellow")
        table.add_row(word, filled, number(span.surprisal), Text(shorten(span.reason, look, LINE_CHARS)))
    if len(spans) > len(shown):
        table.add_row(Text(f"+{len(spans) - len(shown)} more", "dim"), "", "", "")
    return Padding(table, (0, 0, 0, 2))


def _why(specialist: Specialist, look: Look, *, whole: bool) -> Iterable[RenderableType]:
    event = specialist.instantiated
    if event is None:
        yield Text("not instantiated on record", "dim italic")
        return
    source = (event.source, "cyan" if event.source == "generated" else "dim")
    yield Text.assemble(source, (look.dot, "dim"), shorten(event.reason, look, LINE_CHARS))
    if event.instructions:
        limit = _INSTRUCTIONS_CHARS if whole else LINE_CHARS
        yield Text.assemble(("instructions: ", "dim"), (shorten(event.instructions, look, limit), "italic"))
