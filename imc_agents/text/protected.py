"""Spans that text noise must never alter, so that the answer to a noisy question stays true."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from imc_agents.text.clinical import load

__all__ = ["ProtectedSpan", "protected_spans"]


@dataclass(frozen=True, slots=True)
class ProtectedSpan:
    """Characters ``start:end`` of a text and the invariant that protects them."""

    start: int
    end: int
    invariant: str


def _words(words: list[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    numbers, negation, side = load("numbers"), load("negation"), load("laterality")
    prefixed = "|".join(f"{p}-?(?:{_words(rest)})" for p, rest in negation["prefixed"].items())
    cues = "|".join([*negation["patterns"], _words(negation["phrases"]), r"non-?\w+"])
    cue_words = _words(negation["words"])
    everywhere = re.IGNORECASE
    return (
        ("answer_option", re.compile(r"(?<!\w)\(?[A-Ha-h1-9]\)[^\n]*")),
        ("answer_option", re.compile(r"(?<!\w)[A-H][.:]\s(?=[^\n]{0,400}\s[B-H][.:]\s)[^\n]*")),
        ("answer_option", re.compile(r"\b(?:options?|choices|answers?)\s?:[^\n]*", everywhere)),
        ("answer_option", re.compile(r"\byes\s*(?:,|/|or)\s*no\b", everywhere)),
        ("number", re.compile(rf"\b(?:{_words(numbers['number_words'])})\b", everywhere)),
        ("negation", re.compile(rf"(?<!\w)(?:{cues})(?!\w)|\b(?:{cue_words})\b", everywhere)),
        ("negation", re.compile(rf"\b(?:{prefixed}|un[a-z]{{4,}})\b", everywhere)),
        ("laterality", re.compile(rf"\b(?:{_words(side['words'])}|{side['compounds']})\b", everywhere)),
        ("laterality", re.compile(rf"(?<![\w/])(?:{_words(side['symbols'])})(?![\w/])")),
        ("acronym", re.compile(r"\b[A-Z][A-Z]+s?\b")),
    )


@cache
def _units() -> frozenset[str]:
    numbers = load("numbers")
    return frozenset(numbers["units"] + numbers["unit_words"])


_FEW_LETTERS = 11
_SHOUTED_SHARE = 0.6
_CHUNK = re.compile(r"[^\s;()\[\]?!]+")
_COMPARATOR = re.compile(r"[<>≤≥=~≈±+−-]+$")
_JOINS = frozenset({"x", "X", "×", "-", "–", "to", "by"})


def _numbers(text: str) -> list[ProtectedSpan]:
    """Chunks with a digit, widened to a comparator before, units behind and both ends of a range."""
    chunks = list(_CHUNK.finditer(text))
    digits = [any(c.isdigit() for c in chunk.group()) for chunk in chunks]
    spans: list[ProtectedSpan] = []
    at = 0
    while at < len(chunks):
        if not digits[at]:
            at += 1
            continue
        first = at - 1 if at and _COMPARATOR.match(chunks[at - 1].group()) else at
        while at + 1 < len(chunks):
            following = chunks[at + 1].group().rstrip(".,:")
            if following in _units():
                at += 1
            elif following in _JOINS and at + 2 < len(chunks) and digits[at + 2]:
                at += 2
            else:
                break
        spans.append(ProtectedSpan(chunks[first].start(), chunks[at].end(), "number"))
        at += 1
    return spans


@cache
def _plain() -> frozenset[str]:
    return frozenset(load("case_bound")["plain"])


def shouted(text: str) -> bool:
    """Whether most of a text of several words is upper case, so that upper case means nothing in it."""
    letters = sum(map(str.isalpha, text))
    return letters > _FEW_LETTERS and sum(map(str.isupper, text)) > _SHOUTED_SHARE * letters


def _trim(text: str, span: ProtectedSpan) -> ProtectedSpan:
    """Leave closing punctuation to the noise."""
    end = span.end
    while end > span.start + 1 and text[end - 1] in ".,:'’\"":
        end -= 1
    return ProtectedSpan(span.start, end, span.invariant)


def protected_spans(text: str) -> list[ProtectedSpan]:
    """Return the sorted, non-overlapping spans that text noise must leave as they are.

    Numbers with comparators, ranges and units; codes (T2, L4-L5, FEV1); negations; laterality and direction;
    acronyms; answer options. Where two meet, one span covers both under the invariant of the first.
    """
    known = frozenset(load("case_bound")["acronyms"])
    loud = shouted(text)
    found = [_trim(text, span) for span in _numbers(text)]
    for invariant, pattern in _patterns():
        for match in pattern.finditer(text):
            word = match.group()
            if invariant == "acronym" and (word in _plain() or (loud and word not in known)):
                continue
            found.append(_trim(text, ProtectedSpan(*match.span(), invariant)))
    merged: list[ProtectedSpan] = []
    for span in sorted(found, key=lambda s: (s.start, -s.end)):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = ProtectedSpan(last.start, max(last.end, span.end), last.invariant)
        else:
            merged.append(span)
    return merged
