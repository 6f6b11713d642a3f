"""CLIP encoders of open_clip, on tiny random models of each kind: what is pooled is what the model itself gives."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from imc_agents.errors import ConfigError
from imc_agents.vision.encoders.open_clip import OpenClipEncoder, load
from imc_agents.vision.encoders.protocol import PATCHES, Encoder
from imc_agents.vision.encoders.specs import load_encoder

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
OWN = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "image_size": 224}
KINDS = {
    "class token": OWN,
    "mean of patches": {**OWN, "pool_type": "avg"},
    "norm behind the pool": {**OWN, "pool_type": "avg", "final_ln_after_pool": True},
    "timm, class token": {**TIMM, "timm_pool": "token", "timm_proj": "linear"},
    "timm, mean": {**TIMM, "timm_pool": "avg", "timm_proj": "linear"},
    "timm, images of any size": {
        **TIMM,
        "timm_model_name": "test_vit",
        "image_size": 160,
        "timm_pool": "token",
        "timm_proj": "linear",
    },
}


def write(folder: Path, vision: dict[str, Any]) -> Path:
    folder.mkdir()
    torch.manual_seed(0)
    architecture = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}
    model = open_clip.CLIP(**architecture)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": architecture, "preprocess_cfg": {}})
    )
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module", params=list(KINDS))
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenClipEncoder:
    return load(str(write(tmp_path_factory.mktemp("clip") / "model", KINDS[request.param])))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = ((40, 50), (64, 48), (33, 33))
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def test_what_is_pooled_is_the_embedding_of_the_model(
    encoder: OpenClipEncoder, images: list[Image.Image]
) -> None:
    inputs = encoder.preprocess(images)
    encoded = encoder.encode(inputs)
    with torch.inference_mode():
        whole = encoder.model.encode_image(inputs, normalize=False)
    assert torch.equal(encoder.pool(encoded.tokens), whole)
    changed = encoder.pool(type(encoded.tokens)(encoded.tokens.rows + 1.0, encoded.tokens.counts))
    assert changed.shape == whole.shape


def test_layers_are_those_of_the_model(encoder: OpenClipEncoder, images: list[Image.Image]) -> None:
    inputs = encoder.preprocess(images)
    info = encoder.info
    encoded = encoder.encode(inputs, (PATCHES, 0, info.depth))
    visual = encoder.model.visual
    patches = encoded.layers[PATCHES]
    grid = encoded.grids[0]
    assert set(patches.counts) == {grid[0] * grid[1]}
    assert patches.rows.shape[1] == info.layer_width
    with torch.inference_mode():
        convolution = visual.trunk.patch_embed.proj if hasattr(visual, "trunk") else visual.conv1
        expected = convolution(inputs).flatten(2).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(patches.rows, expected, atol=1e-5)
    last = torch.cat([rows[info.prefix_tokens :] for rows in encoded.tokens.split()])
    assert torch.equal(encoded.layers[info.depth].rows, last)
    assert not torch.equal(encoded.layers[0].rows, last)
    with pytest.raises(ConfigError, match=f"there is no layer {info.depth + 1}"):
        encoder.encode(inputs, (info.depth + 1,))


def test_a_batch_is_its_images(encoder: OpenClipEncoder, images: list[Image.Image]) -> None:
    together = encoder.encode(encoder.preprocess(images)).tokens.split()
    for image, rows in zip(images, together, strict=True):
        alone = encoder.encode(encoder.preprocess([image])).tokens.rows
        assert torch.allclose(alone, rows, atol=1e-4)


def test_threads_do_not_mix_what_they_encode(encoder: OpenClipEncoder, images: list[Image.Image]) -> None:
    inputs = [encoder.preprocess([image]) for image in images[:2]]
    expected = [encoder.encode(one, (PATCHES, 1)) for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: (at, encoder.encode(inputs[at], (PATCHES, 1))), [0, 1] * 10))
    for at, encoded in found:
        assert torch.allclose(encoded.tokens.rows, expected[at].tokens.rows, atol=1e-5)
        for layer in (PATCHES, 1):
            assert torch.allclose(encoded.layers[layer].rows, expected[at].layers[layer].rows, atol=1e-5)


def test_a_spec_names_a_folder_and_a_dtype(tmp_path: Path, images: list[Image.Image]) -> None:
    folder = write(tmp_path / "model", OWN)
    found = load_encoder(f"open_clip:{folder}", dtype="bfloat16")
    assert isinstance(found, Encoder)
    assert (found.info.family, found.info.dtype, found.info.image_size) == ("open_clip", "bfloat16", 32)
    assert found.encode(found.preprocess(images)).tokens.rows.dtype == torch.bfloat16
    whole = load_encoder(f"open_clip:{folder}")
    assert whole.info.revision != "" and whole.info.identity != found.info.identity  # noqa: PT018


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ViT-B-61", "knows no model 'ViT-B-61'; did you mean"),
        ("ViT-B-16", "names no weights.*openai"),
        ("ViT-B-16:opnai", "did you mean 'openai'"),
        ("ViT-B-16:weights.pt", "convert them to safetensors"),
        ("hollow", "holds no open_clip_config.json"),
    ],
)
def test_what_cannot_be_loaded_is_named(
    spec: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hollow").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words) as caught:
        load(spec)
    assert "\n" not in str(caught.value)
