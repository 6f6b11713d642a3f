"""How CLIP models are created by name: the activation of their tags, and hubs that do not answer; without a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from open_clip import factory
from open_clip.transformer import QuickGELU
from torch import nn

from imc_agents.errors import BackendUnreachableError, ConfigError
from imc_agents.vision.encoders.open_clip_models import create, revision_of


def made() -> Any:
    visual = nn.Linear(3, 2)
    visual.image_size = 224
    model = nn.Module()
    model.visual = visual
    return model


@pytest.mark.parametrize(
    ("spec", "quick"),
    [
        ("ViT-B-16:openai", True),
        ("ViT-B-32-quickgelu:openai", True),
        ("RN50:openai", True),
        ("ViT-B-32:laion2b_s34b_b79k", False),
    ],
)
def test_a_tag_has_the_activation_that_it_was_trained_with(
    spec: str, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def noted(*arguments: Any, **options: Any) -> tuple[Any, Any]:
        asked.append((arguments, options))
        return made(), None

    monkeypatch.setattr(factory, "create_model_from_pretrained", noted)
    created = create(spec)
    name, tag = spec.split(":")
    ((arguments, options),) = asked
    assert arguments == (name,)
    assert (options["pretrained"], options["force_quick_gelu"], options["weights_only"]) == (tag, quick, True)
    assert created.config.get("quick_gelu", False) == quick
    assert (created.name, created.image_size) == (name, 224)


def test_a_hub_that_does_not_answer_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise LocalEntryNotFoundError("no\nnetwork")

    monkeypatch.setattr(factory, "create_model_from_pretrained", refuse)
    with pytest.raises(
        BackendUnreachableError, match=r"cannot be fetched \(no network\); name a local folder"
    ):
        create("ViT-B-16:openai")


def test_what_open_clip_cannot_make_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("size mismatch\nfor visual.proj")

    monkeypatch.setattr(factory, "create_model_from_pretrained", fail)
    with pytest.raises(ConfigError, match=r"RN50:openai cannot be loaded: size mismatch for visual\.proj"):
        create("RN50:openai")


def test_the_same_weights_with_another_activation_are_another_encoder() -> None:
    model = made()
    before = revision_of(model)
    model.visual.activation = QuickGELU()
    assert revision_of(model) != before


def test_the_revision_is_of_the_weights_of_the_image_encoder() -> None:
    model = made()
    before = revision_of(model)
    model.text = nn.Linear(2, 2)
    assert revision_of(model) == before
    with torch.no_grad():
        model.visual.weight[0, 0] += 1e-3
    assert revision_of(model) != before
