"""Measures of restored text and their uncertainty: word errors, proportions, paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from imc_agents.text.edits import split_words

__all__ = ["Interval", "Paired", "WordErrors", "bootstrap_ratio", "paired", "wilson", "word_errors"]

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Words that must be replaced, inserted or deleted, beside the number of words of the reference."""

    errors: int
    words: int

    @property
    def rate(self) -> float:
        """Word error rate; 0 for two empty texts, infinite where only the reference is empty."""
        if self.words == 0:
            return math.inf if self.errors else 0.0
        return self.errors / self.words


@dataclass(frozen=True, slots=True)
class Paired:
    """Two methods on the same questions: who got which right.

    Attributes:
        both: Right by both.
        first: Right by the first only.
        second: Right by the second only.
        neither: Right by none.
    """

    both: int
    first: int
    second: int
    neither: int

    @property
    def total(self) -> int:
        """Number of questions."""
        return self.both + self.first + self.second + self.neither

    @property
    def difference(self) -> float:
        """Share right of the first minus that of the second; 0 where there are no questions."""
        return (self.first - self.second) / self.total if self.total else 0.0

    @property
    def p_value(self) -> float:
        """Two-sided exact McNemar test: the binomial test of first against second with probability one half."""
        discordant = self.first + self.second
        if discordant == 0:
            return 1.0
        tail = sum(math.comb(discordant, k) for k in range(min(self.first, self.second) + 1))
        return min(1.0, 2 * tail / 2**discordant)


def word_errors(reference: str, text: str) -> WordErrors:
    """Count word errors by edit distance on words; case counts, white space and punctuation marks do not.

    White space is no token, so ``in the`` against ``inthe`` is two errors (one substitution, one deletion).
    """
    from rapidfuzz.distance import Levenshtein

    expected, found = _tokens(reference), _tokens(text)
    return WordErrors(Levenshtein.distance(expected, found), len(expected))


def wilson(successes: int, total: int) -> Interval:
    """Return the Wilson score interval of a proportion (Wilson 1927); (0, 1) where nothing was counted.

    Raises:
        ValueError: if the counts cannot be.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} successes of {total} cannot be")
    if total == 0:
        return Interval(0.0, 1.0)
    share, square = successes / total, _Z95**2
    middle = share + square / (2 * total)
    spread = _Z95 * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    scale = 1 + square / total
    # At the edges the bounds are exact; rounding must not say otherwise.
    low = 0.0 if successes == 0 else (middle - spread) / scale
    return Interval(low, 1.0 if successes == total else (middle + spread) / scale)


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0, resamples: int = 2000
) -> Interval:
    """Return the percentile bootstrap interval of sum(numerators) / sum(denominators) over samples.

    Word error rates are such ratios: errors and words of each question. Returns (0, 0) for no samples.

    Args:
        numerators: One per sample.
        denominators: One per sample, in the same order; their sum must be positive.
        seed: Seed of the resampling.
        resamples: Number of resamples.
    """
    import numpy as np

    if not numerators:
        return Interval(0.0, 0.0)
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(seed))
    ratios = np.empty(resamples)
    for index in range(resamples):
        chosen = (generator.random(len(above)) * len(above)).astype(np.int64)
        ratios[index] = above[chosen].sum() / max(below[chosen].sum(), 1e-12)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(low), float(high))


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Count who got which question right.

    Raises:
        ValueError: if the two are not about the same number of questions.
    """
    both = only_first = only_second = 0
    for one, other in zip(first, second, strict=True):
        both += one and other
        only_first += one and not other
        only_second += other and not one
    return Paired(both, only_first, only_second, len(first) - both - only_first - only_second)


def _tokens(text: str) -> list[str]:
    pieces = (text[start:end] for start, end in split_words(text))
    return [piece for piece in pieces if piece[0].isalnum() or piece[0] == "_"]
