"""Tokens of a server's reply find their place in the prompt, whatever its decoder did to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imc_agents.errors import InfraError
from imc_agents.models.alignment import align_pieces, score_from_pieces


def spelled(prompt: str, pieces: list[str]) -> list[str]:
    return [prompt[start:end] for start, end in align_pieces(prompt, pieces)]


@pytest.mark.parametrize(
    ("prompt", "pieces", "expected"),
    [
        ("Q: hello", ["Q", ":", " hello"], ["Q", ":", " hello"]),
        ("Q: hello", ["Q", ":", "hello"], ["Q", ":", " hello"]),
        ("Q: hello ", ["Q", ":", "hello"], ["Q", ":", " hello "]),
        ("Q: 中文 x", ["Q", ":", " \ufffd", "\ufffd", "文", " x"], ["Q", ":", " 中", "", "文", " x"]),
        ("Q: 中文 x", ["Q", ":", " 中", "\ufffd", "\ufffd", " x"], ["Q", ":", " 中", "文", "", " x"]),
        ("Q: 中文", ["Q", ":", " ", "", "中", "", "文"], ["Q", ":", " ", "中", "", "文", ""]),
        ("the the", ["the", " the"], ["the", " the"]),
    ],
    ids=["plain", "lost blank", "trailing blank", "split left", "split right", "empty halves", "repeats"],
)
def test_pieces_find_their_place(prompt: str, pieces: list[str], expected: list[str]) -> None:
    assert spelled(prompt, pieces) == expected


def test_pieces_of_another_text_are_refused() -> None:
    with pytest.raises(InfraError, match="do not spell"):
        align_pieces("Is it left?", ["Is", " it", " right", "?"])


def test_a_token_over_the_boundary_starts_at_zero() -> None:
    score = score_from_pieces("ab", "cd e", ["a", "bcd", " e"], [None, -2.0, -1.0])
    assert [(token.start, token.end) for token in score.tokens] == [(0, 2), (2, 4)]


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\ufffd", codec="utf-8"), min_size=1, max_size=4), min_size=2
    )
)
def test_plain_pieces_always_come_back(pieces: list[str]) -> None:
    prompt = "".join(pieces)
    assert spelled(prompt, pieces) == pieces
    assert spelled(prompt, pieces[1:])[-1] == (pieces[-1] if len(pieces) > 2 else prompt[-len(pieces[-1]) :])


@given(st.text(st.sampled_from("ab é中🫀"), min_size=1, max_size=12))
def test_spans_are_contiguous_when_every_byte_is_a_token(text: str) -> None:
    context = "Q:"
    pieces = [bytes([byte]).decode(errors="replace") for byte in (context + text).encode()]
    score = score_from_pieces(context, text, pieces, [None, *[-1.0] * (len(pieces) - 1)])
    assert score.tokens[0].start == 0
    assert score.tokens[-1].end == len(text)
    assert all(a.end == b.start for a, b in zip(score.tokens, score.tokens[1:], strict=False))
    assert len(score.tokens) == len(text.encode())
