"""Turns a run of the text benchmark into numbers: restoration, damage, safety and cost, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from imc_agents.bench.errata import errata
from imc_agents.bench.methods import Restored
from imc_agents.bench.text import CLEAN, Cell, CellRun, Sample, TextRun
from imc_agents.bench.text_measures import Case, Cost, Damage, LookAlikes, Restoration, Safety, Summary
from imc_agents.config.schema import Config
from imc_agents.noise.text import Slip
from imc_agents.text.edits import split_words
from imc_agents.text.metrics import bootstrap_ratio, paired, wilson, word_errors
from imc_agents.text.tables import clinical_groups

__all__ = ["Checker", "cases", "guard_checker", "summarise"]

_MEANING = ("number", "unit", "negation", "laterality", "opposite_prefix", "look_alike")
"""Names of invariants, or their beginnings, whose breaking may turn an answer around."""

Checker = Callable[[str, str], Sequence[str]]
"""Names the invariants that the second text breaks against the first."""


def guard_checker(config: Config) -> Checker:
    """Return the guard's own check with the vocabulary of a config; it names what is broken ``invariant: detail``.

    Raises:
        ConfigError: if the vocabulary cannot be loaded.
    """
    from imc_agents.models.weights import cache_directory
    from imc_agents.text.invariants import check_text
    from imc_agents.text.lexicon import load_lexicon

    lexicon = load_lexicon(config.lexicon.min_zipf, config.lexicon.extra_lists, cache_directory())

    def check(before: str, after: str) -> tuple[str, ...]:
        found = check_text(
            before,
            after,
            is_known=lexicon.is_known,
            is_medical=lexicon.is_medical,
            protected_terms=config.guard.protected_terms,
        )
        return tuple(
            f"{violation.invariant}: {violation.detail}"
            for violation in found
            if violation.invariant not in config.guard.disabled
        )

    return check


def cases(cell: Cell, samples: Sequence[Sample], run: CellRun, check: Checker) -> list[Case]:
    """Measure every question of one method on one cell."""
    return [
        _case(cell, sample, restored, check) for sample, restored in zip(samples, run.restored, strict=True)
    ]


def summarise(run: TextRun, check: Checker) -> tuple[list[Summary], dict[tuple[Cell, str], list[Case]]]:
    """Return a summary per cell and method, in the order of the plan, and the cases behind them.

    Args:
        run: The run.
        check: Names the invariants that a text breaks against another one.
    """
    measured = {
        (cell, method): cases(cell, run.plan.cells[cell], done, check)
        for (cell, method), done in run.results.items()
    }
    summaries: list[Summary] = []
    for cell in run.plan.cells:
        of_cell = {
            method: _summary(cell, method, measured[cell, method], run.results[cell, method], run.own_tokens)
            for method in run.plan.methods
        }
        summaries += [
            _with_best(summary, of_cell, {name: measured[cell, name] for name in of_cell})
            if summary.method == "imc" and cell.kind != CLEAN
            else summary
            for summary in of_cell.values()
        ]
    return summaries, measured


def _case(cell: Cell, sample: Sample, restored: Restored, check: Checker) -> Case:
    clean, slips = sample.question.text, errata(cell.dataset)
    before, after = word_errors(clean, sample.noisy), word_errors(clean, restored.text)
    exact = restored.text == clean
    by_noise = tuple(check(clean, sample.noisy)) if sample.altered else ()
    unchanged = restored.text == sample.noisy
    return Case(
        sample=sample,
        restored=restored,
        exact=exact,
        mended=not exact and slips.mend(restored.text) == slips.mend(clean),
        errors_before=before.errors,
        errors_after=after.errors,
        words=before.words,
        look_alike=_look_alike(sample, restored),
        broken_by_noise=by_noise,
        broken_against_clean=by_noise if unchanged else () if exact else tuple(check(clean, restored.text)),
        broken_against_noisy=() if unchanged else tuple(check(sample.noisy, restored.text)),
    )


def _look_alike(sample: Sample, restored: Restored) -> str | None:
    heard = [slip for slip in sample.slips if _is_clinical(slip)]
    if not heard:
        return None
    flags = " ".join(restored.flags).lower()
    if all(slip.after.lower() in flags for slip in heard):
        return "flagged"
    words = {restored.text[start:end].lower() for start, end in split_words(restored.text)}
    if all(slip.after.lower() in words for slip in heard):
        return "unchanged"
    return "restored" if all(slip.before.lower() in words for slip in heard) else "swapped"


def _is_clinical(slip: Slip) -> bool:
    return any(slip.before.lower() in group and slip.after.lower() in group for group in clinical_groups())


def _summary(
    cell: Cell, method: str, measured: Sequence[Case], done: CellRun, own_tokens: Mapping[str, float]
) -> Summary:
    count = len(measured)
    outcomes = [case.look_alike for case in measured if case.look_alike is not None]
    return Summary(
        cell=cell,
        method=method,
        questions=count,
        restoration=None if cell.kind == CLEAN else _restoration(measured),
        damage=_damage(measured) if cell.kind == CLEAN else None,
        look_alikes=LookAlikes(
            len(outcomes), *(outcomes.count(name) for name in ("flagged", "unchanged", "restored", "swapped"))
        ),
        safety=Safety(
            against_noisy=sum(bool(case.broken_against_noisy) for case in measured),
            against_clean=sum(bool(case.broken_against_clean) for case in measured),
            added=sum(bool(_added(case)) for case in measured),
            meaning=sum(any(broken.startswith(_MEANING) for broken in _added(case)) for case in measured),
            errors=sum(case.restored.error is not None for case in measured),
        ),
        cost=Cost(
            per_second=count / done.seconds if done.seconds else 0.0,
            calls=sum(case.restored.calls for case in measured) / max(count, 1),
            prompt_tokens=sum(case.restored.prompt_tokens for case in measured) / max(count, 1),
            completion_tokens=sum(case.restored.completion_tokens for case in measured) / max(count, 1),
            own_tokens=own_tokens.get(cell.dataset),
        ),
    )


def _added(case: Case) -> set[str]:
    return set(case.broken_against_clean) - set(case.broken_by_noise)


def _counted(measured: Sequence[Case]) -> list[Case]:
    return [case for case in measured if case.sample.altered and case.look_alike is None]


def _restoration(measured: Sequence[Case]) -> Restoration:
    counted = _counted(measured)
    exact = sum(case.exact for case in counted)
    words = [case.words for case in counted]
    after = [case.errors_after for case in counted]
    total = max(sum(words), 1)
    return Restoration(
        altered=len(counted),
        exact=exact,
        mended=sum(case.mended for case in counted),
        exact_share=exact / max(len(counted), 1),
        exact_interval=wilson(exact, len(counted)),
        exact_of_all=sum(case.exact for case in measured) / max(len(measured), 1),
        word_error_rate_before=sum(case.errors_before for case in counted) / total,
        word_error_rate_after=sum(after) / total,
        word_error_rate_interval=bootstrap_ratio(after, words),
    )


def _damage(measured: Sequence[Case]) -> Damage:
    sound = [case for case in measured if not case.sample.question.erratum]
    kept, sound_kept = sum(case.exact for case in measured), sum(case.exact for case in sound)
    return Damage(
        kept=kept,
        kept_share=kept / max(len(measured), 1),
        kept_interval=wilson(kept, len(measured)),
        sound=len(sound),
        sound_kept=sound_kept,
        sound_share=sound_kept / max(len(sound), 1),
        sound_interval=wilson(sound_kept, len(sound)),
    )


def _with_best(summary: Summary, of_cell: dict[str, Summary], measured: dict[str, list[Case]]) -> Summary:
    baselines = [name for name in of_cell if name != summary.method]
    if not baselines:
        return summary

    def exact(name: str) -> int:
        restoration = of_cell[name].restoration
        return restoration.exact if restoration else 0

    best = max(baselines, key=exact)
    first, second = ([case.exact for case in _counted(measured[name])] for name in (summary.method, best))
    return replace(summary, best_baseline=best, against_best=paired(first, second))
