"""What words look like: the shapes that character recognition confuses, and the letters of a word as bits."""

from __future__ import annotations

import hashlib

__all__ = ["letter_bits", "ocr_skeleton", "skeleton_hash"]

_SHAPES = str.maketrans(
    {
        **dict.fromkeys("1i!|", "l"),
        **dict.fromkeys("86h", "b"),
        **dict.fromkeys("9q", "g"),
        **{"0": "o", "5": "s", "e": "c", "f": "t", "v": "y", "2": "z", "u": "ll"},
    }
)
_PAIRS = (("rn", "m"), ("rl", "n"), ("yy", "w"), ("cl", "d"), ("ll", "b"), ("nn", "rm"))


def ocr_skeleton(word: str) -> str:
    """The word with every shape that OCR confuses made equal: nearly all slips keep it, however many they are.

    The classes follow ``data/ocr_confusions.yaml``.
    """
    text = word.lower().translate(_SHAPES)
    for pair, shape in _PAIRS:
        text = text.replace(pair, shape)
    return text


def skeleton_hash(word: str) -> int:
    """The OCR skeleton of the word as 32 bits."""
    return int.from_bytes(hashlib.blake2b(ocr_skeleton(word).encode(), digest_size=4).digest(), "little")


def letter_bits(word: str) -> int:
    """The set of the letters a to z in the word as 26 bits."""
    bits = 0
    for letter in word:
        if "a" <= letter <= "z":
            bits |= 1 << (ord(letter) - 97)
    return bits
