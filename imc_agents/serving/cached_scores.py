"""A vLLM plugin: prompts that are scored read the prefix cache up to the end of their context.

vLLM 0.32 skips the prefix cache for every request with ``prompt_logprobs``, since positions that come from the cache
have no logits. The agents ask for the log-probabilities of short texts behind one long context and read only those of
the text, so the context may well come from the cache. Three places are changed, in the processes of vLLM only:

- the scheduler looks such a request up in the cache, up to the number of tokens that its extra argument
  ``imc_cached_tokens`` names; requests without it are treated as ever;
- the buffer for the log-probabilities of a prompt begins with the impossible value 1.0 and token 0, so that what was
  not computed is told apart (the buffer was uninitialised memory before);
- those positions are left out of the answer, which then begins behind what came from the cache.

Off unless ``IMC_VLLM_CACHED_SCORES=1``: a vLLM that others start in the same environment stays as it is.
"""

from __future__ import annotations

import logging
import os
from typing import Any

__all__ = ["ENABLED_BY", "register"]

_LOG = logging.getLogger(__name__)
ENABLED_BY = "IMC_VLLM_CACHED_SCORES"
_ARGUMENT = "imc_cached_tokens"
_NOT_COMPUTED = 1.0


class _Shortened:
    """A request as the cache lookup sees it: no longer than the part that may come from the cache."""

    def __init__(self, request: Any, tokens: int) -> None:
        self._request = request
        self.num_tokens = tokens + 1  # vLLM always computes the last token of a request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


def register() -> None:
    """Change the three places; called by vLLM in each of its processes (entry point ``vllm.general_plugins``)."""
    if os.environ.get(ENABLED_BY) != "1":
        return
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.engine.logprobs import LogprobsProcessor
    from vllm.v1.outputs import LogprobsTensors

    manager: Any = KVCacheManager
    processor: Any = LogprobsProcessor
    tensors: Any = LogprobsTensors
    if getattr(manager, "reads_cache_for_scores", False):
        return
    changed = (
        (manager, "prefix_cache_lookup_enabled"),
        (manager, "get_computed_blocks"),
        (processor, "_update_prompt_logprobs"),
        (tensors, "empty_cpu"),
    )
    if missing := [name for owner, name in changed if not hasattr(owner, name)]:
        _LOG.warning("scores do not read the prefix cache: this vLLM has no %s", ", ".join(missing))
        return
    is_enabled, computed, empty = (
        manager.prefix_cache_lookup_enabled,
        manager.get_computed_blocks,
        tensors.empty_cpu,
    )

    def prefix_cache_lookup_enabled(self: Any, request: Any) -> bool:
        return self.enable_caching if _cached_tokens(request) else is_enabled(self, request)

    def get_computed_blocks(self: Any, request: Any) -> Any:
        tokens = _cached_tokens(request)
        return computed(self, _Shortened(request, min(tokens, request.num_tokens - 1)) if tokens else request)

    def empty_cpu(*shape: int) -> Any:
        found = empty(*shape)
        found.logprob_token_ids.zero_()
        found.logprobs.fill_(_NOT_COMPUTED)
        found.selected_token_ranks.zero_()
        return found

    answer = processor._update_prompt_logprobs

    def update_prompt_logprobs(self: Any, found: Any) -> None:
        missing = int((found.logprobs[:, 0] == _NOT_COMPUTED).sum())  # at the beginning, all of them
        parts = (found.logprob_token_ids, found.logprobs, found.selected_token_ranks)
        answer(self, LogprobsTensors(*(part[missing:] for part in parts)) if missing else found)

    processor._update_prompt_logprobs = update_prompt_logprobs
    manager.prefix_cache_lookup_enabled = prefix_cache_lookup_enabled
    manager.get_computed_blocks = get_computed_blocks
    manager.reads_cache_for_scores = True
    tensors.empty_cpu = staticmethod(empty_cpu)


def _cached_tokens(request: Any) -> int:
    sampling = request.sampling_params
    if sampling is None or sampling.prompt_logprobs is None or not sampling.extra_args:
        return 0
    value = sampling.extra_args.get(_ARGUMENT, 0)
    return value if isinstance(value, int) and value > 0 else 0
