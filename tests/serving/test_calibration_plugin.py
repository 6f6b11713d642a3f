"""How calibration listens to a vision tower and puts its result in the place of the model's own, without an engine."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imc_agents.errors import ConfigError, DataError
from imc_agents.serving import calibration as plugin
from imc_agents.serving.calibration import Taps, calibrated
from imc_agents.serving.launch import Wanted, plan_launch
from imc_agents.vision import calibration
from imc_agents.vision.calibration import Calibration
from imc_agents.vision.encoders.protocol import PATCHES, Encoded, EncoderInfo
from tests.serving.helpers import write_checkpoint

WIDTH, LAYER_WIDTH, DEPTH = 6, 4, 3
INFO = EncoderInfo("mllm:x", "llava", "r", "p", WIDTH, LAYER_WIDTH, DEPTH, 8)


class Block(nn.Module):
    """Returns a new tensor, and then spoils what it was given, as fused kernels do."""

    def forward(self, x: Tensor) -> Any:
        made = x + 1
        x.zero_()
        return (made, None)


class Tower(nn.Module):
    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.classes = classes
        self.patch_embedding = nn.Conv2d(3, LAYER_WIDTH, 2, 2, bias=False)
        self.layers = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([torch.full((len(pixels), self.classes, LAYER_WIDTH), 99.0), patches], 1)
        for layer in self.layers:
            x = layer.forward(x)[0]  # as vLLM's wrapper for torch.compile does
        return x[:, self.classes :]


@pytest.fixture
def tower() -> Tower:
    torch.manual_seed(0)
    return Tower().requires_grad_(False)


def bank_of(*layers: int) -> Any:
    return SimpleNamespace(layers=layers, encoder=INFO)


def model_of(tower: Tower, *, crops: list[int] | None = None) -> Any:
    """The image path of a model: one tensor per image, or all of them in one."""

    def process(image_input: Any) -> Any:
        if image_input["type"] == "image_embeds":
            return image_input["data"]
        tokens = tower(image_input["pixel_values"]).repeat(1, 1, 2)[..., :WIDTH]
        return tokens if crops is None else [part.flatten(0, 1) for part in tokens.split(crops)]

    return process


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Encoded]:
    """Calibration that notes what it is given and doubles it; ``identity`` returns it."""
    found: list[Encoded] = []

    def calibrate(bank: Any, encoded: Encoded, *, operator: str, strength: float) -> Calibration:
        found.append(encoded)
        if not encoded.tokens.rows.isfinite().all():
            raise DataError("not finite")
        if operator == "identity":
            return Calibration(encoded.tokens, ())
        return Calibration(dataclasses.replace(encoded.tokens, rows=encoded.tokens.rows * (1 + strength)), ())

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    return found


def put(
    tower: Tower, *layers: int, operator: str = "auto", crops: list[int] | None = None
) -> tuple[Any, Taps]:
    taps = Taps(layers)
    taps.insert(tower)
    process = model_of(tower, crops=crops)
    return calibrated(process, taps, bank_of(*layers), operator=operator, strength=1.0), taps


def pixels(count: int, height: int = 8, width: int = 8) -> dict[str, Any]:
    return {"type": "pixel_values", "pixel_values": torch.randn(count, 3, height, width)}


def test_states_are_those_of_the_layers_without_class_tokens(tower: Tower, seen: list[Encoded]) -> None:
    process, taps = put(tower, PATCHES, 0, 1, DEPTH)
    images = pixels(2)
    patches = (
        tower.patch_embedding(images["pixel_values"]).flatten(2).transpose(1, 2).reshape(-1, LAYER_WIDTH)
    )
    process(images)
    layers = seen[0].layers
    assert {layer: packed.counts for layer, packed in layers.items()} == dict.fromkeys(layers, (16, 16))
    for layer, blocks in ((PATCHES, 0), (0, 0), (1, 1), (DEPTH, DEPTH)):
        assert torch.allclose(layers[layer].rows, patches + blocks)
    assert seen[0].grids == ((4, 4), (4, 4))
    assert not taps.states, "nothing is kept between calls"


def test_the_result_takes_the_place_of_the_tokens_in_their_form(tower: Tower, seen: list[Encoded]) -> None:
    images = pixels(3)
    own = model_of(tower)(images)
    process, _ = put(tower, 0)
    assert torch.equal(process(images), own * 2)


def test_each_crop_counts_as_an_image(tower: Tower, seen: list[Encoded]) -> None:
    images = {**pixels(3), "num_patches": torch.tensor([1, 2])}
    own = model_of(tower, crops=[1, 2])(images)
    process, _ = put(tower, 0, crops=[1, 2])
    made = process(images)
    assert seen[0].tokens.counts == seen[0].layers[0].counts == (16, 16, 16)
    assert [len(part) for part in made] == [16, 32]
    assert isinstance(made, list)
    assert all(torch.equal(new, old * 2) for new, old in zip(made, own, strict=True))


def test_the_identity_returns_what_the_model_returned(tower: Tower, seen: list[Encoded]) -> None:
    images = pixels(2)
    own = model_of(tower)(images)
    process, _ = put(tower, 0, operator="identity")
    assert torch.equal(process(images), own)


def test_features_of_a_request_pass_as_they_are(tower: Tower, seen: list[Encoded]) -> None:
    process, _ = put(tower, 0)
    data = torch.randn(1, 16, WIDTH)
    assert process({"type": "image_embeds", "data": data}) is data
    assert not seen


def test_an_image_that_is_not_finite_keeps_its_tokens_and_is_reported_once(
    tower: Tower, seen: list[Encoded], caplog: pytest.LogCaptureFixture
) -> None:
    images = pixels(2)
    images["pixel_values"][1] = torch.nan
    own = model_of(tower)(images)
    process, _ = put(tower, 0)
    with caplog.at_level(logging.WARNING):
        made = process(images)
        process(images)
    assert torch.equal(made[0], own[0] * 2)
    assert made[1].isnan().all()
    assert [record.message for record in caplog.records] == [
        "calibration came to values that are not finite; 1 images stay as they are"
    ]


def test_a_correction_that_is_not_finite_is_dropped(tower: Tower, monkeypatch: pytest.MonkeyPatch) -> None:
    def calibrate(bank: Any, encoded: Encoded, *, operator: str, strength: float) -> Calibration:
        rows = encoded.tokens.rows * 2
        rows[0] = torch.inf
        return Calibration(dataclasses.replace(encoded.tokens, rows=rows), ())

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    images = pixels(2)
    own = model_of(tower)(images)
    process, _ = put(tower, 0)
    assert torch.equal(process(images), torch.stack([own[0], own[1] * 2]))


class Packing(nn.Module):
    """A tower that takes images of any size, one behind the other, as those of Qwen and Pixtral do."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Identity())
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.get_submodule("patch_embed" if hasattr(self, "patch_embed") else "ln_pre")(x.clone())
        for block in self.blocks:
            x = block(x)[0]
        return x


@pytest.mark.parametrize("name", ["patch_embed", "ln_pre"])
def test_images_of_many_sizes_are_told_apart(name: str, seen: list[Encoded]) -> None:
    tower = Packing(name)
    taps = Taps((PATCHES, 2))
    taps.insert(tower)
    patches = torch.randn(16 + 24, LAYER_WIDTH)
    state = patches[:, None] if name == "patch_embed" else patches[None]
    sent: dict[str, Any] = (
        {"type": "pixel_values", "image_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 6]])}
        if name == "patch_embed"
        else {"type": "pixel_values_pixtral", "pixel_values": [torch.zeros(3, 8, 8), torch.zeros(3, 8, 12)]}
    )

    def process(image_input: Any) -> Any:
        tower(state)
        return torch.ones(4 + 6, WIDTH).split([4, 6])

    made = calibrated(process, taps, bank_of(PATCHES, 2), operator="auto", strength=1.0)(sent)
    assert [part.tolist() for part in made] == [[[2.0] * WIDTH] * 4, [[2.0] * WIDTH] * 6]
    found = seen[0]
    assert found.grids == ((2, 2), (2, 3))
    assert found.layers[2].counts == (16, 24)
    assert torch.allclose(found.layers[2].rows, patches + 2)


def test_a_layer_that_vllm_does_not_run_is_refused(tower: Tower) -> None:
    with pytest.raises(ConfigError, match=r"looks at layer 4 .* no more than 3 blocks"):
        Taps((PATCHES, DEPTH + 1)).insert(tower)


def test_a_tower_of_another_make_is_refused() -> None:
    with pytest.raises(ConfigError, match="vision tower Linear has no blocks that are known"):
        Taps((PATCHES,)).insert(nn.Linear(1, 1))


class Model(nn.Module):
    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.vision_tower = tower

    def _process_image_input(self, image_input: Any) -> Any:
        return model_of(self.vision_tower)(image_input)

    def get_mm_mapping(self) -> Any:
        return SimpleNamespace(tower_model=["vision_tower."])


def engine_config(**compilation: bool) -> Any:
    return SimpleNamespace(compilation_config=SimpleNamespace(**compilation))


def model_config(
    family: str = "llava", width: int = WIDTH, layer_width: int = LAYER_WIDTH, **further: Any
) -> Any:
    config = SimpleNamespace(
        model_type=family,
        vision_config=SimpleNamespace(hidden_size=layer_width),
        get_text_config=lambda: SimpleNamespace(hidden_size=width),
    )
    return SimpleNamespace(
        **{
            "hf_config": config,
            "model": "/models/x",
            "dtype": torch.float32,
            "runner_type": "generate",
            "multimodal_config": SimpleNamespace(mm_encoder_tp_mode="weights"),
            **further,
        }
    )


@pytest.fixture
def load(tower: Tower, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A loader as the plugin leaves it; the bank is a stub, and no checkpoint is compared."""
    monkeypatch.setenv(plugin.ENABLED_BY, "/banks/x")
    monkeypatch.setattr("imc_agents.vision.bank.load_bank", lambda folder: bank_of(PATCHES, 1))
    monkeypatch.setattr(plugin, "_check_identity", lambda encoder, config: None)
    loader = plugin._calibrating(lambda self, vllm_config, model_config: Model(tower))
    return lambda engine=None, model=None: loader(None, engine or engine_config(), model or model_config())


def test_a_loaded_model_calibrates_its_images(load: Any, tower: Tower, seen: list[Encoded]) -> None:
    images = pixels(1)
    own = model_of(tower)(images)
    assert torch.equal(load()._process_image_input(images), own * 2)


def test_operator_and_strength_come_from_the_environment(
    load: Any, tower: Tower, seen: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pixels(1)
    own = model_of(tower)(images)
    monkeypatch.setenv(plugin.STRENGTH, "0.5")
    assert torch.equal(load()._process_image_input(images), own * 1.5)
    monkeypatch.setenv(plugin.OPERATOR, "identity")
    assert torch.equal(load()._process_image_input(images), own)


def test_draft_models_stay_as_they_are(load: Any) -> None:
    assert not hasattr(load(model=model_config(runner_type="draft")), "imc_taps")


@pytest.mark.parametrize(
    ("engine", "model", "words"),
    [
        ({"compile_mm_encoder": True}, {}, "leave out compile_mm_encoder"),
        ({"cudagraph_mm_encoder": True}, {}, "leave out cudagraph_mm_encoder"),
        (
            {},
            {"multimodal_config": SimpleNamespace(mm_encoder_tp_mode="data")},
            "--mm-encoder-tp-mode data no rank sees all images",
        ),
        ({}, {"family": "llama"}, "the family 'llama' cannot be calibrated inside vLLM; known are gemma3"),
        ({}, {"family": "gemma3"}, "its family is llava, not gemma3"),
        ({}, {"width": 8}, "its width of the tokens is 6, not 8"),
        ({}, {"layer_width": 8}, "its width of the patches is 4, not 8"),
        ({}, {"dtype": torch.bfloat16}, "its dtype is float32, not bfloat16"),
    ],
)
def test_what_does_not_go_together_is_refused_at_load(
    load: Any, engine: dict[str, Any], model: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load(engine_config(**engine), model_config(**model))
    assert "\n" not in str(caught.value)


def test_a_strength_that_is_no_number_is_refused(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.STRENGTH, "much")
    with pytest.raises(ConfigError, match="IMC_VLLM_CALIBRATION_STRENGTH is 'much'; it must be a number"):
        load()


def test_nothing_is_imported_or_changed_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(plugin.ENABLED_BY, raising=False)
    monkeypatch.setitem(sys.modules, "vllm.model_executor.model_loader", None)
    plugin.register()


def test_a_server_is_started_with_its_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imc_agents.vision.bank.load_bank", lambda folder: bank_of(0))
    monkeypatch.setattr("imc_agents.serving.launch._check_build", lambda cpu: None)
    monkeypatch.setattr("imc_agents.models.vllm_launch.installed_build", lambda: "cpu")
    monkeypatch.chdir(tmp_path)
    model = str(write_checkpoint(tmp_path / "tiny", model_type="llama", max_position_embeddings=8192))
    planned = plan_launch(Wanted(model, cpu=True, calibrate=Path("bank")), 8123)
    assert planned.environment[plugin.ENABLED_BY] == str(tmp_path / "bank")
    assert plugin.ENABLED_BY not in plan_launch(Wanted(model, cpu=True), 8123).environment


def test_a_server_is_not_started_with_what_is_no_bank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imc_agents.serving.launch._check_build", lambda cpu: None)
    monkeypatch.setattr("imc_agents.models.vllm_launch.installed_build", lambda: "cpu")
    model = str(write_checkpoint(tmp_path / "tiny", model_type="llama", max_position_embeddings=8192))
    with pytest.raises(ConfigError, match="holds no bank"):
        plan_launch(Wanted(model, cpu=True, calibrate=tmp_path), 8123)
