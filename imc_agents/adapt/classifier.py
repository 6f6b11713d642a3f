"""Zero-shot classification: image embeddings against embeddings of class prompts, both of length one.

Radford et al. 2021, section 3.1: the embeddings of all prompts of a class are averaged and normalised again, and logits
are cosines times the model's own scale (plus its bias, where it has one, as SigLIP).
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imc_agents.errors import DataError
from imc_agents.vision.encoders.open_clip_models import Created

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Head", "make_head"]

_TEXTS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What turns image embeddings into logits of classes; frozen.

    Attributes:
        classes: (embedding, classes) float32, columns of length one.
        scale: The model's own, after the exponential.
        bias: The model's own; 0 where it has none.
    """

    classes: Tensor
    scale: float
    bias: float

    def logits(self, embeddings: Tensor) -> Tensor:
        """Logits (images, classes) float32 of embeddings (images, embedding) of any length."""
        from torch.nn.functional import normalize

        return self.scale * normalize(embeddings.float(), dim=1) @ self.classes + self.bias

    def to(self, device: str) -> Head:
        """The same on another device."""
        return Head(self.classes.to(device), self.scale, self.bias)


def make_head(created: Created, prompts: Sequence[Sequence[str]]) -> Head:
    """Embed the prompts of each class, once; the text encoder is not needed after that.

    Args:
        created: The model; its text encoder is on one device with its image encoder.
        prompts: Texts of each class.

    Raises:
        DataError: the text encoder gives values that are not finite, or the same for all classes.
    """
    import torch
    from torch.nn.functional import normalize

    model: Any = created.model
    texts = [text for of_class in prompts for text in of_class]
    device = next(model.parameters()).device
    with torch.inference_mode():
        rows = [
            model.encode_text(created.tokenizer(texts[first : first + _TEXTS]).to(device)).float()
            for first in range(0, len(texts), _TEXTS)
        ]
        of_class = normalize(torch.cat(rows), dim=1).split([len(found) for found in prompts])
        classes = normalize(torch.stack([found.mean(0) for found in of_class]), dim=1)
    if not bool(classes.isfinite().all()):
        raise DataError(
            f"open_clip:{created.spec}: embeddings of the class prompts are not finite; check its weights"
        )
    if len(classes) > 1 and torch.equal(classes, classes[:1].expand_as(classes)):
        raise DataError(
            f"open_clip:{created.spec}: the text encoder cannot tell the class prompts apart; shorten them, since its"
            " context ends before they differ"
        )
    bias = getattr(model, "logit_bias", None)
    # A clone, because tensors of inference mode take no part in training.
    return Head(
        classes.T.contiguous().clone(),
        float(model.logit_scale.detach().exp()),
        0.0 if bias is None else float(bias.detach()),
    )
