"""Image features on their way to a model: nothing is sent that could break or poison the engine."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest

from imc_agents.errors import DataError
from imc_agents.models.features import check_features, engine_features, features_part
from imc_agents.models.protocol import ImageFeatures

LLAVA = {
    "model_type": "llava",
    "text_config": {"hidden_size": 48},
    "vision_config": {"model_type": "clip_vision_model", "image_size": 64, "patch_size": 16},
}
QWEN = {"model_type": "qwen2_5_vl", "vision_config": {"out_hidden_size": 32, "spatial_merge_size": 2}}
QWEN3 = {
    "model_type": "qwen3_vl",
    "vision_config": {"out_hidden_size": 32, "spatial_merge_size": 2, "deepstack_visual_indexes": [1, 2, 3]},
}


def features(
    tokens: int, width: int, grid: tuple[int, int, int] | None = None, **options: Any
) -> ImageFeatures:
    rows = np.random.default_rng(0).normal(size=(tokens, width)).astype(options.get("dtype", np.float32))
    if options.get("nan"):
        rows[1, 2] = np.nan
    return ImageFeatures(rows, grid, "digest")


@pytest.mark.parametrize(
    ("found", "config"),
    [
        (features(16, 48), LLAVA),
        (features(17, 48), {**LLAVA, "vision_feature_select_strategy": "full"}),
        (features(6, 32, (1, 4, 6)), QWEN),
        (features(6, 128, (1, 4, 6)), QWEN3),
    ],
)
def test_what_fits_passes(found: ImageFeatures, config: dict[str, Any]) -> None:
    check_features(found, config, "m")


@pytest.mark.parametrize(
    ("found", "config", "words"),
    [
        (features(15, 48), LLAVA, "15 by 48; 'm' takes 16 by 48"),
        (features(16, 40), LLAVA, "16 by 40; 'm' takes 16 by 48"),
        (features(16, 48, dtype=np.float64), LLAVA, "float64"),
        (features(16, 48, nan=True), LLAVA, "not finite"),
        (features(0, 48), LLAVA, "shape"),
        (features(6, 32), QWEN, "without the grid"),
        (features(7, 32, (1, 4, 6)), QWEN, "takes 6 by 32"),
        (features(6, 32, (1, 4, 6)), QWEN3, "takes 6 by 128"),
        (
            features(16, 48),
            {"model_type": "gemma3"},
            "no image features for the family gemma3.*imc serve --calibrate",
        ),
        (features(16, 48), {}, "cannot be had.*imc serve --calibrate"),
    ],
)
def test_what_does_not_fit_is_refused(found: ImageFeatures, config: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_features(found, config, "m")


def read(text: str) -> Any:
    return np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)


def test_the_server_gets_the_values_without_pickle() -> None:
    plain, gridded = features(16, 48), features(6, 32, (1, 4, 6))
    assert np.array_equal(read(features_part(plain)["image_embeds"]), plain.rows)
    parts = features_part(gridded)["image_embeds"]
    assert np.array_equal(read(parts["image_embeds"]), gridded.rows)
    assert read(parts["image_grid_thw"]).tolist() == [[1, 4, 6]]


def test_the_engine_gets_one_tensor_an_image() -> None:
    first, second = engine_features([features(16, 48), features(16, 48)])
    assert first.shape == second.shape == (16, 48)
    joined = engine_features([features(6, 32, (1, 4, 6)), features(4, 32, (1, 4, 4))])
    assert joined["image_embeds"].shape == (10, 32)
    assert joined["image_grid_thw"].tolist() == [[1, 4, 6], [1, 4, 4]]
