"""Adapters on tiny CLIP models: what is adapted, that it starts from nothing, and that it is what LoRA means."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from timm.models.eva import Eva
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from imc_agents.adapt.classifier import make_head
from imc_agents.adapt.load import load_adapter
from imc_agents.adapt.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, attach, find_targets, trained
from imc_agents.adapt.state import RECORD
from imc_agents.errors import ConfigError, UsageError
from tests.adapt.conftest import Fitted
from tests.adapt.tiny import SETTINGS, VISION, opened, pictures

TEXTS = (("a dog",), ("two cats",))


def weight_of(kind: str) -> str:
    return "attn.in_proj_weight" if kind == "native" else "attn.qkv.weight"


@pytest.mark.parametrize("kind", VISION)
def test_fresh_adapters_change_nothing_and_are_all_that_is_trained(kind: str, specs: dict[str, str]) -> None:
    created = opened(specs[kind])
    inputs = pictures(created)
    with torch.no_grad():
        before = created.model.encode_image(inputs)
        adapted = attach(created.model, SETTINGS)
        assert torch.equal(adapted.encode_image(inputs), before)
    targets = find_targets(opened(specs[kind]).model)
    names = {
        f"base_model.model.{name.removesuffix('.in_proj_weight')}.lora_{part}.default.weight"
        for name in (*targets.modules, *targets.parameters)
        for part in "AB"
    }
    assert set(trained(adapted)) == names
    adapted.encode_image(inputs).square().sum().backward()
    with_gradient = {name for name, weight in adapted.named_parameters() if weight.grad is not None}
    assert with_gradient == names


def test_what_is_adapted_is_attention_or_convolutions(specs: dict[str, str]) -> None:
    native, timm, resnet, grouped = (find_targets(opened(spec).model) for spec in specs.values())
    blocks = [f"visual.transformer.resblocks.{i}.attn.in_proj_weight" for i in range(2)]
    assert native.parameters == tuple(blocks)
    assert timm.modules == tuple(f"visual.trunk.blocks.{i}.attn.qkv" for i in range(6))
    every = [
        name for name, layer in opened(specs["resnet"]).model.named_modules() if type(layer) is nn.Conv2d
    ]
    assert resnet.modules == tuple(every)
    model = opened(specs["grouped"]).model
    convolutions = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Conv2d}
    assert {layer.groups == 1 for layer in convolutions.values()} == {True, False}
    assert set(grouped.modules) == {name for name, layer in convolutions.items() if layer.groups == 1}


class ByHand(nn.Module):
    """A weight with query, key and value behind each other, and a LoRA for each of them."""

    def __init__(self, firsts: torch.Tensor, width: int, scale: float) -> None:
        super().__init__()
        self.down = nn.ParameterList(part.detach().clone() for part in firsts.chunk(3))
        self.up = nn.ParameterList(torch.zeros(width, len(part)) for part in firsts.chunk(3))
        self.scale = scale

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        deltas = [up @ down for up, down in zip(self.up, self.down, strict=True)]
        return weight + self.scale * torch.cat(deltas)


@pytest.mark.parametrize("kind", ["native", "timm"])
def test_separate_adapters_are_three_loras_trained_by_hand(kind: str, specs: dict[str, str]) -> None:
    settings = SETTINGS.model_copy(update={"alpha": 6.0})
    created, other = opened(specs[kind]), opened(specs[kind])
    head, inputs = make_head(created, TEXTS), pictures(created, 6)
    truth = torch.tensor([0, 1, 0, 1, 1, 0])
    adapted = attach(created.model, settings)
    ours = trained(adapted)
    firsts = {name: weight for name, weight in ours.items() if "lora_A" in name}
    by_hand: dict[str, ByHand] = {}
    for name, first in firsts.items():
        layer = other.model.get_submodule(name.removeprefix("base_model.model.").partition(".lora_")[0])
        made = ByHand(first, first.shape[1], 6.0 / settings.rank)
        parametrize.register_parametrization(layer, weight_of(kind).rpartition(".")[2], made)
        by_hand[name] = made
    theirs = [weight for made in by_hand.values() for weight in made.parameters()]
    for weights, model in ((list(ours.values()), adapted), (theirs, other.model)):
        optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=1e-2)
        for _ in range(4):
            cross_entropy(head.logits(model.encode_image(inputs)), truth).backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, made in by_hand.items():
        second = ours[name.replace("lora_A", "lora_B")]
        assert torch.equal(second != 0, torch.block_diag(*made.up) != 0)
        assert torch.allclose(second, torch.block_diag(*made.up), atol=1e-5)
        assert torch.allclose(ours[name], torch.cat(list(made.down)), atol=1e-5)
        assert second.abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["native", "timm"])
def test_fused_adapters_have_one_a_for_all_three(kind: str, specs: dict[str, str]) -> None:
    fused, separate = (
        trained(attach(opened(specs[kind]).model, SETTINGS.model_copy(update={"qkv": qkv})))
        for qkv in ("fused", "separate")
    )
    assert list(fused) == list(separate)
    for name, weight in fused.items():
        rank = 1 if "lora_B" in name else 0
        assert weight.shape[rank] == SETTINGS.rank
        assert separate[name].shape[rank] == 3 * SETTINGS.rank


def test_the_seed_chooses_the_first_values_and_leaves_those_of_torch(specs: dict[str, str]) -> None:
    made: list[torch.Tensor] = []
    for seed in (1, 1, 2):
        model = opened(specs["native"]).model
        state = torch.random.get_rng_state()
        made.append(next(iter(trained(attach(model, SETTINGS.model_copy(update={"seed": seed}))).values())))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_encoders_that_use_weights_without_their_layer_are_refused(specs: dict[str, str]) -> None:
    model = opened(specs["timm"]).model
    shape = {"img_size": 160, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 0}
    model.visual.trunk = Eva(**shape, qkv_fused=True)
    with pytest.raises(
        ConfigError, match=r"never calls visual\.trunk\.blocks\.0\.attn\.qkv but uses its weights"
    ):
        attach(model, SETTINGS)
    apart = Eva(**shape, qkv_fused=False)
    model.visual.trunk = apart.requires_grad_(False)
    assert find_targets(model).kind == "attention"
    assert len(trained(attach(model, SETTINGS))) == 2 * 2 * 3


def test_an_encoder_with_nothing_to_adapt_and_ranks_that_do_not_fit_are_refused(
    specs: dict[str, str],
) -> None:
    model = opened(specs["native"]).model
    for rank, words in ((0, "--rank 0: an adapter needs"), (33, "--rank 33: the projections are 32 wide")):
        with pytest.raises(UsageError, match=words):
            attach(model, SETTINGS.model_copy(update={"rank": rank}))
    model.visual = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="Sequential has neither attention projections nor convolutions"):
        find_targets(model)


@pytest.mark.parametrize("kind", VISION)
def test_peft_alone_loads_what_was_saved(kind: str, fitted: Callable[[str], Fitted]) -> None:
    spec, folder, plan = fitted(kind)
    inputs = pictures(plan.created)
    created = opened(spec)
    with torch.no_grad():
        plain = created.model.encode_image(inputs)
        ours = plan.created.model.encode_image(inputs)
        loaded = PeftModel.from_pretrained(created.model, str(folder))
        assert torch.equal(loaded.encode_image(inputs), ours)
        assert torch.equal(plan.head.logits(loaded.encode_image(inputs)), plan.head.logits(ours))
        assert torch.equal(load_adapter(opened(spec).model, folder).encode_image(inputs), ours)
    assert (plain - ours).abs().max() > 1e-3
    targets = find_targets(opened(spec).model)
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    assert config["target_modules"] == sorted(targets.modules)
    assert config["target_parameters"] == (list(targets.parameters) or None)


def first(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


Change = Callable[[dict[str, torch.Tensor]], Any]
DAMAGES: dict[str, tuple[Change | None, dict[str, Any], str]] = {
    "a missing tensor": (
        lambda t: t.pop(first(t)),
        {},
        "lora_A.weight is missing in adapter_model.safetensors; fit the adapter again",
    ),
    "no tensors": (dict.clear, {}, "lora_A.weight is missing"),
    "another tensor": (lambda t: t.update(more=torch.zeros(2)), {}, "more in .* is no part of a plain LoRA"),
    "another rank": (None, {"r": 5}, r"has the shape \[12, 32\], this encoder needs \[5, 32\]"),
    "ranks by layer": (None, {"rank_pattern": {"visual.*": 2}}, "the adapter cannot be read"),
    "no scale": (None, {"lora_alpha": None}, "the adapter cannot be read"),
    "dropout": (None, {"lora_dropout": 0.5}, "the adapter cannot be read .*lora_dropout"),
    "no layers": (None, {"target_parameters": None}, "the adapter cannot be read"),
    "other layers": (
        None,
        {"target_parameters": ["visual.transformer.resblocks.1.attn.in_proj_weight"]},
        "adapter_config.json names other layers than adapter_model.safetensors has",
    ),
    "no adapter of peft": (None, {"peft_type": "FOO"}, "the adapter cannot be read"),
    "another kind of adapter": (None, {"peft_type": "LOHA"}, "is of the kind LOHA; name a LoRA adapter"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_an_adapter_that_is_not_whole_is_refused(
    damage: str, fitted: Callable[[str], Fitted], tmp_path: Path
) -> None:
    change, config, words = DAMAGES[damage]
    spec, folder, _ = fitted("native")
    shutil.copytree(folder, tmp_path / "a")
    if change is not None:
        tensors = load_file(tmp_path / "a" / ADAPTER_WEIGHTS)
        change(tensors)
        save_file(tensors, tmp_path / "a" / ADAPTER_WEIGHTS)
    described = json.loads((tmp_path / "a/adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(described | config))
    with pytest.raises(UsageError, match=words) as caught:
        load_adapter(opened(spec).model, tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["timm", "resnet"])
def test_an_adapter_without_a_record_is_told_from_that_of_another_architecture(
    kind: str, fitted: Callable[[str], Fitted], specs: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(fitted("native").folder, tmp_path / "a", ignore=shutil.ignore_patterns(RECORD))
    with pytest.raises(UsageError, match=r"resblocks\.0\.attn, but this encoder has .* name the"):
        load_adapter(opened(specs[kind]).model, tmp_path / "a")
