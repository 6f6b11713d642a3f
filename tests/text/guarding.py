"""The guard over two texts, with a vocabulary of common English words and a few medical ones."""

from __future__ import annotations

from functools import cache
from typing import Any

from imc_agents.text.invariants import check_text

MEDICAL = {
    "hyperdense",
    "hypodense",
    "costophrenic",
    "atelectasis",
    "gyriform",
    "azygoesophageal",
    "chilaiditi",
}


@cache
def vocabulary() -> frozenset[str]:
    from wordfreq import get_frequency_dict

    common = get_frequency_dict("en", wordlist="large")
    return frozenset(word for word, share in common.items() if share >= 10 ** (1.5 - 9)) | MEDICAL


def known(word: str) -> bool:
    return word in vocabulary()


def broken(before: str, after: str, **options: Any) -> set[str]:
    return {violation.invariant for violation in check_text(before, after, is_known=known, **options)}
