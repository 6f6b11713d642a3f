"""What an adaptation is made with."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from imc_agents.errors import ConfigError

__all__ = ["FitSettings", "Precision", "check_precision"]

Precision = Literal["float32", "bfloat16", "float16"]


class FitSettings(BaseModel):
    """Settings of a fit; the defaults are those of RobustMedCLIP (arXiv 2505.15425).

    Attributes:
        shots: Share of the clean training images of each class, in (0, 1].
        rank: Rank of the adapter of each projection or convolution.
        alpha: The adapters' output is scaled by ``alpha / rank``; None is ``rank``.
        qkv: Whether query, key and value that lie in one weight get an adapter each, as published, or one in common.
        epochs: Passes over the shots.
        batch: Images of a step.
        accumulate: Parts in which a step's images go through the encoder, to save memory.
        learning_rate: Of AdamW.
        schedule: ``constant``, or ``cosine``: the learning rate falls to nothing over the whole training.
        weight_decay: Of AdamW.
        class_weights: ``balanced`` weighs each class alike in the loss, ``none`` each image.
        precision: In which the forward pass runs; the adapters are always float32.
        seed: Of the choice of shots, of the adapters' first values, and of the order of images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shots: float
    rank: int = 16
    alpha: float | None = None
    qkv: Literal["separate", "fused"] = "separate"
    epochs: int = 20
    batch: int = 256
    accumulate: int = 1
    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 1e-4
    class_weights: Literal["none", "balanced"] = "none"
    precision: Precision = "float32"
    seed: int = 42


def check_precision(precision: str, device: str) -> None:
    """Check that a device trains in a precision.

    Raises:
        ConfigError: it does not.
    """
    if precision == "float16" and device == "cpu":
        raise ConfigError("--precision float16 needs a GPU; take bfloat16 or float32")
