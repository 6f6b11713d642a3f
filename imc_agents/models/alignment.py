"""Finds where in a prompt the tokens of a server's reply lie, from their decoded pieces alone.

Servers send each token decoded by itself. For most tokens the piece is just what stands in the prompt; three things
need care: a character that is split over several byte-level tokens decodes to U+FFFD or to nothing; SentencePiece
decoding drops the blank before a word; and the first token has no log-probability and often no piece at all. The
pieces are therefore matched from the right end, and what cannot be matched by itself takes the gap that its
neighbours leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from imc_agents.errors import InfraError
from imc_agents.models.protocol import Score, TokenScore

__all__ = ["align_pieces", "score_from_pieces"]

_REPLACEMENT = "\ufffd"


def align_pieces(prompt: str, pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Return the span of each piece in the prompt; spans are contiguous, in order, and reach to its end.

    The pieces must spell a suffix of the prompt, up to lost blanks and split characters; what lies before them
    belongs to the first token.

    Raises:
        InfraError: the pieces do not spell the prompt.
    """
    spans = [(0, 0)] * len(pieces)
    end = len(prompt)
    unclear: list[int] = []
    for index in range(len(pieces) - 1, -1, -1):
        piece = pieces[index]
        if not piece or _REPLACEMENT in piece:
            unclear.append(index)
            continue
        stop = _end_of(prompt, piece, end, gap=any(pieces[i] for i in unclear), loose=bool(unclear))
        if stop is None:
            raise InfraError(
                f"the server's tokens do not spell the prompt: {piece!r} is not found where it should be"
            )
        _close_gap(spans, unclear, stop, end)
        if stop < end and not unclear and index + 1 < len(pieces):
            spans[index + 1] = (stop, spans[index + 1][1])
        spans[index] = (stop - len(piece), stop if index + 1 < len(pieces) or unclear else end)
        end = stop - len(piece)
        unclear = []
    _close_gap(spans, unclear, 0, end)
    return spans


def _end_of(prompt: str, piece: str, end: int, *, gap: bool, loose: bool) -> int | None:
    """Where the piece ends, at or left of ``end``: exactly there, behind lost blanks, or left of a gap."""
    if not loose:
        for stop in (end, len(prompt[:end].rstrip())):
            if prompt.endswith(piece, 0, stop):
                return stop
        return None
    at = prompt.rfind(piece, 0, end - 1 if gap else end)
    return None if at < 0 else at + len(piece)


def _close_gap(spans: list[tuple[int, int]], unclear: list[int], start: int, end: int) -> None:
    """Give the gap to the first token in it and leave the others empty, at its end, so that spans stay contiguous.

    Where there is no gap, the tokens begin the character of the token to their right and share its span likewise.
    """
    if not unclear:
        return
    members = unclear[::-1]
    if start == end and unclear[0] + 1 < len(spans):
        members.append(unclear[0] + 1)
        start, end = spans[members[-1]]
    spans[members[0]] = (start, end)
    for index in members[1:]:
        spans[index] = (end, end)


def score_from_pieces(
    context: str, text: str, pieces: Sequence[str], logprobs: Sequence[float | None]
) -> Score:
    """Return the score of ``text`` from the tokens of ``context + text``.

    Raises:
        InfraError: the tokens do not spell the prompt, or a log-probability is missing or not finite.
    """
    tokens: list[TokenScore] = []
    for (start, end), logprob in zip(align_pieces(context + text, pieces), logprobs, strict=True):
        if end <= len(context):
            continue
        if logprob is None or not math.isfinite(logprob):
            raise InfraError(f"the server gave no finite log-probability for {(context + text)[start:end]!r}")
        tokens.append(TokenScore(max(0, start - len(context)), end - len(context), logprob))
    if text and (not tokens or tokens[0].start > 0):
        raise InfraError(f"the server gave no log-probability for the beginning of {text[:40]!r}")
    return Score(tuple(tokens))
