"""The vocabulary behind the lexicon channels: which words exist, how common they are, and what looks or sounds alike.

Its words are gathered from the sources in ``imc_agents.text.sources``. It is built once into the cache as one
.npz file and then opens in a fraction of a second.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from imc_agents.errors import ConfigError
from imc_agents.text.shapes import letter_bits, skeleton_hash
from imc_agents.text.sources import DICTIONARY, WEB, gather, sources_digest

__all__ = ["DICTIONARY", "WEB", "Lexicon", "load_lexicon"]

_PREFIXES = """
    anti bi brachy cardio cerebro contra costo cranio dys endo epi extra hemi hepato hyper hypo infra inter intra iso
    juxta macro mediastino mega micro mid multi myelo neuro non osteo para per peri pleuro pneumo poly post pre pseudo
    pulmono quadri radio retro semi sub super supra tachy trans tri ultra uni vaso ventriculo
""".split()  # noqa: SIM905
_STEM_LETTERS = 5
_COMMON_STEM = 3.3
_REMEMBERED = 2048

_Key = TypeVar("_Key")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, eq=False)
class Lexicon:
    """The vocabulary as arrays over its words, sorted by word.

    Attributes:
        words: The words in lower case.
        zipf: Zipf frequency in general English, float32 [N]; 0 where wordfreq does not know the word.
        domain: Zipf frequency in the prose of the medical sources, float32 [N]; 0 where they lack the word.
        tier: ``DICTIONARY`` or ``WEB``, uint8 [N].
        medical: Whether it is a word of medicine: a medical source holds it, and it is rare or ten times rarer in
            general English, bool [N].
        letters: Set of letters as bits, uint32 [N].
        lengths: Characters, uint8 [N].
        skeletons: Hash of the OCR skeleton, uint32 [N].
        index: Position of each word.
        digest: Identifies the content.

    Answers about a word are remembered: questions share most of their words.
    """

    words: list[str]
    zipf: npt.NDArray[np.float32]
    domain: npt.NDArray[np.float32]
    tier: npt.NDArray[np.uint8]
    medical: npt.NDArray[np.bool_]
    letters: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.uint8]
    skeletons: npt.NDArray[np.uint32]
    index: Mapping[str, int]
    digest: str
    _known: dict[str, bool] = field(default_factory=dict[str, bool], init=False, repr=False)
    _near: dict[tuple[str, int], list[tuple[str, int]]] = field(
        default_factory=dict[tuple[str, int], list[tuple[str, int]]], init=False, repr=False
    )
    _shapes: dict[int, list[str]] = field(default_factory=dict[int, list[str]], init=False, repr=False)
    _best_near: dict[str, float] = field(default_factory=dict[str, float], init=False, repr=False)
    _best_shape: dict[str, float] = field(default_factory=dict[str, float], init=False, repr=False)

    def is_known(self, word: str) -> bool:
        """Whether the word (any case) is a dictionary word, or a known prefix with one (``subdiaphragmatic``)."""
        return _remembered(self._known, word.lower(), self._is_known)

    def is_seen(self, word: str) -> bool:
        """Whether the word occurs at all, be it only on the web."""
        return word.lower() in self.index

    def frequency(self, word: str) -> float:
        """Zipf frequency of the word (any case), 0 where unknown."""
        at = self.index.get(word.lower())
        return float(self.zipf[at]) if at is not None else 0.0

    def domain_frequency(self, word: str) -> float:
        """Zipf frequency of the word (any case) in medical prose, 0 where it does not occur."""
        at = self.index.get(word.lower())
        return float(self.domain[at]) if at is not None else 0.0

    def is_medical(self, word: str) -> bool:
        """Whether it is a word of medicine (any case)."""
        at = self.index.get(word.lower())
        return at is not None and bool(self.medical[at])

    def near(self, word: str, distance: int) -> list[tuple[str, int]]:
        """Vocabulary words within a Damerau-Levenshtein (OSA) distance, without the word itself; sorted by word."""
        return _remembered(self._near, (word.lower(), distance), self._find_near)

    def same_shape(self, word: str) -> list[str]:
        """Vocabulary words that optical character recognition may have read as this one; sorted by word."""
        lower = word.lower()
        return [
            other
            for other in _remembered(self._shapes, skeleton_hash(word), self._find_shape)
            if other != lower
        ]

    def best_near(self, word: str) -> float:
        """Frequency, general or medical, of the commonest word one slip away; ``-inf`` where there is none."""
        return _remembered(self._best_near, word.lower(), self._find_best_near)

    def best_same_shape(self, word: str) -> float:
        """Frequency, general or medical, of the commonest word of the same shape; ``-inf`` where there is none."""
        return _remembered(
            self._best_shape, word.lower(), lambda lower: self._commonest(self.same_shape(lower))
        )

    def _find_best_near(self, lower: str) -> float:
        return self._commonest(other for other, _ in self.near(lower, 1) if len(other) > 1)

    def _commonest(self, words: Iterable[str]) -> float:
        return max(
            (max(self.frequency(word), self.domain_frequency(word)) for word in words), default=-math.inf
        )

    def _is_known(self, lower: str) -> bool:
        at = self.index.get(lower)
        if at is not None and self.tier[at] == DICTIONARY:
            return True
        return self._is_compound(lower) or self._is_possessive(lower)

    def _find_near(self, wanted: tuple[str, int]) -> list[tuple[str, int]]:
        from rapidfuzz.distance import OSA
        from rapidfuzz.process import cdist

        lower, distance = wanted
        # An edit that changes the length changes one of the letters that a word has, any other at most two.
        differing = np.bitwise_count(self.letters ^ np.uint32(letter_bits(lower)))
        off = np.abs(self.lengths.astype(np.int16) - len(lower))
        places: list[int] = np.flatnonzero((off <= distance) & (differing + off <= 2 * distance)).tolist()
        if not places:
            return []
        others = [self.words[i] for i in places]
        distances = cdist([lower], others, scorer=OSA.distance, score_cutoff=distance)[0]
        hits = np.flatnonzero((distances > 0) & (distances <= distance)).tolist()
        return [(others[i], int(distances[i])) for i in hits]

    def _find_shape(self, skeleton: int) -> list[str]:
        return [self.words[i] for i in np.flatnonzero(self.skeletons == np.uint32(skeleton)).tolist()]

    def _is_compound(self, lower: str) -> bool:
        for prefix in _PREFIXES:
            stem = lower[len(prefix) :].removeprefix("-")
            stems = (stem, stem[:-1]) if stem.endswith("s") else (stem,)
            if lower.startswith(prefix) and len(stem) >= _STEM_LETTERS and any(map(self._is_stem, stems)):
                return True
        return False

    def _is_stem(self, stem: str) -> bool:
        at = self.index.get(stem)
        if at is None or self.tier[at] != DICTIONARY:
            return False
        return bool(self.medical[at]) or max(self.zipf[at], self.domain[at]) >= _COMMON_STEM

    def _is_possessive(self, lower: str) -> bool:
        stem, mark, rest = lower.replace("\u2019", "'").partition("'")
        at = self.index.get(stem) if mark and rest in ("s", "") else None
        return at is not None and self.tier[at] == DICTIONARY


def _remembered(answers: dict[_Key, _Answer], key: _Key, find: Callable[[_Key], _Answer]) -> _Answer:
    if key not in answers:
        if len(answers) >= _REMEMBERED:
            answers.clear()
        answers[key] = find(key)
    return answers[key]


def load_lexicon(min_zipf: float, extra_lists: tuple[str, ...], cache: Path) -> Lexicon:
    """Open the vocabulary from the cache folder, building it there the first time.

    Raises:
        ConfigError: a source is missing, or the cache cannot be written.
    """
    digest = sources_digest(min_zipf, extra_lists)
    path = cache / f"lexicon-{digest}.npz"
    if not path.is_file():
        arrays = gather(min_zipf, extra_lists)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            handle, work = tempfile.mkstemp(prefix=".lexicon-", suffix=".npz", dir=cache)
            try:
                with os.fdopen(handle, "wb") as stream:
                    np.savez(stream, allow_pickle=False, **arrays)
                Path(work).replace(path)
            finally:
                Path(work).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot write the vocabulary to {cache}: {error.strerror}; set IMC_CACHE to a writable folder"
            ) from error
    with np.load(path, allow_pickle=False) as stored:
        words = stored["words"].tobytes().decode().split("\n")
        return Lexicon(
            words,
            stored["zipf"],
            stored["domain"],
            stored["tier"],
            stored["medical"],
            stored["letters"],
            stored["lengths"],
            stored["skeletons"],
            {word: place for place, word in enumerate(words)},
            digest,
        )
