"""Evaluation of tiny encoders under noise: as they are, adapted, calibrated, and both; what is reported of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from cli import run
from imc_agents.adapt.class_prompts import load_class_prompts
from imc_agents.adapt.classifier import make_head
from imc_agents.adapt.evaluate import EvalRequest, evaluate, plan_eval
from imc_agents.adapt.evaluation import CLEAN, Condition, read_logits, read_plan
from imc_agents.adapt.files import held
from imc_agents.adapt.labelled import open_labelled
from imc_agents.adapt.merge import fold, write_folded
from imc_agents.adapt.state import RECORD
from imc_agents.bench.evaluation import read_evaluation
from imc_agents.errors import ConfigError, DataError, UsageError
from imc_agents.noise.registry import noises
from imc_agents.vision.bank import save_bank
from imc_agents.vision.build import Sample, build_bank
from imc_agents.vision.encoders.specs import load_encoder
from imc_agents.vision.variants import at_encoder_size
from tests.adapt.conftest import Fitted
from tests.adapt.tiny import draw, full_disk, opened, save_model, write_model
from tests.data.copies import chest, need_medmnist

NOISE = "medmnist-c/gaussian_noise"
METHODS = ("none", "adapt", "calibrate", "both")
CONDITIONS = (Condition(CLEAN, 0), Condition(NOISE, 1), Condition(NOISE, 5))


class Place(NamedTuple):
    """An evaluation with all methods, and what was asked for."""

    request: EvalRequest
    folder: Path
    merged: str


def bank_of(spec: str, data: Path, folder: Path, *, seed: int = 0) -> Path:
    images = open_labelled(data, "train")
    samples = [Sample(name, lambda row=row: images.load(row)) for row, name in enumerate(images.ids[:10])]
    specs = [noise for noise in noises("image", "imc-11") if noise.name == "gaussian"]
    save_bank(build_bank(load_encoder(spec), samples, specs, seed=seed), folder)
    return folder


@pytest.fixture(scope="module")
def place(fitted: Callable[[str], Fitted], drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("evaluated")
    spec, adapter, _ = fitted("native")
    write_folded(fold(opened(spec), adapter), folder / "merged")
    merged = f"open_clip:{folder / 'merged'}"
    request = EvalRequest(
        encoder=spec,
        data=drawn,
        adapter=adapter,
        banks=(bank_of(spec, drawn, folder / "bank"), bank_of(merged, drawn, folder / "bank-of-merged")),
        noises=("gaussian_noise",),
        severities=(1, 5),
    )
    evaluate(plan_eval(request), folder / "run")
    return Place(request, folder / "run", merged)


def logits_of(folder: Path, condition: Condition) -> dict[str, Any]:
    found = read_logits(folder, condition)
    assert found is not None
    return found


def evaluated(request: EvalRequest, folder: Path, **options: Any) -> dict[Condition, dict[str, Any]]:
    evaluate(plan_eval(request), folder, **options)
    return {condition: logits_of(folder, condition) for condition in read_plan(folder).conditions}


def test_one_process_at_a_time_fills_a_folder(place: Place, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    shutil.copy(place.folder / "evaluation.json", tmp_path / "e")
    with held(tmp_path / "e"), pytest.raises(UsageError, match="e: another process is filling it; wait"):
        evaluate(plan_eval(place.request), tmp_path / "e")


def test_all_four_methods_stand_in_one_run(place: Place) -> None:
    plan = read_plan(place.folder)
    assert (plan.methods, plan.conditions, len(plan.ids)) == (METHODS, CONDITIONS, 17)
    noisy = logits_of(place.folder, CONDITIONS[2])
    for first, second in (("none", "adapt"), ("none", "calibrate"), ("adapt", "both")):
        assert np.abs(noisy[first] - noisy[second]).max() > 1e-3
    found = read_evaluation(place.folder)
    assert found.complete
    assert found.total == len(found.outcomes) == 3 * 4 * 17
    assert {outcome.method for outcome in found.outcomes} == set(METHODS)


def test_what_is_called_none_and_adapt_are_the_models_themselves(
    place: Place, fitted: Callable[[str], Fitted]
) -> None:
    plan = fitted("native").plan
    images = open_labelled(place.request.data, "test")
    inputs = torch.stack([plan.created.transform(images.load(row)) for row in range(len(images))])
    clean = logits_of(place.folder, CONDITIONS[0])
    with torch.no_grad():
        for method, spec in (("none", place.request.encoder), ("adapt", place.merged)):
            embeddings = opened(spec).model.encode_image(inputs)
            assert np.allclose(clean[method], plan.head.logits(embeddings), atol=1e-4)


def test_noise_is_that_of_the_suite_and_of_the_seed(place: Place, tmp_path: Path) -> None:
    other = evaluated(replace(place.request, banks=(), seed=1), tmp_path / "run")
    first = {condition: logits_of(place.folder, condition)["none"] for condition in CONDITIONS}
    assert np.array_equal(other[CONDITIONS[0]]["none"], first[CONDITIONS[0]])
    assert np.abs(other[CONDITIONS[2]]["none"] - first[CONDITIONS[2]]).max() > 1e-3
    created, images = opened(place.request.encoder), open_labelled(place.request.data, "test")
    spec = next(noise for noise in noises("image", "medmnist-c") if noise.full_name == NOISE)
    small = np.asarray(at_encoder_size(images.load(3), created.image_size))
    noisy = spec.apply(small, 5, seed=0, sample_id="test/3", dataset="pneumoniamnist", table="pneumoniamnist")
    head = make_head(created, load_class_prompts(images.name, images.classes).texts)
    with torch.no_grad():
        logits = head.logits(created.model.encode_image(created.transform(Image.fromarray(noisy))[None]))
    assert np.allclose(first[CONDITIONS[2]][3], logits[0], atol=1e-4)


def test_none_and_adapt_are_the_same_without_banks(place: Place, tmp_path: Path) -> None:
    alone = evaluated(replace(place.request, banks=()), tmp_path / "run")
    for condition, found in alone.items():
        assert list(found) == ["adapt", "none"]
        for method, logits in found.items():
            assert np.array_equal(logits, logits_of(place.folder, condition)[method])


def test_the_size_of_a_batch_changes_nothing_but_rounding(place: Place, tmp_path: Path) -> None:
    done: list[int] = []
    for condition, found in evaluated(place.request, tmp_path / "run", batch=5, advance=done.append).items():
        for method, logits in found.items():
            assert np.allclose(logits, logits_of(place.folder, condition)[method], atol=1e-4)
    assert sum(done) == 3 * 17


def test_what_is_interrupted_goes_on_to_the_same(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.folder, tmp_path / "run")
    file = tmp_path / "run/conditions" / CONDITIONS[1].file
    whole = file.read_bytes()
    file.unlink()
    under_way = read_evaluation(tmp_path / "run")
    assert not under_way.complete
    assert (len(under_way.outcomes), under_way.total) == (2 * 4 * 17, 3 * 4 * 17)
    others = {name: name.stat().st_mtime_ns for name in (tmp_path / "run/conditions").iterdir()}
    evaluate(plan_eval(place.request), tmp_path / "run")
    assert file.read_bytes() == whole
    assert {name: name.stat().st_mtime_ns for name in others} == others
    assert read_evaluation(tmp_path / "run").complete


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "holds an evaluation with seed 0, not 1; give the same options"),
        ({"banks": ()}, "holds an evaluation with banks"),
        ({"adapter": None, "banks": ()}, "holds an evaluation with adapter"),
        ({"split": "val"}, "holds an evaluation with split 'test', not 'val'"),
        ({"severities": (1,)}, "holds an evaluation of other images or noises"),
        ({"limit": 5}, "holds an evaluation with images"),
    ],
)
def test_another_evaluation_does_not_go_into_the_same_folder(
    changes: dict[str, Any], words: str, place: Place
) -> None:
    with pytest.raises(UsageError, match=words):
        evaluate(plan_eval(replace(place.request, **changes)), place.folder)


def test_a_bank_and_images_that_were_made_anew_are_others(place: Place, drawn: Path, tmp_path: Path) -> None:
    again = bank_of(place.request.encoder, drawn, tmp_path / "bank", seed=1)
    with pytest.raises(UsageError, match="holds an evaluation with banks"):
        evaluate(plan_eval(replace(place.request, banks=(again, place.request.banks[1]))), place.folder)
    other = draw(tmp_path, {"train": 32, "val": 24, "test": 17}, seed=1)
    with pytest.raises(UsageError, match="holds an evaluation with images"):
        evaluate(plan_eval(replace(place.request, data=other)), place.folder)


def test_a_folder_with_something_else_is_left_alone(
    place: Place, fitted: Callable[[str], Fitted], tmp_path: Path
) -> None:
    adapter = fitted("native").folder
    before = sorted(adapter.iterdir())
    plan = plan_eval(place.request)
    with pytest.raises(UsageError, match=r"holds something else, such as adapter_config\.json; name a new"):
        evaluate(plan, adapter)
    assert sorted(adapter.iterdir()) == before
    (tmp_path / "run/conditions").mkdir(parents=True)  # of a process that was killed at once
    (tmp_path / "run/.evaluation.json.part").write_text("{")
    evaluate(plan, tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"file/run: cannot be created \(Not a directory\)"):
        evaluate(plan, tmp_path / "file/run")
    with full_disk(100), pytest.raises(UsageError, match=r"cannot be written \(File too large\)"):
        evaluate(plan, tmp_path / "full")


def test_banks_must_be_of_one_of_the_encoders(place: Place, specs: dict[str, str], tmp_path: Path) -> None:
    bank, merged = place.request.banks
    with pytest.raises(
        ConfigError, match=f"{merged}: the bank was made with {place.merged} .*, not with .*native;"
    ):
        plan_eval(replace(place.request, adapter=None, banks=(merged,)))
    other = bank_of(specs["timm"], place.request.data, tmp_path / "other")
    with pytest.raises(ConfigError, match=f"{other}: .*timm .*, nor with the adapter folded in"):
        plan_eval(replace(place.request, banks=(bank, other)))
    with pytest.raises(UsageError, match=f"--calibrate: {bank} and {bank} are of the same encoder"):
        plan_eval(replace(place.request, banks=(bank, bank)))
    with pytest.raises(ConfigError, match="holds no bank"):
        plan_eval(replace(place.request, banks=(tmp_path,)))
    assert plan_eval(replace(place.request, banks=(merged,))).evaluation.methods == ("none", "adapt", "both")


def test_adapters_must_be_of_the_encoder(
    place: Place, specs: dict[str, str], fitted: Callable[[str], Fitted], tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match=r"other has \w+; name the encoder that it was fitted to"):
        plan_eval(replace(place.request, encoder=other, banks=()))
    shutil.copytree(fitted("native").folder, tmp_path / "a", ignore=shutil.ignore_patterns(RECORD))
    with pytest.raises(UsageError, match=r"adapts 2 layers such as .*, but this encoder has 6 layers such"):
        plan_eval(EvalRequest(encoder=specs["timm"], data=place.request.data, adapter=tmp_path / "a"))
    with pytest.raises(UsageError, match=r"gone: holds no adapter_config\.json"):
        plan_eval(replace(place.request, adapter=tmp_path / "gone"))


@pytest.mark.parametrize("kind", ["resnet", "grouped"])
def test_convolutional_encoders_are_evaluated_without_banks(
    kind: str, fitted: Callable[[str], Fitted], drawn: Path, tmp_path: Path
) -> None:
    spec, adapter, _ = fitted(kind)
    request = EvalRequest(
        encoder=spec, data=drawn, adapter=adapter, suite="imc-11", noises=("jpeg",), severities=(3,)
    )
    found = evaluated(request, tmp_path / "run")
    assert [list(methods) for methods in found.values()] == [["adapt", "none"]] * 2


def test_strengths_of_medmnist_c_are_those_of_a_set_that_is_named(place: Place, tmp_path: Path) -> None:
    mine = draw(tmp_path, {"train": 2, "test": 12}, name="mine")
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(
        "mine:\n  templates: ['{{ class }}']\n  classes: {'0': [lying stripes], '1': [standing stripes]}\n"
    )
    request = EvalRequest(encoder=place.request.encoder, data=mine, prompts=prompts)
    with pytest.raises(
        UsageError, match=r"--table: strengths of medmnist-c depend on .*, and mine is none of"
    ):
        plan_eval(request)
    with pytest.raises(UsageError, match="--table: unknown 'breastmnst'; did you mean 'breastmnist'"):
        plan_eval(replace(request, table="breastmnst"))
    with pytest.raises(UsageError, match="--table: imc-11 has the same strengths for all data; leave it out"):
        plan_eval(replace(request, table="breastmnist", suite="imc-11"))
    plan = plan_eval(replace(request, table="breastmnist"))
    assert plan.evaluation.made_with["table"] == "breastmnist"
    known = {noise.full_name for noise in noises("image", "medmnist-c") if "breastmnist" in noise.tables}
    assert {condition.noise for condition in plan.evaluation.conditions} == known | {CLEAN}
    assert plan_eval(replace(request, suite="medimeta-c")).table == ""


@need_medmnist
def test_a_limit_draws_images_whose_noise_is_that_of_all(place: Place, tmp_path: Path) -> None:
    np.savez(tmp_path / "pneumoniamnist.npz", **chest())
    request = replace(place.request, data=tmp_path, adapter=None, banks=(), limit=20)
    some = evaluated(request, tmp_path / "some")
    more = evaluated(replace(request, limit=30), tmp_path / "more")
    fewer, ids = read_plan(tmp_path / "some").ids, read_plan(tmp_path / "more").ids
    assert set(fewer) < set(ids)
    rows = [ids.index(name) for name in fewer]
    for condition, found in some.items():
        assert np.allclose(found["none"], more[condition]["none"][rows], atol=1e-4)


def test_features_that_are_not_finite_are_told(drawn: Path, tmp_path: Path) -> None:
    spec = write_model(tmp_path / "broken")
    tensors = dict(opened(spec).model.state_dict())
    tensors["visual.proj"][0, 0] = float("nan")
    save_model(tmp_path / "broken", tensors)
    with pytest.raises(DataError, match="none, clean: the encoder gave features that are not finite"):
        evaluate(plan_eval(EvalRequest(encoder=spec, data=drawn)), tmp_path / "run")


def test_prompts_that_the_text_encoder_cannot_tell_apart_are_refused(specs: dict[str, str]) -> None:
    long = "a very long description of what is in the picture " * 10
    with pytest.raises(DataError, match="cannot tell the class prompts apart; shorten them"):
        make_head(opened(specs["native"]), [[long + "one"], [long + "two"]])


def test_the_head_is_the_mean_of_prompts_times_the_scale_of_the_model(specs: dict[str, str]) -> None:
    created = opened(specs["native"])
    prompts = load_class_prompts("pneumoniamnist", ("normal", "pneumonia"))
    head = make_head(created, [[*texts, "another"] for texts in prompts.texts])
    model = created.model
    with torch.no_grad():
        for column, texts in zip(head.classes.T, prompts.texts, strict=True):
            found = model.encode_text(created.tokenizer([*texts, "another"]), normalize=True).mean(0)
            assert torch.allclose(column, found / found.norm(), atol=1e-5)
        assert head.scale == pytest.approx(float(model.logit_scale.exp()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"made_with": {}}, r"damaged \(no data\)"),
        ({"labels": [0]}, r"damaged \(the labels are not those of the images\)"),
        ({"classes": ["normal"]}, r"damaged \(the labels are not those of the images\)"),
        ({"conditions": [["clean"]]}, r"damaged \("),
    ],
)
def test_a_damaged_plan_is_told(change: dict[str, Any], words: str, place: Place, tmp_path: Path) -> None:
    record = json.loads((place.folder / "evaluation.json").read_text())
    (tmp_path / "evaluation.json").write_text(json.dumps(record | change))
    with pytest.raises(UsageError, match=words):
        read_evaluation(tmp_path)


def test_damaged_logits_are_told(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.folder, tmp_path / "run")
    file = tmp_path / "run/conditions" / CONDITIONS[1].file
    save_file({name: found[:3] for name, found in load_file(file).items()}, file)
    with pytest.raises(UsageError, match=r"does not hold the logits of none for 17 images; delete it"):
        read_evaluation(tmp_path / "run")
    file.write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"gaussian_noise-1.safetensors: damaged .*; delete it and give"):
        read_evaluation(tmp_path / "run")


def reported(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert run(["bench", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_report_is_what_is_computed_by_hand(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    rows = reported(capsys, "report", str(place.folder), "--metric", "balanced_accuracy,accuracy")
    values = {(row["noise"], row["severity"], row["method"], row["metric"]): row.get("value") for row in rows}
    labels = np.array(read_plan(place.folder).labels)
    for condition in CONDITIONS:
        for method, logits in logits_of(place.folder, condition).items():
            right = logits.argmax(1) == labels
            balanced = np.mean([right[labels == label].mean() for label in (0, 1)])
            key = condition.noise, condition.severity, method
            assert values[(*key, "balanced_accuracy")] == pytest.approx(balanced)
            assert values[(*key, "accuracy")] == pytest.approx(right.mean())


def test_evaluations_are_compared_and_set_against_each_other(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    request = replace(place.request, encoder=place.merged, adapter=None, banks=())
    evaluate(plan_eval(request), tmp_path / "other")
    rows = reported(capsys, "compare", str(place.folder), str(tmp_path / "other"))
    assert {row["method"] for row in rows} == {"none"}
    arguments = ["report", str(place.folder), "--against", str(tmp_path / "other"), "--format", "json"]
    assert run(["bench", *arguments]) == 0
    against = json.loads(capsys.readouterr().out)["against"]
    labels = np.array(read_plan(place.folder).labels)

    def error(folder: Path, method: str) -> float:
        wrong = [logits_of(folder, found)[method].argmax(1) != labels for found in CONDITIONS[1:]]
        return float(np.mean([[part[labels == label].mean() for label in (0, 1)] for part in wrong]))

    for method in METHODS:
        row = next(row for row in against["rows"] if (row["metric"], row["method"]) == ("be", method))
        wanted = 100 * error(place.folder, method) / error(tmp_path / "other", "none")
        assert row["errors"]["mean"]["value"] == pytest.approx(wanted)
