"""The causal language model in process: batched scoring of packed rows and lock-step generation.

Numbers of one row never depend on the rows beside it: rows of a batch share their padded length, which is a function
of the row alone, and the matrix products of a row do not depend on how many rows there are (at least two: one row
alone takes another kernel). So a result is the same alone, in a crowd, and after a resume, bit by bit on a CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from imc_agents.errors import BackendUnreachableError
from imc_agents.models.packing import PackedRow, attention_mask, bucket_length

if TYPE_CHECKING:
    import torch

    from imc_agents.models.weights import Checkpoint

__all__ = ["Context", "Engine", "load_engine"]

_CONTEXTS = 16
_M_MMAP_THRESHOLD = -3  # of malloc.h
_HEAD_ROWS = 128  # rows of logits at a time: 128 x 49,152 floats stay in the last-level cache


@dataclass(frozen=True, slots=True)
class Context:
    """Keys and values of a context, [1, heads, K, dim] per layer, and its last hidden state [1, H]."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    hidden: torch.Tensor
    length: int


class Engine:
    """A loaded causal language model. Not thread-safe: one thread owns it."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = model.device
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.max_tokens = int(getattr(model.config, "max_position_embeddings", 2048))
        self._contexts: OrderedDict[tuple[int, ...], Context] = OrderedDict()

    def context(self, tokens: tuple[int, ...]) -> Context:
        """Return the computed context of these tokens, which may be none; the most recent ones are kept."""
        import torch
        from transformers import DynamicCache

        if not tokens:
            return Context((), self.model.get_output_embeddings().weight[:1], 0)
        if found := self._contexts.get(tokens):
            self._contexts.move_to_end(tokens)
            return found
        cache: Any = DynamicCache()
        ids = torch.tensor([tokens, tokens], device=self.device)
        with torch.inference_mode():
            hidden = self.model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        # Copies: a view of the first row would keep the second one too.
        layers = tuple((layer.keys[:1].clone(), layer.values[:1].clone()) for layer in cache.layers)
        context = Context(layers, hidden[:1, -1].clone(), len(tokens))
        self._contexts[tokens] = context
        while len(self._contexts) > _CONTEXTS:
            self._contexts.popitem(last=False)
        return context

    def score(self, context: Context, rows: Sequence[PackedRow]) -> list[list[float]]:
        """Log-probability of every token of every row; the rows must share their bucket length."""
        import torch

        length = bucket_length(len(rows[0].tokens))
        ids = np.zeros((len(rows), length), dtype=np.int64)
        positions = np.full((len(rows), length), context.length, dtype=np.int64)
        for line, row in enumerate(rows):
            ids[line, : len(row.tokens)] = row.tokens
            positions[line, : len(row.tokens)] += row.positions
        mask = attention_mask(rows, length, context.length)
        with torch.inference_mode():
            hidden = self.model.model(
                input_ids=torch.from_numpy(ids).to(self.device),
                position_ids=torch.from_numpy(positions).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
                past_key_values=self._cache(context, len(rows)),
                use_cache=True,
            ).last_hidden_state
            states = torch.cat([context.hidden, hidden.reshape(-1, hidden.shape[-1])])
            sources = [
                0 if parent < 0 else 1 + line * length + parent
                for line, row in enumerate(rows)
                for parent in row.parents
            ]
            targets = [token for row in rows for token in row.tokens]
            flat = self._logprobs(states, sources, targets)
        out: list[list[float]] = []
        for row in rows:
            out.append(flat[: len(row.tokens)])
            flat = flat[len(row.tokens) :]
        return out

    def _cache(self, context: Context, rows: int) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache()
        for index, (keys, values) in enumerate(context.layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
        return cache

    def _logprobs(self, states: torch.Tensor, sources: list[int], targets: list[int]) -> list[float]:
        import torch

        head = self.model.get_output_embeddings()
        needed, inverse = np.unique(np.asarray(sources), return_inverse=True)
        unique = states[torch.from_numpy(needed).to(self.device)]
        normaliser = torch.cat(
            [
                torch.logsumexp(head(_at_least_two(part)).float(), -1)[: len(part)]
                for part in torch.split(unique, _HEAD_ROWS)
            ]
        )
        order = torch.from_numpy(inverse).to(self.device)
        # The target's logit in float32: rounding it to bfloat16 would add up to 0.06 nats of noise a token.
        chosen = head.weight[torch.tensor(targets, device=self.device)].float()
        logits = (unique[order].float() * chosen).sum(-1)
        if head.bias is not None:
            logits += head.bias[torch.tensor(targets, device=self.device)].float()
        return (logits - normaliser[order]).tolist()

    def prefill(
        self, context: Context, prompts: Sequence[Sequence[int]]
    ) -> tuple[Any, npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Read prompts of one bucket length behind a context.

        Returns:
            The key-value cache, which of its columns hold tokens (bool [B, K + L]), and the logits behind each prompt
            (float32 [B, V]). B is at least 2: a single prompt is doubled.
        """
        import torch

        length = bucket_length(max(len(prompt) for prompt in prompts))
        lines = list(prompts) if len(prompts) > 1 else [prompts[0], prompts[0]]
        ids = np.zeros((len(lines), length), dtype=np.int64)
        filled = np.zeros((len(lines), length), dtype=np.bool_)
        for line, prompt in enumerate(lines):
            ids[line, : len(prompt)] = prompt
            filled[line, : len(prompt)] = True
        before = np.ones((length, context.length), dtype=np.bool_)
        causal = np.concatenate([before, np.tril(np.ones((length, length), dtype=np.bool_))], axis=1)
        mask = np.broadcast_to(causal, (len(lines), 1, *causal.shape)).copy()
        positions = torch.arange(context.length, context.length + length, device=self.device)
        cache = self._cache(context, len(lines))
        with torch.inference_mode():
            hidden = self.model.model(
                input_ids=torch.from_numpy(ids).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
                position_ids=positions[None].expand(len(lines), -1),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            last = hidden[torch.arange(len(lines)), torch.tensor([len(prompt) - 1 for prompt in lines])]
            logits = self.model.get_output_embeddings()(last).float().cpu().numpy()
        seen = np.ones((len(lines), context.length), dtype=np.bool_)
        return cache, np.concatenate([seen, filled], axis=1), logits

    def step(
        self, cache: Any, filled: npt.NDArray[np.bool_], tokens: Sequence[int], positions: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """Append one token to each row of the cache; return the logits behind it, float32 [B, V].

        ``filled`` already has the column of the new tokens.
        """
        import torch

        with torch.inference_mode():
            hidden = self.model.model(
                input_ids=torch.tensor(tokens, device=self.device)[:, None],
                attention_mask=torch.from_numpy(filled[:, None, None, :]).to(self.device),
                position_ids=torch.tensor(positions, device=self.device)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            return self.model.get_output_embeddings()(hidden[:, -1]).float().cpu().numpy()


def _at_least_two(states: torch.Tensor) -> torch.Tensor:
    return states if len(states) > 1 else states.expand(2, -1)


def load_engine(checkpoint: Checkpoint, *, device: str, dtype: str, threads: int | None) -> Engine:
    """Load a checkpoint.

    Args:
        checkpoint: What ``locate`` found.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto`` (bfloat16 where the hardware has it), ``bfloat16`` or ``float32``.
        threads: CPU threads for the matrix products, or None for all cores.

    Raises:
        BackendUnreachableError: the checkpoint cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    _give_back_large_buffers()
    if threads:
        torch.set_num_threads(threads)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    kind = _dtype(dtype, place)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.location, dtype=kind, attn_implementation="sdpa", trust_remote_code=False
        )
        tokenizer: Any = cast(Any, AutoTokenizer).from_pretrained(
            checkpoint.location, trust_remote_code=False
        )
        model.to(place).eval()
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackendUnreachableError(
            f"cannot load model {checkpoint.location!r} on {place}: {first}; check backends.default.model"
        ) from error
    return Engine(model, tokenizer)


def _give_back_large_buffers() -> None:
    """Tell glibc to map buffers of 8 MiB and more by themselves, so that they go back to the system when freed.

    Left alone it raises that limit to 32 MiB as it sees such buffers go, keeps the logits in its heap instead, and
    their many sizes tear holes into it: a run took several hundred MiB more.
    """
    import ctypes

    with suppress(OSError, AttributeError):  # another libc has neither the habit nor the call
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 8 * 2**20)


def _dtype(name: str, place: str) -> torch.dtype:
    import torch

    if name != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]
    if place == "cpu":
        return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32
    return torch.bfloat16


def _cpu_has_bfloat16() -> bool:
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
