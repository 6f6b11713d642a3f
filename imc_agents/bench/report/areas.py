"""The area under the ROC curve of every cell, each class against the rest, and what resampling the samples makes of it.

An area is the rank statistic with ties counted half (Hanley & McNeil 1982), here under weights: the share of pairs of a
sample of the class and one of the rest in which the former is likelier of the class, a pair counted as often as both
were drawn. Of several classes it is the unweighted mean; of two with chances that add up to one, the area of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from imc_agents.bench.report.bootstrap import divided, draws

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["AREA_RESAMPLES", "area_gaps", "areas"]

AREA_RESAMPLES = 2_000


def areas(
    chances: Array,
    classes: NDArray[np.intp],
    wanted: Sequence[tuple[int, NDArray[np.bool_]]] | None = None,
    *,
    seed: int = 0,
    resamples: int = AREA_RESAMPLES,
) -> Array:
    """Return the areas of cells, of the samples as they are and in each resample of them.

    Args:
        chances: [samples, cells, classes], how likely each class is; NaN where that is not known.
        classes: [samples], the class of each.
        wanted: Cells, and the samples [samples] to which each is restricted; default every cell on what is known.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Returns:
        [1 + resamples, wanted]; NaN where a class, or the rest, was not drawn.
    """
    import numpy as np

    if wanted is None:
        wanted = [(cell, known) for cell, known in enumerate(_known(chances).T)]
    found: list[Array] = []
    for weights in chain([np.ones((1, len(classes)))], draws(len(classes), seed, resamples)):
        # A sample's draws stand side by side in memory, since samples are what is picked and put in order.
        counts = np.ascontiguousarray(weights.T)
        block = np.empty((len(weights), len(wanted)))
        for at, (cell, rows) in enumerate(wanted):
            inside = counts if rows.all() else counts[rows]
            each = [
                _area(inside, chances[rows, cell, one], classes[rows] == one)
                for one in range(chances.shape[2])
            ]
            block[:, at] = np.mean(each, axis=0)
        found.append(block)
    return np.concatenate(found)


def area_gaps(
    chances: Array, classes: NDArray[np.intp], figures: Array, pairs: Sequence[tuple[int, int] | None]
) -> Array:
    """Return the area of one cell minus that of another, of the samples known in both.

    Args:
        chances: As for ``areas``.
        classes: As for ``areas``.
        figures: What ``areas`` returns for every cell.
        pairs: The two cells; None for a pair that does not exist, which has NaN.

    Returns:
        [1 + resamples, pairs].
    """
    import numpy as np

    known = _known(chances)
    # Of cells that know the same samples, which is the rule, the areas are there already.
    places: dict[tuple[int, bytes], int] = {
        (cell, known[:, cell].tobytes()): cell for cell in range(known.shape[1])
    }
    missing: list[tuple[int, NDArray[np.bool_]]] = []
    columns: dict[int, tuple[int, int]] = {}
    for at, pair in enumerate(pairs):
        if pair is None:
            continue
        both = known[:, pair[0]] & known[:, pair[1]]
        for cell in pair:
            if (cell, both.tobytes()) not in places:
                places[cell, both.tobytes()] = known.shape[1] + len(missing)
                missing.append((cell, both))
        columns[at] = places[pair[0], both.tobytes()], places[pair[1], both.tobytes()]
    if missing:
        figures = np.hstack([figures, areas(chances, classes, missing, resamples=len(figures) - 1)])
    gaps = np.full((len(figures), len(pairs)), np.nan)
    for at, (one, other) in columns.items():
        gaps[:, at] = figures[:, one] - figures[:, other]
    return gaps


def _known(chances: Array) -> NDArray[np.bool_]:
    import numpy as np

    return np.asarray(~np.isnan(chances).any(axis=2))


def _area(counts: Array, likely: Array, hits: NDArray[np.bool_]) -> Array:
    """The area of one class against the rest.

    Args:
        counts: How often each sample was drawn, [samples, resamples].
        likely: How likely each sample is of the class, [samples].
        hits: Whether it is, [samples].

    Returns:
        [resamples]; NaN where one of the two was not drawn.
    """
    import numpy as np

    own, rest = np.flatnonzero(hits), np.flatnonzero(~hits)
    rest = rest[np.argsort(likely[rest], kind="stable")]
    below = np.zeros((len(rest) + 1, counts.shape[1]))
    np.cumsum(counts[rest], axis=0, out=below[1:])
    under, upto = (np.searchsorted(likely[rest], likely[own], side) for side in ("left", "right"))
    drawn = counts[own]
    won = np.einsum("sr,sr->r", drawn, below[under] + below[upto])
    return divided(won, 2 * drawn.sum(axis=0) * below[-1])
