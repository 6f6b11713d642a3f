"""Judges the answers of visual question answering: accuracy of closed questions, token overlap of open ones.

Where a question has a list of classes, the reply names the right one or not. Other answers are normalised as in the VQA
evaluation (Antol et al. 2015): lower case, no punctuation, no articles, number words as digits, contractions with their
apostrophe. Closed questions are reported by accuracy and open ones by the recall of the gold answer's tokens, as for
LLaVA-Med (Li et al. 2023).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from imc_agents.bench.outcomes import NOT_SCORED, Outcome

__all__ = [
    "METRICS",
    "Metric",
    "answer_tokens",
    "closed_accuracy",
    "exact_match",
    "said",
    "score",
    "token_f1",
    "token_recall",
]

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd"
    " he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll let's ma'am mightn't mightn't've"
    " might've mustn't must've needn't not've o'clock oughtn't shan't she'd've she's should've shouldn't"
    " shouldn't've somebody'd somebody'll somebody's someone'd someone'll someone's something'd something'll"
    " that's there'd there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't"
    " what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll"
    " why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're"
    " you've"
)
_CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
# A full stop stays only where a digit follows: 2.5, .5. The VQA evaluation does without the colon and Chinese marks.
_STOP = re.compile(r"\.(?!\d)|。")
_MARKS = re.compile(r"""[;:/\[\]"{}()=+\\_\-<>@`,?!、《》「」【】“”]""")
_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")

_YES = frozenset({"yes", "是", "是的", "有", "对", "对的"})
_NO = frozenset({"no", "否", "不", "不是", "没有", "没", "无"})
_UNDECIDED = ("不确定", "不清楚", "不知道", "不能", "无法")
_ALTERNATIVE = frozenset({("or",), ("还", "是")})
_DENIALS = frozenset({"not", "no", "不", "非"})


@lru_cache(maxsize=65536)
def answer_tokens(text: str) -> tuple[str, ...]:
    """Return the tokens of an answer, normalised; each Chinese character is a token of its own.

    Unlike in the VQA evaluation a mark always separates (there ``x-ray - no`` loses all its dashes and becomes
    ``xray no``), so that an answer is cut in one way wherever it stands.
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("‘", "'")
    plain = _MARKS.sub(" ", _STOP.sub("", _THOUSANDS.sub("", plain)))
    found: list[str] = []
    for match in _TOKEN.finditer(plain):
        token = _CONTRACTIONS.get(match[0].replace("'", ""), match[0])
        token = _NUMBERS.get(token, token)
        if token not in _ARTICLES:
            found.append(token)
    return tuple(found)


def said(answer: str) -> str:
    """The first word of an answer, in lower case and without punctuation."""
    words = "".join(c if c.isalnum() else " " for c in answer.lower()).split()
    return words[0] if words else ""


def closed_accuracy(answer: str, reply: str, question: str = "") -> float:
    """Return 1 for a right reply to a closed question, else 0.

    Where the gold answer is yes or no, the first word of the reply decides. Otherwise the reply must be the gold
    answer, or say it undenied and name none of the question's other alternatives (the words beside an ``or``).

    Args:
        answer: The gold answer.
        reply: What the model said.
        question: As published; alternatives are read from it.
    """
    gold = _polarity(answer.strip(), whole=True)
    if gold is not None:
        return float(_polarity(reply.strip(), whole=False) == gold)
    expected, found = answer_tokens(answer), answer_tokens(reply)
    if expected == found:
        return 1.0
    at = _position(expected, found)
    if at is None or (at > 0 and found[at - 1] in _DENIALS):
        return 0.0
    return float(not (_alternatives(question) - set(expected)) & set(found))


def token_recall(answer: str, reply: str) -> float:
    """Return the share of the gold answer's tokens that the reply has, each as often as it stands there."""
    expected, found = Counter(answer_tokens(answer)), Counter(answer_tokens(reply))
    if not expected:
        return float(not found)
    return (expected & found).total() / expected.total()


def token_f1(answer: str, reply: str) -> float:
    """Return the harmonic mean of token precision and recall."""
    expected, found = Counter(answer_tokens(answer)), Counter(answer_tokens(reply))
    if not expected or not found:
        return float(not expected and not found)
    return 2 * (expected & found).total() / (expected.total() + found.total())


def exact_match(answer: str, reply: str) -> float:
    """Return 1 where reply and gold answer are the same once normalised, else 0."""
    return float(answer_tokens(answer) == answer_tokens(reply))


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of one reply.

    Attributes:
        name: As in ``--metric``.
        kind: The questions that it is for.
        title: As a table says it.
        judge: Score in [0, 1] of (gold answer, reply, question).
    """

    name: str
    kind: Literal["closed", "open"]
    title: str
    judge: Callable[[str, str, str], float]


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", "closed", "Accuracy of closed questions", closed_accuracy),
            Metric("recall", "open", "Token recall of open questions", lambda a, r, _: token_recall(a, r)),
            Metric("f1", "open", "Token F1 of open questions", lambda a, r, _: token_f1(a, r)),
            Metric("exact", "open", "Exact match of open questions", lambda a, r, _: exact_match(a, r)),
        )
    }
)


def score(outcome: Outcome, metric: Metric) -> float | None:
    """Return the score of an outcome in [0, 1]; None where nothing can be said of it.

    An unusable reply (``model_error``) is wrong. A failure of the infrastructure or of the data, or a missing reply, is
    not scored, nor is a question of the other kind.
    """
    if outcome.kind != metric.kind or outcome.status in NOT_SCORED:
        return None
    if outcome.status == "model_error":
        return 0.0
    if outcome.reply is None:
        return None
    if outcome.options:  # names of classes, which are no text to interpret
        return float(outcome.reply == outcome.answer)
    return metric.judge(outcome.answer, outcome.reply, outcome.question)


def _polarity(text: str, *, whole: bool) -> bool | None:
    """Whether a text is a yes or a no; a reply may go on after it, in Chinese without a space."""
    word = said(text)
    if word in _YES or word in _NO:
        settled = not whole or answer_tokens(text) == answer_tokens(word)
        return word in _YES if settled else None
    if whole or not word or word.startswith(_UNDECIDED):
        return None
    return False if word[0] in _NO else True if word[0] in _YES else None


def _position(part: tuple[str, ...], tokens: tuple[str, ...]) -> int | None:
    size = len(part)
    starts = range(len(tokens) - size + 1) if size else range(0)
    return next((start for start in starts if tokens[start : start + size] == part), None)


@lru_cache(maxsize=8192)
def _alternatives(question: str) -> frozenset[str]:
    """The tokens on either side of each ``or``, unless they stand on both sides of it (T1 weighted or T2 weighted)."""
    tokens = answer_tokens(question)
    found: set[str] = set()
    for word in _ALTERNATIVE:
        for at in range(1, len(tokens) - len(word)):
            if tokens[at : at + len(word)] == word:
                before, after = tokens[:at], tokens[at + len(word) :]
                found |= {before[-1]} - set(after) | {after[0]} - set(before)
    return frozenset(found)
