"""What adjudication weighs: the proposed edits grouped into spans, each priced by what its slip costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imc_agents.agents.context import AgentContext
from imc_agents.agents.propose import role_config
from imc_agents.text.channels import plausibility, word_spans
from imc_agents.text.edits import Edit
from imc_agents.text.lexicon import Lexicon

__all__ = ["Candidate", "spans"]

_MOST_PER_SPAN = 10
_BETWEEN_WORDS = ("asr", "casing")  # slips that turn words into words: their slip cost has that priced in
_UNKNOWN_ZIPF = 4.0  # what the domain frequency of a repair is measured against where the original is no word


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edit and the nats that its slip costs."""

    edit: Edit
    cost: float


def spans(context: AgentContext, text: str, edits: Sequence[Edit], *, noisy: bool) -> list[list[Candidate]]:
    """Group overlapping edits into spans, price them, and keep the most plausible of each span."""
    groups: list[list[Edit]] = []
    for edit in sorted(edits, key=lambda e: (e.start, e.end, e.after, e.role)):
        if groups and any(edit.overlaps(other) for other in groups[-1]):
            groups[-1].append(edit)
        else:
            groups.append([edit])
    found: list[list[Candidate]] = []
    for group in groups:
        best: dict[tuple[int, int, str], Candidate] = {}
        for edit in group:
            candidate = Candidate(edit, _cost(context, text, edit, noisy=noisy))
            known = best.get((edit.start, edit.end, edit.after))
            if known is None or candidate.cost < known.cost:
                best[(edit.start, edit.end, edit.after)] = candidate
        ranked = sorted(
            best.values(),
            key=lambda c: (c.cost - _prior(c.edit.after, context.lexicon), c.edit.start, c.edit.after),
        )
        found.append(ranked[:_MOST_PER_SPAN])
    return found


def _prior(after: str, lexicon: Lexicon) -> float:
    return min((plausibility(word.lower(), 0.0, lexicon) for word in after.split()), default=0.0)


def _cost(context: AgentContext, text: str, edit: Edit, *, noisy: bool) -> float:
    settings, lexicon = context.config.sms.adjudicate, context.lexicon
    cost = role_config(context, edit.role).slip_cost * edit.slips
    before, after = edit.before(text), edit.after
    if not after.strip() or edit.kind == "shorthand":
        return cost
    known = all(lexicon.is_known(before[a:b]) for a, b in word_spans(before))
    if known and edit.kind not in _BETWEEN_WORDS:
        discount = context.config.sms.perceive.noisy_discount_nats if noisy else 0.0
        cost += max(settings.known_word_cost - discount, 0.0)
    reference = _domain(before, lexicon) if known else _UNKNOWN_ZIPF
    return cost - settings.domain_weight * (_domain(after, lexicon) - reference)


def _domain(text: str, lexicon: Lexicon) -> float:
    return min((lexicon.domain_frequency(text[a:b]) for a, b in word_spans(text)), default=0.0)
