"""Attention over rows of unequal length and context in one forward pass.

The tokens of all rows lie behind each other in one line, without padding, so the matrix products see many tokens at
once. Only attention looks at rows: those that share context and attention length are attended together, padded to that
length, which is a function of the row alone. So the numbers of a row never depend on the rows beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from imc_agents.models.packing import PackedRow, attention_length, attention_mask

if TYPE_CHECKING:
    import torch

__all__ = ["ATTENTION", "Context", "Ragged", "ragged", "register"]

ATTENTION = "imc_ragged"


@dataclass(frozen=True, slots=True)
class Context:
    """Keys and values of a context, [1, heads, K, dim] per layer, and its last hidden state [1, H]."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    hidden: torch.Tensor
    length: int


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that share context and attention length L.

    Attributes:
        context: What all of them follow, K tokens.
        places: Where in the line each of their padded places comes from, int64 [B * L]; padding comes from 0.
        mask: Added to the attention weights, [B, 1, L, K + L].
    """

    context: Context
    places: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows laid out in one line of T tokens.

    Attributes:
        ids: Token ids, int64 [1, T].
        positions: Position of each token behind its context's beginning, int64 [1, T].
        groups: The rows, grouped for attention.
        back: Where in the groups' padded places, one group behind the other, each token is, int64 [T].
    """

    ids: torch.Tensor
    positions: torch.Tensor
    groups: tuple[_Group, ...]
    back: torch.Tensor


def ragged(
    contexts: Sequence[Context],
    rows: Sequence[PackedRow],
    dtype: torch.dtype,
    device: torch.device,
    least: int,
) -> Ragged:
    """Lay out rows, each behind its context, and fill the line up to at least ``least`` tokens."""
    import torch

    lengths = [len(row.tokens) for row in rows]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate([np.asarray(row.tokens, dtype=np.int64) for row in rows])
    positions = np.concatenate(
        [
            np.asarray(row.positions, dtype=np.int64) + context.length
            for context, row in zip(contexts, rows, strict=True)
        ]
    )
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for line, (context, size) in enumerate(zip(contexts, lengths, strict=True)):
        members[id(context), attention_length(size)].append(line)
    groups: list[_Group] = []
    filling = np.zeros(max(0, least - len(ids)), dtype=np.int64)
    ids, positions = np.concatenate([ids, filling]), np.concatenate([positions, filling])
    back = np.zeros(len(ids), dtype=np.int64)
    offset = 0
    for (_, length), lines in members.items():
        places = np.zeros((len(lines), length), dtype=np.int64)
        for number, line in enumerate(lines):
            places[number, : lengths[line]] = np.arange(starts[line], starts[line + 1])
            back[starts[line] : starts[line + 1]] = offset + number * length + np.arange(lengths[line])
        offset += places.size
        context = contexts[lines[0]]
        seen = attention_mask([rows[line] for line in lines], length, context.length)
        mask = torch.from_numpy(np.where(seen, np.float32(0), np.float32(-np.inf))).to(dtype)
        groups.append(_Group(context, torch.from_numpy(places.ravel()).to(device), mask.to(device)))
    return Ragged(
        torch.from_numpy(ids)[None].to(device),
        torch.from_numpy(positions)[None].to(device),
        tuple(groups),
        torch.from_numpy(back).to(device),
    )


def register() -> None:
    """Make ``attn_implementation=ATTENTION`` known to transformers: sdpa, but for a pass over a Ragged."""
    from transformers import AttentionInterface, AttentionMaskInterface, masking_utils

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, cast(Any, masking_utils).sdpa_mask)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    line: Ragged | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend; shapes [1, heads, T, dim] to [1, T, heads, dim] where the tokens lie in a line."""
    import torch
    from transformers.integrations import sdpa_attention

    attend: Any = cast(Any, sdpa_attention).sdpa_attention_forward
    if line is None:
        return attend(module, query, key, value, attention_mask, **options)
    attended: list[torch.Tensor] = []
    for group in line.groups:
        rows, _, length, _ = group.mask.shape
        q, k, v = (_padded(states, group.places, rows, length) for states in (query, key, value))
        if group.context.length:
            keys, values = group.context.layers[int(module.layer_idx)]
            k = torch.cat([keys.expand(rows, -1, -1, -1), k], dim=2)
            v = torch.cat([values.expand(rows, -1, -1, -1), v], dim=2)
        out: torch.Tensor = attend(module, q, k, v, group.mask, **options)[0]
        attended.append(out.flatten(0, 1))
    return torch.cat(attended).index_select(0, line.back)[None], None


def _padded(states: torch.Tensor, places: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """Take places out of a line: [1, heads, T, dim] to [rows, heads, length, dim]."""
    _, heads, _, dim = states.shape
    return states[0].transpose(0, 1)[places].view(rows, length, heads, dim).transpose(1, 2)
