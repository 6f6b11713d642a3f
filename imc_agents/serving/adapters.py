"""A vLLM plugin: scores and batches are right beside LoRA adapters.

vLLM 0.32 has two faults here (github.com/vllm-project/vllm/issues/51594 and what follows from the same mapping):

- the head's share of an adapter is mapped to requests, also where there is a row for each token of a scored prompt: on
  a CPU the engine dies, on a GPU the share is lost. Adapters seldom have one. Those that do are refused here, for all
  others the step is left out;
- on a CPU, requests for the base model that share a batch with an adapter get the last adapter.

On with ``IMC_VLLM_ADAPTERS=1``, which ``imc serve`` sets where it is given ``--enable-lora``.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["ENABLED_BY", "register"]

ENABLED_BY = "IMC_VLLM_ADAPTERS"


class _NoHead:
    """In place of what adds the head's share: adds nothing."""

    def add_lora_logits(self, logits: Any, *_: Any, **__: Any) -> Any:
        return logits


def register() -> None:
    """Mend both; called by vLLM in each of its processes (entry point ``vllm.general_plugins``).

    Raises:
        ImportError: this vLLM keeps its adapters elsewhere; better no server than one that mixes them up.
    """
    if os.environ.get(ENABLED_BY) != "1":
        return
    from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    head: Any = LogitsProcessorWithLoRA
    on_cpu: Any = punica_cpu
    if getattr(head, "scores_beside_adapters", False):
        return
    shrink = lora_ops.bgmv_shrink

    def bgmv_shrink(inputs: Any, weights: Any, output: Any, adapters: Any, scaling: float = 1.0) -> None:
        shrink(inputs, weights, output, adapters, scaling)
        output[adapters < 0] = 0  # -1 is the base model, and the last adapter where it is taken for an index

    def set_mapping(self: Any, _: Any) -> None:
        self.punica_wrapper = _NoHead()

    def set_lora(*_: Any, **__: Any) -> None:
        raise ValueError(
            "the adapter changes lm_head, which vLLM leaves out of scores; train it on the other layers only"
        )

    lora_ops.bgmv_shrink = on_cpu.bgmv_shrink = bgmv_shrink
    head.set_mapping = set_mapping
    head.set_lora = set_lora
    head.scores_beside_adapters = True
