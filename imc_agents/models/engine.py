"""The causal language model in process: batched scoring of packed rows and lock-step generation.

Numbers of one row never depend on the rows beside it: attention pads a row to a length that is a function of the row
alone, and the matrix products of a row do not depend on how many rows there are. Very few rows take other kernels, so
there are always some more (see ``_LEAST_ROWS``). So a result is the same alone, in a crowd, and after a resume, bit by
bit on a CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from imc_agents.errors import BackendUnreachableError, InfraError
from imc_agents.models.packing import PackedRow, bucket_length, pack, unpack
from imc_agents.models.ragged import ATTENTION, Context, ragged, register

if TYPE_CHECKING:
    import torch

    from imc_agents.models.weights import Checkpoint

__all__ = ["Context", "Engine", "load_engine"]

_CONTEXTS = 16
_M_MMAP_THRESHOLD = -3  # of malloc.h
_LEAST_ROWS = 16  # of a matrix product; float32 products of fewer differ in the last bits
_SAME_NATS = 0.5  # bfloat16 rounds off less than half of it
_HEAD_ROWS = 128  # rows of logits at a time: 128 x 49,152 floats stay in the last-level cache


class Engine:
    """A loaded causal language model. Not thread-safe: one thread owns it."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = model.device
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.max_tokens = _reach(model.config.get_text_config())
        self._contexts: OrderedDict[tuple[int, ...], Context] = OrderedDict()
        self._logits: tuple[torch.Tensor, torch.Tensor] | None = None

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
            hidden = self.model.base_model(
                input_ids=ids, past_key_values=cache, use_cache=True
            ).last_hidden_state
        # Copies: a view of the first row would keep the second one too.
        layers = tuple((layer.keys[:1].clone(), layer.values[:1].clone()) for layer in cache.layers)
        context = Context(layers, hidden[:1, -1].clone(), len(tokens))
        self._contexts[tokens] = context
        while len(self._contexts) > _CONTEXTS:
            self._contexts.popitem(last=False)
        return context

    def score(self, contexts: Sequence[Context], rows: Sequence[PackedRow]) -> list[list[float]]:
        """Log-probability of every token of every row behind its context."""
        import torch

        line = ragged(contexts, rows, self.model.dtype, self.device, _LEAST_ROWS)
        with torch.inference_mode():
            hidden = self.model.base_model(
                input_ids=line.ids,
                position_ids=line.positions,
                # Not read, but a mask of four dimensions keeps transformers from making one over the whole line.
                attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.device),
                use_cache=False,
                line=line,
            ).last_hidden_state[0]
            heads = {id(context): context.hidden for context in contexts}
            before = {key: number for number, key in enumerate(heads)}
            states = torch.cat([*heads.values(), hidden])
            sources: list[int] = []
            start = len(heads)
            for context, row in zip(contexts, rows, strict=True):
                first = before[id(context)]
                sources += [first if parent < 0 else start + parent for parent in row.parents]
                start += len(row.tokens)
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
        needed, inverse = np.unique(np.asarray(sources, dtype=np.int64), return_inverse=True)
        unique = states[torch.from_numpy(needed).to(self.device)]
        normaliser = torch.cat([self._normaliser(part, head) for part in torch.split(unique, _HEAD_ROWS)])
        order = torch.from_numpy(inverse).to(self.device)
        # The target's logit in float32: rounding it to bfloat16 would add up to 0.06 nats of noise a token.
        chosen = torch.tensor(targets, dtype=torch.int64, device=self.device)
        logits = (unique[order].float() * head.weight[chosen].float()).sum(-1)
        if head.bias is not None:
            logits += head.bias[chosen].float()
        return (logits - normaliser[order]).tolist()

    def _normaliser(self, states: torch.Tensor, head: Any) -> torch.Tensor:
        """Log of the sum of the exponentials of all logits behind states [n, H]: float32 [n].

        Works in two buffers that are kept: taking fresh memory for the logits of every part takes as long as the
        arithmetic.
        """
        import torch

        rows = max(len(states), _LEAST_ROWS)
        if self._logits is None:
            shape = (_HEAD_ROWS, self.vocabulary)
            self._logits = (
                torch.empty(shape, dtype=self.model.dtype, device=self.device),
                torch.empty(shape, device=self.device),
            )
        padded = torch.nn.functional.pad(states, (0, 0, 0, rows - len(states)))
        rounded, logits = (buffer[:rows] for buffer in self._logits)
        logits.copy_(torch.mm(padded, head.weight.t(), out=rounded))
        if head.bias is not None:
            logits.add_(head.bias)
        top = logits.amax(-1, keepdim=True)
        sums = logits.sub_(top).exp_().sum(-1)
        return (sums.log() + top[:, 0])[: len(states)]

    def lines(self, wanted: Sequence[int]) -> list[int]:
        """The lines of a cache to keep so that these come first and the products of none depend on their number.

        Products of single lines in float32 are the same in multiples of four, in bfloat16 from two on.
        """
        step = 2 if self.model.dtype.itemsize == 2 else 4
        return [*wanted, *[wanted[0]] * (-len(wanted) % step)]

    def prefill(
        self, context: Context, prompts: Sequence[Sequence[int]]
    ) -> tuple[Any, npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Read prompts of one bucket length behind a context.

        Returns:
            The key-value cache, which of its columns hold tokens (bool [B, K + L]), and the logits behind each prompt
            (float32 [B, V]). B may be more than the prompts, see ``lines``.
        """
        import torch

        length = bucket_length(max(len(prompt) for prompt in prompts))
        lines = [prompts[line] for line in self.lines(range(len(prompts)))]
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
            hidden = self.model.base_model(
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
            hidden = self.model.base_model(
                input_ids=torch.tensor(tokens, device=self.device)[:, None],
                attention_mask=torch.from_numpy(filled[:, None, None, :]).to(self.device),
                position_ids=torch.tensor(positions, device=self.device)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            return self.model.get_output_embeddings()(hidden[:, -1]).float().cpu().numpy()


def load_engine(checkpoint: Checkpoint, *, device: str, dtype: str, threads: int | None) -> Engine:
    """Load a checkpoint.

    Args:
        checkpoint: What ``locate`` found.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto`` (bfloat16 where the hardware has it), ``bfloat16`` or ``float32``.
        threads: CPU threads for the matrix products, or None for all cores.

    Raises:
        BackendUnreachableError: the checkpoint cannot be loaded.
        InfraError: a model of this type cannot be scored here.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    _give_back_large_buffers()
    register()
    if threads:
        torch.set_num_threads(threads)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    kind = _dtype(dtype, place)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.location, dtype=kind, attn_implementation=ATTENTION, trust_remote_code=False
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
    engine = Engine(model, tokenizer)
    _check(engine)
    return engine


def _reach(config: Any) -> int:
    """Tokens that every layer sees: up to the sliding window, attention over it is attention over all."""
    reach = int(getattr(config, "max_position_embeddings", 2048))
    window: int | None = getattr(config, "sliding_window", None)
    layers: list[str] = getattr(config, "layer_types", None) or ["sliding_attention"]
    return min(reach, window) if window and "sliding_attention" in layers else reach


def _check(engine: Engine) -> None:
    """Make sure that packed scores are those of the model's own forward pass.

    They are not where a layer is no plain attention, or where logits are scaled or capped.
    """
    try:
        same = _scores_as_itself(engine)
    except (TypeError, AttributeError, ValueError, IndexError, RuntimeError):  # other layers, other arguments
        same = False
    if not same:
        raise InfraError(
            f"a model of type {engine.model.config.model_type!r} cannot be scored in process: packed scores are "
            "not those of its own forward pass; serve it and use a backend of kind openai"
        )


def _scores_as_itself(engine: Engine) -> bool:
    import torch

    context, texts = (5, 6), [[7, 8, 9], [7, 8, 10, 11]]
    found = unpack(row := pack(texts, 16)[0], engine.score([engine.context(context)], [row])[0])
    for number, text in enumerate(texts):
        with torch.inference_mode():
            logits = engine.model(torch.tensor([[*context, *text]], device=engine.device)).logits[0].float()
        behind = logits[len(context) - 1 : -1].log_softmax(-1)
        expected = behind[torch.arange(len(text)), torch.tensor(text)].tolist()
        if not np.allclose(found[number], expected, rtol=0, atol=_SAME_NATS):
            return False
    return True


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
