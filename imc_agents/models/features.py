"""Image features on their way to a model: checked against its config, then sent in place of the image.

A wrong shape can kill vLLM's engine, and values that are not finite corrupt later requests of others, so nothing is
sent that has not been checked.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, cast

from imc_agents.errors import DataError
from imc_agents.models.families import takes_features
from imc_agents.models.protocol import ImageFeatures

__all__ = ["check_features", "engine_features", "features_part"]

# Families whose number of tokens follows from the size of the image, which is told beside the features.
_WITH_GRID = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})


def features_part(features: ImageFeatures) -> dict[str, Any]:
    """The part of a chat message that holds image features, as vLLM takes it."""
    rows = _npy(features.rows)
    if features.grid is None:
        return {"type": "image_embeds", "image_embeds": rows}
    import numpy as np

    grid = _npy(np.asarray([features.grid], dtype=np.int64))
    return {"type": "image_embeds", "image_embeds": {"image_embeds": rows, "image_grid_thw": grid}}


def engine_features(features: Sequence[ImageFeatures]) -> Any:
    """Image features of one prompt as vLLM's engine takes them in this process."""
    import torch

    rows = [torch.from_numpy(item.rows) for item in features]
    grids = [item.grid for item in features if item.grid is not None]
    if grids:
        return {"image_embeds": torch.cat(rows), "image_grid_thw": torch.tensor(grids)}
    return rows


def check_features(features: ImageFeatures, config: dict[str, Any], model: str) -> None:
    """Check image features before they are sent.

    Args:
        features: What is to be sent.
        config: ``config.json`` of the model; empty where it could not be had.
        model: Name for messages.

    Raises:
        DataError: the model takes no features, its config is not known, or shape, dtype or values are wrong.
    """
    import numpy as np

    cure = "let the engine calibrate instead: imc serve --calibrate BANK"
    if not config:
        raise DataError(f"the config of {model!r} cannot be had, so image features cannot be checked; {cure}")
    kind = str(config.get("model_type"))
    if not takes_features(config):
        raise DataError(f"vLLM takes no image features for the family {kind} of {model!r}; {cure}")
    rows = features.rows
    if rows.dtype != np.float32 or rows.ndim != 2 or not rows.size:
        raise DataError(
            f"image features of dtype {rows.dtype} and shape {rows.shape}; they must be float32 (tokens, width)"
        )
    width, tokens = _expected(config, kind, features.grid, model)
    if rows.shape[1] != width or (tokens is not None and rows.shape[0] != tokens):
        wanted = f"{'any number of' if tokens is None else tokens} by {width}"
        raise DataError(
            f"image features of shape {rows.shape[0]} by {rows.shape[1]}; {model!r} takes {wanted}: "
            "they are of another model or of another image size"
        )
    if not bool(np.isfinite(rows).all()):
        raise DataError("image features hold values that are not finite; they are not sent")


def _expected(
    config: dict[str, Any], kind: str, grid: tuple[int, int, int] | None, model: str
) -> tuple[int, int | None]:
    """Width and number of the tokens of one image."""
    vision = _section(config, "vision_config")
    if kind in _WITH_GRID:
        if grid is None:
            raise DataError(
                f"image features for {model!r} come without the grid of their patches, which it needs"
            )
        merge = int(vision.get("spatial_merge_size", 2))
        levels = len(vision.get("deepstack_visual_indexes") or ()) if kind.startswith("qwen3") else 0
        width = int(vision.get("out_hidden_size") or vision["hidden_size"])
        return width * (1 + levels), grid[0] * grid[1] * grid[2] // merge**2
    text = _section(config, "text_config")
    width = int(text.get("hidden_size") or config["hidden_size"])
    if kind != "llava":
        return width, None
    tokens = (int(vision["image_size"]) // int(vision["patch_size"])) ** 2
    if config.get("vision_feature_select_strategy", "default") == "full" and "clip" in str(
        vision.get("model_type")
    ):
        tokens += 1
    return width, tokens


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: Any = config.get(name)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _npy(array: Any) -> str:
    import numpy as np

    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    return base64.b64encode(written.getvalue()).decode("ascii")
