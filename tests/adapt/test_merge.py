"""Adapters folded into their encoders: nothing changes, and what is written is an encoder like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import linear
from transformers import BertConfig, BertTokenizerFast

from imc_agents.adapt.fit import fit, plan_fit
from imc_agents.adapt.load import load_adapter
from imc_agents.adapt.lora import ADAPTER_WEIGHTS
from imc_agents.adapt.merge import check_encoder, fold, write_folded
from imc_agents.adapt.state import RECORD
from imc_agents.errors import UsageError
from imc_agents.vision.encoders.specs import load_encoder
from tests.adapt.conftest import Fitted
from tests.adapt.tiny import SETTINGS, VISION, full_disk, opened, pictures, write_model


@pytest.mark.parametrize("kind", VISION)
def test_folding_changes_no_logit_and_the_folder_is_an_encoder(
    kind: str, fitted: Callable[[str], Fitted], tmp_path: Path
) -> None:
    spec, folder, plan = fitted(kind)
    inputs = pictures(plan.created)
    folded = fold(opened(spec), folder)
    output = tmp_path / "merged"
    differences = folded.difference, write_folded(folded, output)
    assert max(differences) <= 1e-4
    assert {file.name for file in tmp_path.iterdir()} == {"merged"}
    written = opened(f"open_clip:{output}")
    with torch.no_grad():
        adapted = load_adapter(opened(spec).model, folder).encode_image(inputs)
        wanted = plan.head.logits(adapted)
        for model in (folded.created.model, written.model):
            assert (plan.head.logits(model.encode_image(inputs)) - wanted).abs().max() <= 1e-4
        assert torch.equal(written.model.encode_image(inputs), folded.created.model.encode_image(inputs))
        texts = written.tokenizer(["two lungs", "one heart"])
        assert torch.equal(written.model.encode_text(texts), plan.created.model.encode_text(texts))
    assert not any("lora" in name for name in written.model.state_dict())
    assert written.revision == folded.created.revision != opened(spec).revision
    assert not any(weight.requires_grad for weight in folded.created.model.parameters())


@pytest.mark.parametrize("kind", ["native", "timm"])
def test_a_merged_transformer_is_an_encoder_with_tokens(
    kind: str, fitted: Callable[[str], Fitted], tmp_path: Path
) -> None:
    spec, folder, plan = fitted(kind)
    write_folded(fold(opened(spec), folder), tmp_path / "merged")
    encoder: Any = load_encoder(f"open_clip:{tmp_path / 'merged'}")
    inputs = pictures(plan.created)
    with torch.no_grad():
        wanted = plan.created.model.encode_image(inputs)
    assert torch.allclose(encoder.pool(encoder.encode(inputs).tokens), wanted, atol=1e-4)
    assert encoder.info.identity != load_encoder(spec).info.identity


def test_activation_preprocessing_and_a_second_adapter_survive(drawn: Path, tmp_path: Path) -> None:
    spec = write_model(tmp_path / "quick")
    described = tmp_path / "quick/open_clip_config.json"
    config = json.loads(described.read_text())
    config["model_cfg"]["quick_gelu"] = True
    config["preprocess_cfg"] = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    described.write_text(json.dumps(config))
    for turn in (1, 2):
        settings = SETTINGS.model_copy(update={"epochs": 1, "seed": turn})
        fit(plan_fit(spec, drawn, None, settings), tmp_path / f"a{turn}")
        write_folded(fold(opened(spec), tmp_path / f"a{turn}"), tmp_path / f"m{turn}")
        spec = f"open_clip:{tmp_path / f'm{turn}'}"
    again = json.loads((tmp_path / "m2/open_clip_config.json").read_text())
    assert again["model_cfg"] == config["model_cfg"]
    assert again["preprocess_cfg"]["mean"] == [0.1, 0.2, 0.3]


def test_what_is_there_is_not_replaced(fitted: Callable[[str], Fitted], tmp_path: Path) -> None:
    spec, folder, _ = fitted("native")
    folded = fold(opened(spec), folder)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("file", "taken"):
        with pytest.raises(UsageError, match=f"{name}: is there already; name a new folder"):
            write_folded(folded, tmp_path / name)
    with pytest.raises(UsageError, match=r"file/x: cannot be written \(Not a directory\)"):
        write_folded(folded, tmp_path / "file/x")
    write_folded(folded, tmp_path / "empty")
    assert opened(f"open_clip:{tmp_path / 'empty'}").revision == folded.created.revision


def test_an_encoder_is_written_whole_or_not_at_all(fitted: Callable[[str], Fitted], tmp_path: Path) -> None:
    spec, folder, _ = fitted("native")
    folded = fold(opened(spec), folder)
    with full_disk(10_000), pytest.raises(UsageError, match=r"m: cannot be written \(.*File too large"):
        write_folded(folded, tmp_path / "m")
    wrong = replace(folded.created, config={**folded.created.config, "quick_gelu": True})
    with pytest.raises(UsageError, match="m: what would be written is not the same encoder"):
        write_folded(replace(folded, created=wrong), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".m.part").mkdir()  # of a process that was killed
    (tmp_path / ".m.part/open_clip_config.json").write_text("{")
    write_folded(folded, tmp_path / "m")
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("kind", ["native", "timm", "resnet"])
def test_values_that_are_not_finite_are_refused(
    kind: str, value: str, fitted: Callable[[str], Fitted], tmp_path: Path
) -> None:
    spec, folder, _ = fitted(kind)
    shutil.copytree(folder, tmp_path / "a")
    tensors = load_file(tmp_path / "a" / ADAPTER_WEIGHTS)
    tensors[max(tensors)].view(-1)[0] = float(value)
    save_file(tensors, tmp_path / "a" / ADAPTER_WEIGHTS)
    with pytest.raises(UsageError, match="a: the adapter holds values that are not finite; fit it again"):
        fold(opened(spec), tmp_path / "a")


class Standardised(nn.Linear):
    """Computes with a weight that is not the one that it holds."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight / self.weight.std(), self.bias)


def test_layers_that_are_more_than_their_weights_are_refused(fitted: Callable[[str], Fitted]) -> None:
    spec, folder, _ = fitted("timm")
    created = opened(spec)
    created.model.visual.trunk.blocks[0].attn.qkv.__class__ = Standardised
    with pytest.raises(UsageError, match=r"timm: cannot be folded into .*timm, whose layers do more than"):
        fold(created, folder)


def test_a_tokenizer_of_transformers_is_written_as_well(drawn: Path, tmp_path: Path) -> None:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "chest",
        "x",
        "-",
        "ray",
        "normal",
        "pneumonia",
    ]
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertConfig(vocab_size=len(words), **shape).save_pretrained(tmp_path / "bert")
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(
        tmp_path / "bert"
    )
    text = {
        "hf_model_name": str(tmp_path / "bert"),
        "hf_tokenizer_name": str(tmp_path / "bert"),
        "hf_model_pretrained": False,
        "hf_proj_type": "mlp",
        "context_length": 16,
    }
    spec = write_model(tmp_path / "encoder", "timm", text=text)
    shutil.copytree(tmp_path / "bert", tmp_path / "encoder", dirs_exist_ok=True)
    fit(plan_fit(spec, drawn, None, SETTINGS.model_copy(update={"epochs": 1})), tmp_path / "a")
    write_folded(fold(opened(spec), tmp_path / "a"), tmp_path / "m")
    before, after = opened(spec), opened(f"open_clip:{tmp_path / 'm'}")
    texts = ["a normal chest x-ray", "pneumonia"]
    with torch.no_grad():
        found = [created.model.encode_text(created.tokenizer(texts)) for created in (before, after)]
    assert torch.equal(*found)


def test_an_adapter_is_for_the_weights_that_it_was_fitted_to(
    fitted: Callable[[str], Fitted], tmp_path: Path
) -> None:
    spec, folder, _ = fitted("native")
    check_encoder(folder, spec, opened(spec))
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(
        UsageError, match=r"was fitted to .*native with the weights \w+, but .*other has \w+; name"
    ):
        check_encoder(folder, other, opened(other))
    shutil.copytree(folder, tmp_path / "a", ignore=shutil.ignore_patterns(RECORD))
    check_encoder(tmp_path / "a", other, opened(other))
