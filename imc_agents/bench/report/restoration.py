"""How well methods restored noisy questions, and whether they left clean ones alone, whatever was answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from imc_agents.bench.outcomes import CLEAN, NOT_SCORED, Outcome
from imc_agents.bench.report.bootstrap import bootstrap_sums, divided, percentiles
from imc_agents.bench.report.scores import methods_of, noises_of
from imc_agents.refinement import Status
from imc_agents.text.metrics import Interval, WordErrors, word_errors

__all__ = ["Restoration", "Restored", "restorations"]

_NO_TEXT = frozenset[Status]((*NOT_SCORED, "model_error"))
_SUMS = ("texts", "exact", "words", "errors", "before")


@dataclass(frozen=True, slots=True)
class Restored:
    """One method under one text noise, over its severities; or on clean questions.

    Attributes:
        texts: Questions that the noise altered, or clean ones; each severity counts.
        exact: Share that is as published, byte for byte.
        exact_interval: 95 % bootstrap interval over samples.
        word_error_rate: Word errors against the published question per word of it.
        word_error_rate_interval: 95 % bootstrap interval over samples.
        word_error_rate_before: Of the questions as the method got them.
    """

    texts: int
    exact: float
    exact_interval: Interval | None
    word_error_rate: float
    word_error_rate_interval: Interval | None
    word_error_rate_before: float


@dataclass(frozen=True, slots=True)
class Restoration:
    """All methods that touch texts, of one model on one data set.

    Attributes:
        model: The model.
        dataset: The data set.
        noises: Text noises, and ``clean``.
        rows: By method and noise; without those that altered nothing.
    """

    model: str
    dataset: str
    noises: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Restored]]


def restorations(parts: Mapping[tuple[str, str], Sequence[Outcome]]) -> Iterator[Restoration]:
    """Measure what became of the texts, for each model and data set that has text noises and texts to measure.

    Rows that failed are left out, also those with an unusable reply: no refined text is kept of them. Methods that
    leave every text as it came are left out too, but for the first, which shows what the noise did.
    """
    for (model, dataset), outcomes in parts.items():
        noises = [noise.name for noise in noises_of(outcomes) if noise.modality == "text"]
        if not noises:
            continue
        chosen = [
            outcome
            for outcome in outcomes
            if outcome.noise in (*noises, CLEAN) and outcome.status not in _NO_TEXT
        ]
        if not chosen:
            continue
        methods = [
            method
            for at, method in enumerate(methods_of(chosen))
            if not at or any(o.refined != o.noisy for o in chosen if o.method == method)
        ]
        cells = [(method, noise) for method in methods for noise in (*noises, CLEAN)]
        rows: dict[str, dict[str, Restored]] = {method: {} for method in methods}
        for (method, noise), found in zip(cells, _measured(chosen, cells), strict=True):
            if found is not None:
                rows[method][noise] = found
        yield Restoration(model, dataset, (*noises, CLEAN), rows)


def _measured(outcomes: Sequence[Outcome], cells: Sequence[tuple[str, str]]) -> Iterator[Restored | None]:
    """Measure each cell of method and noise; None where nothing was altered.

    Texts are summed up by sample first, since severities of one question are not independent.
    """
    import numpy as np

    # Sorted, so that intervals do not depend on the order of the outcomes.
    samples = {sample: at for at, sample in enumerate(sorted({outcome.sample for outcome in outcomes}))}
    columns = {cell: at for at, cell in enumerate(cells)}
    sums = np.zeros((len(_SUMS), len(samples), len(cells)))
    for outcome in outcomes:
        column = columns.get((outcome.method, outcome.noise))
        if column is None or (outcome.noise != CLEAN and outcome.noisy == outcome.question):
            continue
        after = _word_errors(outcome.question, outcome.refined)
        before = _word_errors(outcome.question, outcome.noisy)
        counts = (1, outcome.refined == outcome.question, after.words, after.errors, before.errors)
        sums[:, samples[outcome.sample], column] += counts
    totals = sums.sum(axis=1)
    drawn = dict(zip(_SUMS, np.hsplit(bootstrap_sums(np.hstack(list(sums))), len(_SUMS)), strict=True))
    exact, errors = divided(drawn["exact"], drawn["texts"]), divided(drawn["errors"], drawn["words"])
    for column in range(len(cells)):
        found = dict(zip(_SUMS, totals[:, column].tolist(), strict=True))
        if not found["texts"]:
            yield None
            continue
        words = max(1.0, found["words"])
        yield Restored(
            texts=int(found["texts"]),
            exact=found["exact"] / found["texts"],
            exact_interval=percentiles(exact[:, column]),
            word_error_rate=found["errors"] / words,
            word_error_rate_interval=percentiles(errors[:, column]),
            word_error_rate_before=found["before"] / words,
        )


@lru_cache(maxsize=65536)
def _word_errors(reference: str, text: str) -> WordErrors:
    return word_errors(reference, text)
