"""Training of adapters: it learns, comes to the same bytes whatever interrupts it, and says what failed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from imc_agents.adapt import fit as fitting
from imc_agents.adapt.files import held
from imc_agents.adapt.fit import FitPlan, finished, fit, plan_fit
from imc_agents.adapt.lora import ADAPTER_WEIGHTS
from imc_agents.adapt.state import RECORD
from imc_agents.adapt.train import InterruptedFitError
from imc_agents.errors import ConfigError, DataError, UsageError
from tests.adapt.conftest import Fitted
from tests.adapt.tiny import SETTINGS, draw, full_disk, opened, pictures, save_model, weights_of, write_model

STATE = "training.safetensors"
BATCHES, STEPS = 3, 4  # of 24 validation images and of 32 shots, 8 at once


@pytest.fixture
def plan(specs: dict[str, str], drawn: Path) -> Callable[..., FitPlan]:
    def made(kind: str = "native", *, data: Path = drawn, **changes: Any) -> FitPlan:
        return plan_fit(specs[kind], data, None, SETTINGS.model_copy(update=changes))

    return made


@pytest.fixture(scope="module")
def whole(
    specs: dict[str, str], drawn: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """What comes of three epochs that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "adapter"
    return folder, fit(plan_fit(specs["native"], drawn, None, SETTINGS), folder)


def asked(times: int) -> Callable[[], bool]:
    """Says yes when it is asked for that time."""
    left = times

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    return stop


@pytest.mark.parametrize("kind", ["native", "timm"])
def test_training_learns_what_zero_shot_does_not_know(
    kind: str, plan: Callable[..., FitPlan], tmp_path: Path
) -> None:
    told: list[tuple[int, Any]] = []
    record = fit(plan(kind), tmp_path / "a", tell=lambda *epoch: told.append(epoch))
    losses = [epoch["loss"] for epoch in record["history"]]
    assert losses == sorted(losses, reverse=True)
    best = record["history"][record["best_epoch"] - 1]
    assert best["balanced_accuracy"] >= record["zero_shot"]["balanced_accuracy"] + 0.2
    assert [(number, epoch.loss) for number, epoch in told] == list(enumerate(losses))
    assert record["shots"] == {"normal": 16, "pneumonia": 16}
    assert {file.name for file in (tmp_path / "a").iterdir()} == {
        "adapter_config.json",
        ADAPTER_WEIGHTS,
        RECORD,
    }


@pytest.mark.parametrize("kind", ["native", "timm"])
def test_what_is_saved_is_block_diagonal(kind: str, fitted: Callable[[str], Fitted]) -> None:
    rank = SETTINGS.rank
    for name, weight in load_file(fitted(kind).folder / ADAPTER_WEIGHTS).items():
        if "lora_B" in name:
            width = len(weight) // 3
            blocks = [weight[i * width : (i + 1) * width, i * rank : (i + 1) * rank] for i in range(3)]
            assert torch.equal(weight, torch.block_diag(*blocks))
            assert all(block.abs().max() > 1e-3 for block in blocks)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(
    plan: Callable[..., FitPlan], whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    assert fit(plan(), tmp_path / "a") == whole[1]
    assert weights_of(tmp_path / "a") == weights_of(whole[0])
    assert (tmp_path / "a/adapter_config.json").read_bytes() == (
        whole[0] / "adapter_config.json"
    ).read_bytes()
    fit(plan(seed=43), tmp_path / "b")
    assert weights_of(tmp_path / "b") != weights_of(whole[0])


@pytest.mark.parametrize(
    "times",
    [
        2,  # while zero-shot is judged
        BATCHES + 2,  # in the middle of an epoch
        BATCHES + STEPS,  # at its last step
        BATCHES + STEPS + 1,  # while its adapter is judged
        2 * BATCHES + STEPS + 1,  # at the first step of the next
    ],
)
def test_what_is_stopped_goes_on_to_the_same_bytes(
    times: int, plan: Callable[..., FitPlan], whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    with pytest.raises(InterruptedFitError):
        fit(plan(), folder, stop=asked(times))
    assert not (folder / RECORD).exists()
    assert finished(plan(), folder) is None
    done: list[int] = []
    assert fit(plan(), folder, advance=done.append) == whole[1]
    assert weights_of(folder) == weights_of(whole[0])
    assert sum(done) == 3 * STEPS
    assert not (folder / STATE).exists()


def test_what_is_stopped_again_and_again_comes_to_an_end(
    plan: Callable[..., FitPlan], whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    for _ in range(4):
        with pytest.raises(InterruptedFitError):
            fit(plan(), tmp_path / "a", stop=asked(BATCHES + 1))
    assert fit(plan(), tmp_path / "a") == whole[1]
    assert weights_of(tmp_path / "a") == weights_of(whole[0])


def test_what_is_finished_is_not_done_again(
    plan: Callable[..., FitPlan], whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "train", None)
    assert fit(plan(), whole[0]) == finished(plan(), whole[0]) == whole[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 5}, "made with rank 4, not 5"),
        ({"learning_rate": 0.02}, r"made with learning_rate 0\.01, not 0\.02"),
        ({"qkv": "fused"}, "made with qkv 'separate', not 'fused'"),
        ({"kind": "timm"}, "made with encoder 'open_clip:.*native', not 'open_clip:.*timm'"),
    ],
)
def test_another_option_in_the_same_folder_is_named(
    changes: dict[str, Any],
    words: str,
    plan: Callable[..., FitPlan],
    whole: tuple[Path, dict[str, Any]],
    tmp_path: Path,
) -> None:
    with pytest.raises(InterruptedFitError):
        fit(plan(), tmp_path / "a", stop=asked(BATCHES + 2))
    for folder in (whole[0], tmp_path / "a"):
        with pytest.raises(UsageError, match=f"holds an adapter {words}; give the same options"):
            fit(plan(**changes), folder)


def test_other_images_of_the_same_names_are_others(
    plan: Callable[..., FitPlan], whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="holds an adapter made with images"):
        fit(plan(data=draw(tmp_path, {"train": 32, "val": 24}, seed=1)), whole[0])


def test_an_adapter_of_unknown_making_is_not_overwritten(
    plan: Callable[..., FitPlan], whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "a", ignore=shutil.ignore_patterns(RECORD))
    with pytest.raises(UsageError, match=r"neither imc_adapter\.json nor .* name another --output"):
        fit(plan(), tmp_path / "a")
    assert weights_of(tmp_path / "a") == weights_of(whole[0])
    shutil.copytree(whole[0], tmp_path / "b", ignore=shutil.ignore_patterns(ADAPTER_WEIGHTS))
    with pytest.raises(UsageError, match=r"adapter_model\.safetensors is missing; delete .* and fit again"):
        fit(plan(), tmp_path / "b")


@pytest.mark.parametrize(
    ("file", "content"),
    [(STATE, b"nothing"), (RECORD, b"{"), (RECORD, b"[]"), (RECORD, b'{"made_with": {}}')],
)
def test_a_damaged_folder_is_told(
    file: str, content: bytes, plan: Callable[..., FitPlan], tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / file).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{file}: damaged \(.*\); delete .* and fit") as caught:
        fit(plan(), tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_parts_of_a_step_add_up_to_it(plan: Callable[..., FitPlan], tmp_path: Path) -> None:
    for parts in (1, 4):
        fit(plan(accumulate=parts, class_weights="balanced"), tmp_path / str(parts))
    whole, added = (load_file(tmp_path / str(parts) / ADAPTER_WEIGHTS) for parts in (1, 4))
    for name, weight in whole.items():
        assert (weight - added[name]).norm() <= 1e-6 * weight.norm()


@pytest.mark.parametrize("weighted", ["none", "balanced"])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_loss_of_the_first_step_is_that_of_zero_shot(
    weighted: str, parts: int, specs: dict[str, str], tmp_path: Path
) -> None:
    with np.load(draw(tmp_path, {"train": 24, "val": 8})) as held:
        arrays = {name: held[name][:-8:2] if "train" in name else held[name] for name in held.files}
        arrays = {
            name: np.concatenate([array, held[name][1:8:2]]) if "train" in name else array
            for name, array in arrays.items()
        }
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    settings = SETTINGS.model_copy(
        update={"class_weights": weighted, "accumulate": parts, "batch": 64, "epochs": 1}
    )
    plan = plan_fit(specs["native"], tmp_path, None, settings)
    images = torch.stack([plan.created.transform(plan.shots.load(row)) for row in range(len(plan.shots))])
    with torch.no_grad():
        logits = plan.head.logits(plan.created.model.encode_image(images))
    weights = torch.tensor([12 / (2 * 8), 12 / (2 * 4)]) if weighted == "balanced" else None
    expected = cross_entropy(logits, torch.from_numpy(plan.shots.labels), weights)
    record = fit(plan, tmp_path / "a")
    assert record["shots"] == {"normal": 8, "pneumonia": 4}
    assert record["history"][0]["loss"] == pytest.approx(float(expected), rel=1e-4)


def test_test_images_are_never_opened(
    plan: Callable[..., FitPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_splits: list[str] = []
    really = fitting.open_labelled

    def noted(path: Path, split: str) -> Any:
        opened_splits.append(split)
        return really(path, split)

    monkeypatch.setattr(fitting, "open_labelled", noted)
    fit(plan(epochs=1), tmp_path / "a")
    assert sorted(opened_splits) == ["train", "val"]


def test_without_validation_images_some_are_held_out_of_training(
    plan: Callable[..., FitPlan], tmp_path: Path
) -> None:
    made = plan(data=draw(tmp_path / "data", {"train": 40}), epochs=1)
    assert made.held_out
    assert (len(made.shots), len(made.validation)) == (32, 8)
    assert not set(made.shots.ids) & set(made.validation.ids)
    assert fit(made, tmp_path / "a")["validation"] == {"images": 8, "held_out_of_train": True}


def test_without_training_images_there_is_nothing_to_draw_from(
    plan: Callable[..., FitPlan], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="has no split train to draw shots from; it has test"):
        plan(data=draw(tmp_path / "data", {"test": 8}))


def test_a_loss_that_is_not_finite_names_images_and_keeps_the_best(
    plan: Callable[..., FitPlan], whole: tuple[Path, dict[str, Any]], specs: dict[str, str], tmp_path: Path
) -> None:
    folder, made = tmp_path / "a", plan()
    steps = 0

    def spoil(count: int) -> None:
        nonlocal steps
        steps += count
        if steps == STEPS + 2:
            made.created.model.visual.proj.fill_(float("nan"))

    with pytest.raises(DataError) as caught:
        fit(made, folder, advance=spoil)
    text = str(caught.value)
    assert text.startswith("epoch 2, step 3: the loss is not finite on the 8 images train/")
    assert f"{folder} keeps the adapter of epoch 1; try a lower --learning-rate" in text
    kept = PeftModel.from_pretrained(opened(specs["native"]).model, str(folder))
    assert kept.encode_image(pictures(made.created)).isfinite().all()
    assert fit(plan(), folder) == whole[1]
    assert weights_of(folder) == weights_of(whole[0])


def test_an_adapter_that_explodes_in_the_last_step_is_not_kept(
    plan: Callable[..., FitPlan], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="epoch 1: the loss is not finite on validation images; no epoch was"):
        fit(plan(learning_rate=1e30, batch=32), tmp_path / "a")
    assert not (tmp_path / "a" / ADAPTER_WEIGHTS).exists()


def test_an_encoder_that_gives_no_numbers_is_told_before_training(drawn: Path, tmp_path: Path) -> None:
    spec = write_model(tmp_path / "broken")
    tensors = load_file(tmp_path / "broken/open_clip_model.safetensors")
    tensors["visual.proj"][0, 0] = float("nan")
    save_model(tmp_path / "broken", tensors)
    with pytest.raises(DataError, match="not finite for validation images; check its weights"):
        fit(plan_fit(spec, drawn, None, SETTINGS), tmp_path / "a")


def test_sixteen_bits_are_for_the_forward_pass_alone(plan: Callable[..., FitPlan], tmp_path: Path) -> None:
    record = fit(plan(precision="bfloat16"), tmp_path / "a")
    assert {weight.dtype for weight in load_file(tmp_path / "a" / ADAPTER_WEIGHTS).values()} == {
        torch.float32
    }
    assert record["history"][-1]["loss"] < record["history"][0]["loss"]
    with pytest.raises(ConfigError, match="--precision float16 needs a GPU"):
        fit(plan(precision="float16"), tmp_path / "b")


def test_a_disk_that_is_full_is_one_line(plan: Callable[..., FitPlan], tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(UsageError, match=r"cannot be written \(File too large\); check"):
        fit(plan(), tmp_path / "a")


def test_a_learning_rate_that_falls_to_nothing_is_resumed_at_the_same_place(
    plan: Callable[..., FitPlan], tmp_path: Path
) -> None:
    whole_record = fit(plan(schedule="cosine"), tmp_path / "whole")
    steps: list[int] = []
    with pytest.raises(InterruptedFitError):
        fit(plan(schedule="cosine"), tmp_path / "cut", advance=steps.append, stop=lambda: sum(steps) >= 6)
    assert fit(plan(schedule="cosine"), tmp_path / "cut") == whole_record
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")
    assert weights_of(tmp_path / "whole") != weights_of(fitted_at_one_rate(plan, tmp_path / "constant"))


def fitted_at_one_rate(plan: Callable[..., FitPlan], folder: Path) -> Path:
    fit(plan(schedule="constant"), folder)
    return folder


def test_one_process_at_a_time_fills_a_folder(plan: Callable[..., FitPlan], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with held(tmp_path / "a"), pytest.raises(UsageError, match="a: another process is filling it; wait"):
        fit(plan(), tmp_path / "a")
    fit(plan(epochs=1), tmp_path / "a")


def test_the_record_tells_how_it_was_made(whole: tuple[Path, dict[str, Any]], specs: dict[str, str]) -> None:
    record = json.loads((whole[0] / RECORD).read_text())
    assert record == whole[1]
    made_with = record["made_with"]
    assert made_with["encoder"] == specs["native"]
    assert made_with["revision"] == opened(specs["native"]).revision
    assert (made_with["data"], made_with["classes"]) == ("pneumoniamnist", ["normal", "pneumonia"])
    assert set(record["versions"]) == {"torch", "peft", "open_clip_torch"}


def test_the_adapter_of_the_best_epoch_is_kept(
    plan: Callable[..., FitPlan], tmp_path: Path, specs: dict[str, str]
) -> None:
    kept: list[bytes] = []
    record = fit(
        plan(learning_rate=0.3, epochs=5),
        tmp_path / "a",
        tell=lambda *_: kept.append(weights_of(tmp_path / "a")),
    )
    ranks = [(epoch["balanced_accuracy"], -epoch["validation_loss"]) for epoch in record["history"]]
    assert record["best_epoch"] - 1 == ranks.index(max(ranks))
    assert weights_of(tmp_path / "a") == kept[record["best_epoch"] - 1]
    assert record["best_epoch"] < 5, "or nothing is tested"
