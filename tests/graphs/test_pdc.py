"""The image branch as a graph, on the real vision encoder of TinyMed: paths in the state, tensors in the store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphs.pdc import build
from imc_agents.agents.sight import SightContext, for_one, open_sight
from imc_agents.errors import ConfigError, DataError
from imc_agents.noise.image import apply_image_noise
from imc_agents.noise.registry import get_noise
from imc_agents.vision.build import build_bank
from imc_agents.vision.encoders.mllm import load
from tests.vision.tinymed import arrays, needs_tinymed, samples, scans, vision_checkpoint

pytestmark = needs_tinymed


@pytest.fixture(scope="module")
def sight(tmp_path_factory: pytest.TempPathFactory) -> SightContext:
    folder = tmp_path_factory.mktemp("sight")
    encoder = load(str(vision_checkpoint(folder / "tinymed")), dtype="float32")
    bank = build_bank(encoder, samples(scans(held_out=False)[:60]), [get_noise("gaussian", "image")])
    images = folder / "images"
    images.mkdir()
    clean = arrays(scans(held_out=True)[:1])[0]
    Image.fromarray(clean).save(images / "clean.png")
    Image.fromarray(apply_image_noise(clean, "gaussian", 5, sample_id="x")).save(images / "noisy.png")
    (folder / "secret.png").write_bytes((images / "clean.png").read_bytes())
    return open_sight(encoder, bank, images)


def run(sight: SightContext, *images: str) -> list[dict[str, Any]]:
    async def scenario() -> list[dict[str, Any]]:
        graph = build()
        return await asyncio.gather(*(graph.ainvoke({"image": image}, context=sight) for image in images))

    return asyncio.run(scenario())


def test_noisy_features_are_calibrated_and_clean_ones_are_not(sight: SightContext) -> None:
    noisy, clean = run(sight, "noisy.png", "clean.png")
    assert (noisy["finding"].noise, clean["finding"].noise) == ("gaussian", "clean")
    assert noisy["treatment"].operator not in ("identity", "auto")
    assert clean["treatment"].operator == "identity"
    kept = {image: sight.store[image] for image in ("noisy.png", "clean.png")}
    rows = {image: seen.features.rows for image, seen in kept.items() if seen.features is not None}
    assert rows["clean.png"].shape == (64, 576)
    assert rows["clean.png"].dtype == np.float32
    assert np.array_equal(rows["clean.png"], kept["clean.png"].encoded.tokens.rows.numpy())
    raw = kept["noisy.png"].encoded.tokens.rows.numpy()
    assert np.square(rows["noisy.png"] - rows["clean.png"]).mean() < np.square(raw - rows["clean.png"]).mean()
    digests = {seen.features.digest for seen in kept.values() if seen.features is not None}
    assert len(digests) == 2


def test_the_state_holds_no_tensors(sight: SightContext) -> None:
    (state,) = run(sight, "noisy.png")
    assert set(state) == {"image", "finding", "treatment"}
    assert "tensor" not in repr(state)
    assert not any(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "link.png"])
def test_no_path_leads_out_of_the_folder(sight: SightContext, name: str) -> None:
    link = sight.folder / "link.png"
    if not link.is_symlink():
        link.symlink_to(sight.folder.parent / "secret.png")
    with pytest.raises(DataError, match=json.dumps(name)[1:-1].replace(".", r"\.")):
        run(sight, name)


def test_a_bank_of_another_encoder_is_refused(sight: SightContext, tmp_path: Path) -> None:
    other = load(str(vision_checkpoint(tmp_path / "tinymed")), dtype="bfloat16")
    with pytest.raises(ConfigError, match="dtype is float32, not bfloat16"):
        open_sight(other, sight.bank, tmp_path)


def test_an_image_of_several_questions_is_encoded_once_until_its_file_changes(
    sight: SightContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = type(sight.encoder).encode

    def counted(self: Any, inputs: Any, layers: Any) -> Any:
        encoded.append(1)
        return encode(self, inputs, layers)

    monkeypatch.setattr(type(sight.encoder), "encode", counted)
    file = sight.folder / "asked.png"
    file.write_bytes((sight.folder / "noisy.png").read_bytes())
    first, second = run(for_one(sight), "asked.png"), run(for_one(sight), "asked.png", "asked.png")
    assert len(encoded) == 1
    assert {state["finding"].noise for state in (*first, *second)} == {"gaussian"}
    file.write_bytes((sight.folder / "clean.png").read_bytes())
    assert run(for_one(sight), "asked.png")[0]["finding"].noise == "clean"
    assert len(encoded) == 2
