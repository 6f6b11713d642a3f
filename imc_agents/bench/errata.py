"""Slips that the published questions themselves contain, so that "clean" and "restored" mean what they say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from imc_agents.noise.text.asr import like_case

__all__ = ["Errata", "errata"]


@dataclass(frozen=True, slots=True)
class Errata:
    """The known slips of one data set.

    Attributes:
        words: Misspelled -> meant, in small letters.
        patterns: Slips in layout and doubled words.
    """

    words: dict[str, str]
    patterns: tuple[re.Pattern[str], ...]

    def holds(self, text: str) -> bool:
        """Whether the text holds a known slip."""
        return self._mend_words(text) != text or any(pattern.search(text) for pattern in self.patterns)

    def mend(self, text: str) -> str:
        """Return the text with known misspellings mended, doubled words made one and white space evened out."""
        single = re.sub(r"\b(\w+)(?:\s+\1\b)+", r"\1", self._mend_words(text), flags=re.IGNORECASE)
        return re.sub(r"\s+(?=[?.,])", "", " ".join(single.split()))

    def _mend_words(self, text: str) -> str:
        if not self.words:
            return text
        return _pattern(tuple(self.words)).sub(
            lambda match: like_case(self.words[" ".join(match.group().lower().split())], match.group()), text
        )


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    alternatives = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in words)
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)


@cache
def errata(dataset: str) -> Errata:
    """Return the errata of a data set; none are known for most."""
    import yaml

    table = yaml.safe_load((files("imc_agents.bench") / "errata.yaml").read_text(encoding="utf-8"))
    patterns = tuple(re.compile(pattern, re.IGNORECASE) for pattern in table["patterns"])
    return Errata(dict(table["words"].get(dataset, {})), patterns)
