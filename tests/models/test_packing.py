"""Packed rows compute what texts share once, and every text keeps its own way through the row."""

from __future__ import annotations

import random

import pytest

from imc_agents.models.packing import PackedRow, attention_length, attention_mask, bucket_length, pack, unpack


def texts_of(seed: int) -> list[list[int]]:
    """Texts that share a beginning, as the versions of one span do; some are empty or equal."""
    draw = random.Random(seed)
    prefix = [draw.randrange(50) for _ in range(draw.randrange(12))]
    return [
        prefix + [draw.randrange(50) for _ in range(draw.randrange(9))] for _ in range(draw.randrange(1, 9))
    ]


def path_to(row: PackedRow, at: int) -> list[int]:
    """The tokens from the beginning of the row to one place, along the parents."""
    tokens: list[int] = []
    while at >= 0:
        tokens.append(row.tokens[at])
        at = row.parents[at]
    return tokens[::-1]


@pytest.mark.parametrize("seed", range(40))
def test_each_text_is_spelt_along_its_parents_and_sees_nothing_else(seed: int) -> None:
    texts = texts_of(seed)
    seen: set[int] = set()
    for row in pack(texts, 24):
        mask = attention_mask([row], attention_length(len(row.tokens)), context=3)[0, 0]
        for index, places in unpack(row, [float(at) for at in range(len(row.tokens))]).items():
            seen.add(index)
            assert [row.tokens[int(at)] for at in places] == texts[index]
            for position, at in enumerate(int(place) for place in places):
                assert row.positions[at] == position
                assert path_to(row, at) == texts[index][: position + 1]
                visible = [int(column) for column in mask[at].nonzero()[0]]
                assert visible == [0, 1, 2] + [3 + int(place) for place in places[: position + 1]]
    assert seen == set(range(len(texts)))


@pytest.mark.parametrize("seed", range(40))
def test_the_common_beginning_is_in_a_row_once(seed: int) -> None:
    texts = texts_of(seed)
    shared = 0
    while all(len(text) > shared for text in texts) and len({text[shared] for text in texts}) == 1:
        shared += 1
    (row,) = pack(texts, 10_000)
    assert len(row.tokens) == shared + sum(len(text) - shared for text in texts)


def test_rows_stay_within_the_limit_where_a_text_allows_it() -> None:
    texts = [[1, 2, 3, *range(10 * i, 10 * i + 10)] for i in range(5)] + [[1, 2, 3, *range(100, 160)]]
    lengths = [len(row.tokens) for row in pack(texts, 30)]
    assert lengths == [23, 23, 13, 63]


def test_every_padded_place_sees_something() -> None:
    (row,) = pack([[1, 2, 3]], 16)
    mask = attention_mask([row], attention_length(3), context=0)
    assert mask.any(axis=-1).all()


@pytest.mark.parametrize("tokens", [1, 8, 9, 63, 64, 65, 128, 129, 512, 513, 2000])
def test_a_bucket_holds_its_row_and_wastes_little(tokens: int) -> None:
    assert tokens <= bucket_length(tokens) < tokens + max(8, tokens // 4 + 1)


def test_the_rows_of_questions_need_few_attention_lengths() -> None:
    lengths = [attention_length(tokens) for tokens in range(1, 257)]
    assert all(tokens <= length for tokens, length in enumerate(lengths, start=1))
    assert len(set(lengths)) <= 6
