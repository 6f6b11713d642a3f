"""Adaptation beside calibration: what the benchmark says is what its evaluations hold, and nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import cli
from imc_agents.adapt.settings import FitSettings
from imc_agents.bench.adaptation import AdaptationRequest, MethodFigures, bench_adaptation
from imc_agents.bench.adaptation_summary import summarise_adaptation
from tests.adapt.tiny import draw, quickly, write_model


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    with quickly():
        yield


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> AdaptationRequest:
    folder = tmp_path_factory.mktemp("adaptation")
    settings = FitSettings(shots=1.0, rank=4, epochs=2, batch=8, learning_rate=1e-2)
    return AdaptationRequest(
        encoder=write_model(folder / "model"),
        data=draw(folder, {"train": 24, "val": 12, "test": 16}),
        prompts=None,
        settings=settings,
        seeds=1,
        bank_images=20,
        severities=(1, 5),
    )


@pytest.fixture(scope="module")
def measured(
    request_: AdaptationRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[MethodFigures]]:
    folder = tmp_path_factory.mktemp("measured")
    return folder, bench_adaptation(request_, folder)


def test_figures_are_those_of_the_logits(measured: tuple[Path, list[MethodFigures]]) -> None:
    folder, figures = measured
    assert [found.method for found in figures] == ["none", "adapt", "calibrate", "both"]
    evaluation = folder / "seed-0" / "evaluation"
    labels = np.array(json.loads((evaluation / "evaluation.json").read_text())["labels"])

    def balanced(file: Path, method: str) -> float:
        answers = load_file(file)[method].argmax(1)
        return float(np.mean([(answers[labels == label] == label).mean() for label in (0, 1)]))

    noisy = [file for file in (evaluation / "conditions").iterdir() if not file.name.startswith("clean")]
    assert len(noisy) == 13 * 2
    for found in figures:
        clean = balanced(evaluation / "conditions" / "clean-0.safetensors", found.method)
        assert found.clean["balanced_accuracy"] == pytest.approx(clean)
        mean = np.mean([balanced(file, found.method) for file in noisy])
        assert found.corrupted["balanced_accuracy"] == pytest.approx(mean)
    assert figures[0].mbe == pytest.approx(100.0)
    assert figures[0].mce == pytest.approx(100.0)


def test_nothing_is_done_twice(
    request_: AdaptationRequest, measured: tuple[Path, list[MethodFigures]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, figures = measured
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    monkeypatch.setattr(
        "imc_agents.bench.adaptation.build_bank", lambda *_, **__: pytest.fail("a bank again")
    )
    assert bench_adaptation(request_, folder) == figures
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == before


def test_seeds_are_averaged(measured: tuple[Path, list[MethodFigures]]) -> None:
    _, figures = measured
    other = MethodFigures(1, "none", {"accuracy": 0.0}, {"accuracy": 0.5}, {"a": 0.5}, 90.0, None)
    first = MethodFigures(0, "none", {"accuracy": 1.0}, {"accuracy": 0.7}, {"a": 0.7}, 110.0, None)
    found = summarise_adaptation([first, other])
    assert found["seeds"] == 2
    none = found["methods"]["none"]
    assert none["clean"]["accuracy"] == {"mean": 50.0, "sd": pytest.approx(70.7107, abs=1e-3)}
    assert none["corrupted"]["accuracy"]["mean"] == pytest.approx(60.0)
    assert none["mce"]["mean"] == 100.0
    assert none["mbe"] is None
    assert list(summarise_adaptation(figures)["methods"]) == ["none", "adapt", "calibrate", "both"]


def test_cost_is_measured_on_a_step_of_each(
    request_: AdaptationRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--encoder", request_.encoder, "--batch", "4", "--steps", "1", "--turns", "1"]
    assert cli.run(["bench", "adapt-cost", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ours_ms"] > 0
    assert found["time_ratio"] == pytest.approx(found["ours_ms"] / found["plain_ms"])
    assert found["memory_ratio"] == pytest.approx(found["ours_mib"] / found["plain_mib"])
