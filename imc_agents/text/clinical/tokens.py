"""A text as the guard reads it: words, numbers with units and codes, each with the cue that it carries.

White space, case, hyphens between words and punctuation do not matter here, so that repairs of them pass;
digits never run into their neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from imc_agents.text.clinical import load
from imc_agents.text.clinical.vocabulary import is_direction, is_negation, is_number_word

__all__ = ["Token", "option_marks", "read_tokens", "unmask"]


@dataclass(frozen=True, slots=True)
class Token:
    """One unit of meaning.

    Attributes:
        start: Offset of its first character in the text.
        end: Offset behind its last character.
        raw: Its characters.
        norm: Its form for comparison: case folded, contractions without apostrophe.
        kind: ``number`` (also signs and codes such as T2), ``unit`` or ``word``.
        cue: The invariant that protects it wherever it stands: ``number``, ``unit``, ``negation``,
            ``laterality``, or "".
        suspect: A word or number that mixes digits and letters as OCR leaves them.
    """

    start: int
    end: int
    raw: str
    norm: str
    kind: str
    cue: str = ""
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class _Lists:
    units: frozenset[str]
    unit_words: frozenset[str]
    codes: frozenset[str]
    code_letters: str
    digit_like: str
    ocr_letters: dict[int, str]
    phrases: tuple[tuple[str, ...], ...]
    atom: re.Pattern[str]


@cache
def _lists() -> _Lists:
    numbers, shorthand = load("numbers"), load("shorthand")
    slashed = sorted((s for s in shorthand["plain"] if "/" in s), key=len, reverse=True)
    return _Lists(
        frozenset(numbers["units"]),
        frozenset(numbers["unit_words"]),
        frozenset(numbers["codes"]),
        numbers["code_letters"],
        numbers["digit_like"],
        {ord(sign): letters[0] for sign, letters in numbers["ocr_letters"].items()},
        tuple(tuple(phrase.split()) for phrase in load("negation")["phrases"]),
        re.compile(
            rf"(?P<short>(?<![\w/])(?:{'|'.join(map(re.escape, slashed))})(?![\w/]))"
            r"|(?P<mark>(?<!\w)[-−+]ve\b|\([-−+]\))"
            r"|(?P<atom>(?:(?<!\w)[.,](?=\d))?\|?[^\W_]+(?:(?:[|'’`]|(?<=[\dOoIlSs])[.,](?=\d))[^\W_]+)*\|?)"
            r"|(?P<sign>[%‰°][CcFf]?\b|[%‰°<>≤≥=~≈±+*^:/×–−-])",
            re.IGNORECASE,
        ),
    )


_MEASURE = re.compile(r"[.,]?\d+(?:[.,]\d+)*(?:[x×]\d+(?:[.,]\d+)*)*([^\W\d_]*\d?)", re.IGNORECASE)
_PIECE = re.compile(r"[x×](?=\d)|[.,]?\d+(?:[.,]\d+)*|[^\W_\d]+\d?", re.IGNORECASE)
_CODE = re.compile(
    r"(?!.0[a-z])[A-HJ-NP-Z]\d{1,4}[A-Za-z]?|[IO]\d{2,4}|[A-Z]{2,5}\d{1,4}[A-Za-z]?|[A-Z]\d[A-Z]\d"
)
_OPTION = re.compile(r"(?<!\w)\(?([A-Ha-h1-9])\)|(?<!\w)([A-H])[.:](?=\s)")
_COMPARATORS = frozenset("<>≤≥=~≈±")
_CENTRE = frozenset({"%", "‰", "°"})
_DASHES = str.maketrans({"–": "-", "−": "-", "×": "x", "’": "'", "`": "'"})
_ORDINALS = frozenset({"st", "nd", "rd", "th"})
_RANGE_WORDS = frozenset({"x", "to", "by"})
_MIN_OCR_LETTERS = 2


def unmask(word: str) -> str:
    """The word with digits and signs read as the letters that OCR takes them for (``1ung`` -> ``lung``)."""
    return word.translate(_lists().ocr_letters)


def option_marks(text: str) -> tuple[str, ...]:
    """The letters of answer options (``A) .. B) ..``) in order."""
    return tuple(match.group(1) or match.group(2) for match in _OPTION.finditer(text))


def _is_code(atom: str) -> bool:
    """Whether letters with digits name a thing: T2, L4, FEV1, H1N1, cd4, b12."""
    lists, lower = _lists(), atom.casefold()
    if lower in lists.codes or _CODE.fullmatch(atom):
        return True
    return len(lower) > 1 and lower[0] in lists.code_letters and lower[1:].isdigit()


def _is_number_like(atom: str) -> bool:
    """Whether OCR may have read a bare number as these characters: l5, O.5, 1O."""
    likes = _lists().digit_like
    return all(c.isdigit() or c in likes or c in ".," for c in atom)


def _is_unit(atom: str) -> bool:
    units = _lists().units
    return atom in units or (len(atom) > 1 and atom.casefold() in units)


def _measure(match: re.Match[str]) -> Iterator[Token]:
    """Split ``2.5x3cm`` into numbers, signs and unit."""
    for piece in _PIECE.finditer(match.group()):
        raw, start = piece.group(), match.start() + piece.start()
        lower = raw.translate(_DASHES).casefold()
        kind = "unit" if raw[0].isalpha() and lower != "x" else "number"
        yield Token(start, start + len(raw), raw, lower, kind, kind)


def _digit_tokens(match: re.Match[str]) -> Iterator[Token]:
    """Tokens of an atom that holds a digit: a measure, a code, or a word that OCR has spoilt."""
    atom = match.group()
    lower = atom.translate(_DASHES).casefold()
    measure = _MEASURE.fullmatch(atom)
    code = _is_code(atom)
    letters = sum(c.isalpha() for c in atom)
    spoilt = letters > 0 and (_is_number_like(atom) or (code and lower[-1] == "0" and atom.islower()))
    unit = measure[1] if measure else ""
    if measure and not (code or spoilt) and (not unit or unit.casefold() in _ORDINALS or _is_unit(unit)):
        yield from _measure(match)
    elif code or spoilt or letters < _MIN_OCR_LETTERS <= sum(c.isdigit() for c in atom):
        yield Token(match.start(), match.end(), atom, lower, "number", "number", spoilt)
    else:
        yield Token(match.start(), match.end(), atom, lower, "word", "", suspect=True)


@lru_cache(maxsize=8192)
def _read_word(raw: str) -> tuple[str, str]:
    """Form for comparison and cue of a word."""
    norm = raw.translate(_DASHES).casefold()
    if norm.endswith("n't"):
        norm = norm.replace("'", "")
    norm = norm.removesuffix("'s")
    if is_negation(norm):
        return norm, "negation"
    if is_direction(norm) or raw in ("L", "R"):
        return norm, "laterality"
    return norm, "number" if is_number_word(norm) else ""


def _word_token(match: re.Match[str]) -> Token:
    raw = match.group()
    norm, cue = _read_word(raw)
    return Token(match.start(), match.end(), raw, norm, "word", cue, suspect="|" in raw)


def _is_numeral(token: Token | None) -> bool:
    return token is not None and token.kind == "number" and any(map(str.isdigit, token.norm))


def _sign_token(match: re.Match[str], previous: Token | None, following: str, glued: bool) -> Token | None:
    """A sign counts only at numbers: a comparator before one, a joint between two, a unit behind one."""
    sign, lower = match.group(), match.group().translate(_DASHES).casefold()
    numeral = (
        following[:1].isdigit() or (following[:1] in ".," and following[1:2].isdigit()) or _is_code(following)
    )
    token = Token(match.start(), match.end(), sign, lower, "number", "number")
    if sign[0] in _CENTRE:
        return replace(token, kind="unit", cue="unit") if _is_numeral(previous) else None
    if previous is not None and previous.kind == "unit" and lower == "/" and _is_unit(following):
        return replace(token, kind="unit", cue="unit")
    if numeral and (_is_numeral(previous) or sign in _COMPARATORS):
        return token
    alone = previous is None or previous.end < match.start()
    return token if numeral and glued and alone and lower in "+-" else None


def _tokens(text: str) -> Iterator[Token]:
    matches = list(_lists().atom.finditer(text))
    previous: Token | None = None
    for at, match in enumerate(matches):
        group, raw = match.lastgroup, match.group()
        following = matches[at + 1].group() if at + 1 < len(matches) else ""
        found: list[Token] = []
        if group == "short":
            lower = raw.casefold()
            cue = "negation" if lower in ("w/o", "r/o") else "laterality" if lower == "b/l" else ""
            found.append(Token(match.start(), match.end(), raw, lower, "word", cue))
        elif group == "mark":
            found.append(Token(match.start(), match.end(), raw, raw.translate(_DASHES), "word", "negation"))
        elif group == "sign":
            glued = at + 1 < len(matches) and matches[at + 1].start() == match.end()
            sign = _sign_token(match, previous, following, glued)
            found.extend([sign] if sign else [])
        elif not raw.isalpha() and any(c.isdigit() for c in raw):
            found.extend(_digit_tokens(match))
        else:
            token = _word_token(match)
            measured = previous is not None and (
                _is_numeral(previous) or (previous.kind == "unit" and previous.norm == "/")
            )
            if measured and (_is_unit(raw) or token.norm in _lists().unit_words):
                token = replace(token, kind="unit", cue="unit")
            elif measured and token.norm in _RANGE_WORDS and following[:1].isdigit():
                token = replace(token, kind="number", cue="number")
            found.append(token)
        yield from found
        previous = found[-1] if found else previous


@lru_cache(maxsize=256)
def read_tokens(text: str) -> tuple[Token, ...]:
    """Return the tokens of a text in order."""
    tokens = list(_tokens(text))
    words = [token.norm for token in tokens]
    for phrase in _lists().phrases:
        if phrase[0] not in words:
            continue
        for at in range(len(words) - len(phrase) + 1):
            if tuple(words[at : at + len(phrase)]) == phrase:
                for place in range(at, at + len(phrase)):
                    tokens[place] = replace(tokens[place], cue=tokens[place].cue or "negation")
    return tuple(tokens)
