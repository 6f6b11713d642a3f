"""Pack the texts of one score request into rows that compute their common beginning once.

A row is the shared prefix followed by one branch per text. A branch token sees the prefix and its own branch
(tree attention), so every text gets the same log-probabilities as alone, for a fraction of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["PackedRow", "attention_length", "attention_mask", "bucket_length", "pack", "unpack"]


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Tokens of a shared prefix and of some branches.

    Attributes:
        tokens: Token ids, n of them.
        positions: Position of each token behind the context, from 0.
        parents: Index in the row of the token before each one; -1 is the last token of the context.
        segments: 0 for the prefix, 1.. for the branches.
        texts: Which text of the request each branch is (branch k is ``texts[k - 1]``).
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    parents: tuple[int, ...]
    segments: tuple[int, ...]
    texts: tuple[int, ...]


def bucket_length(tokens: int) -> int:
    """The padded length of a prompt, a function of the prompt alone: replies then never depend on their neighbours."""
    step = 8 if tokens <= 64 else 16 if tokens <= 128 else 32 if tokens <= 512 else 128
    return max(step, -(-tokens // step) * step)


def attention_length(tokens: int) -> int:
    """The length to which attention pads a row, a function of the row alone.

    Only attention is padded, which costs little; a call of it for every length that occurs would cost more.
    """
    step = 32 if tokens <= 128 else 64 if tokens <= 512 else 128
    return max(step, -(-tokens // step) * step)


def pack(texts: Sequence[list[int]], limit: int) -> list[PackedRow]:
    """Pack texts (token ids) into rows of at most ``limit`` tokens where a single text allows it."""
    prefix = _common_prefix(texts)
    rows: list[PackedRow] = []
    group: list[int] = []
    size = len(prefix)
    for index, text in enumerate(texts):
        branch = len(text) - len(prefix)
        if group and size + branch > limit:
            rows.append(_row(prefix, texts, group))
            group, size = [], len(prefix)
        group.append(index)
        size += branch
    rows.append(_row(prefix, texts, group))
    return rows


def unpack(row: PackedRow, logprobs: Sequence[float]) -> dict[int, list[float]]:
    """Split the log-probabilities of a row into those of its texts, by index of the text."""
    prefix = [value for value, segment in zip(logprobs, row.segments, strict=True) if segment == 0]
    found = {text: list(prefix) for text in row.texts}
    for value, segment in zip(logprobs, row.segments, strict=True):
        if segment:
            found[row.texts[segment - 1]].append(value)
    return found


def attention_mask(rows: Sequence[PackedRow], length: int, context: int) -> npt.NDArray[np.bool_]:
    """Which position sees which: bool [B, 1, length, context + length].

    Every position sees the whole context; a token sees earlier tokens of the prefix and of its own branch. Padding
    sees earlier padding beside that, so that no row of the softmax is empty even without a context.
    """
    segments = np.full((len(rows), length), -1, dtype=np.int32)
    for row, line in zip(rows, segments, strict=True):
        line[: len(row.segments)] = row.segments
    same = segments[:, :, None] == segments[:, None, :]
    prefix = (segments == 0)[:, None, :]
    own = np.tril(np.ones((length, length), dtype=np.bool_)) & (same | prefix)
    seen = np.ones((len(rows), length, context), dtype=np.bool_)
    return np.concatenate([seen, own], axis=2)[:, None]


def _common_prefix(texts: Sequence[list[int]]) -> list[int]:
    first, last = min(texts), max(texts)
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return first[:length]


def _row(prefix: list[int], texts: Sequence[list[int]], group: list[int]) -> PackedRow:
    start = len(prefix)
    tokens = list(prefix)
    positions = list(range(start))
    parents = list(range(-1, start - 1))
    segments = [0] * start
    for number, index in enumerate(group, start=1):
        branch = texts[index][start:]
        at = len(tokens)
        tokens += branch
        positions += range(start, start + len(branch))
        parents += [at + offset - 1 if offset else start - 1 for offset in range(len(branch))]
        segments += [number] * len(branch)
    return PackedRow(tuple(tokens), tuple(positions), tuple(parents), tuple(segments), tuple(group))
