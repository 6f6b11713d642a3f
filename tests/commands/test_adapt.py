"""``imc adapt`` as a user types it: fit, eval and merge on a tiny encoder, what stops them, and what cannot work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from cli import run
from imc_agents.adapt.train import Step
from tests.adapt.tiny import draw, quickly, weights_of, write_model

ROOT = Path(__file__).parents[2]
FIT = (
    "fit", "--encoder", "open_clip:encoder", "--data", "data", "--shots", "1", "--rank", "4", "--batch", "8",
    "--learning-rate", "0.01",
)  # fmt: skip
EVAL = (
    "eval",
    "--encoder",
    "open_clip:encoder",
    "--data",
    "data",
    "--noises",
    "pixelate",
    "--severities",
    "2",
)
LONG = (*FIT, "--epochs", "15")


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    with quickly():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with encoders, data, and what is wrong with others."""
    folder = tmp_path_factory.mktemp("work")
    write_model(folder / "encoder")
    write_model(folder / "other", seed=1)
    write_model(folder / "resnet", "resnet")
    draw(folder / "data", {"train": 32, "val": 24, "test": 16})
    draw(folder / "untrained", {"val": 8, "test": 8})
    (folder / "file").write_text("mine")
    (folder / "one").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((28, 28), np.uint8)).save(folder / f"one/{name}.png")
    (folder / "one/labels.csv").write_text("image,label,split\na.png,normal,train\nb.png,normal,test\n")
    (folder / "prompts.yaml").write_text(
        "pneumoniamnist:\n  templates: ['{{ class }}']\n  classes: {normal: [clear], pneumonias: [dense]}\n"
    )
    return folder


@pytest.fixture(autouse=True)
def work(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


@pytest.fixture(scope="module")
def adapter(made: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        assert run(["adapt", *FIT, "--epochs", "2", "-o", "adapter"]) == 0
    return "adapter"


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "adapt", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    """Until the process has written a file."""
    end = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_ctrl_c_ends_a_fit_between_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["adapt", *FIT, "--epochs", "2", "-o", str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    output, steps, take = tmp_path / "disturbed", 0, Step.take

    def pressed(self: Step, *arguments: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == 6:
            signal.raise_signal(signal.SIGINT)
        return take(self, *arguments)

    monkeypatch.setattr(Step, "take", pressed)
    before = signal.getsignal(signal.SIGINT)
    assert run(["adapt", *FIT, "--epochs", "2", "-o", str(output)]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    captured = capsys.readouterr()
    assert captured.out == ""
    first, epoch, last = captured.err.splitlines()
    assert first.startswith(
        "32 training images of pneumoniamnist (16 normal, 16 pneumonia); 24 of the split val"
    )
    assert epoch.startswith("epoch 1/2: loss 0.")
    assert last == f"interrupted; the same command goes on with {output}"
    assert run(["adapt", *FIT, "--epochs", "2", "-o", str(output)]) == 0
    assert steps == 8
    assert weights_of(output) == weights_of(tmp_path / "whole")
    assert "epoch 1/2" not in capsys.readouterr().err


def test_a_fit_that_was_killed_goes_on_to_the_same(work: Path, tmp_path: Path) -> None:
    assert run(["adapt", *LONG, "-o", str(tmp_path / "whole")]) == 0
    output = tmp_path / "disturbed"
    process = started(*LONG, "-o", str(output), cwd=work)
    wait_for(output / "adapter_model.safetensors", process)
    process.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert all(line.startswith(("32 training images", "epoch ")) for line in errors.splitlines())
    assert not (output / "imc_adapter.json").exists()
    assert run(["adapt", *LONG, "-o", str(output)]) == 0
    assert weights_of(output) == weights_of(tmp_path / "whole")


def test_an_adapter_from_fit_to_report(
    adapter: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights_of(work / adapter)
    assert run(["adapt", *FIT, "--epochs", "2", "-o", adapter]) == 0
    captured = capsys.readouterr()
    line = json.loads(captured.out)
    assert line["adapted"] > line["zero_shot"]
    assert captured.err == "", "what is finished is not begun"
    assert weights_of(work / adapter) == before
    merged, evaluated = str(tmp_path / "merged"), str(tmp_path / "evaluated")
    assert run(["adapt", "merge", adapter, "-o", merged]) == 0
    captured = capsys.readouterr()
    line = json.loads(captured.out)
    assert (line["encoder"], captured.err) == (f"open_clip:{merged}", "")
    assert max(line["differences"].values()) < 1e-4
    assert run(["adapt", *EVAL, "--adapter", adapter, "-o", evaluated]) == 0
    rows = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert {row["method"] for row in rows} == {"none", "adapt"}
    assert {row["metric"] for row in rows} >= {"accuracy", "balanced_accuracy", "auroc"}
    assert run(["bench", "report", evaluated]) == 0
    assert [json.loads(text) for text in capsys.readouterr().out.splitlines()] == rows
    arguments = ["adapt", "eval", "--encoder", f"open_clip:{merged}", *EVAL[3:], "-o", str(tmp_path / "same")]
    assert run(arguments) == 0
    again = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    scores = [
        {(row["noise"], row["severity"], row["metric"]): row.get("value") for row in found}
        for found in ([row for row in rows if row["method"] == "adapt"], again)
    ]
    for key in {("clean", 0, "accuracy"), ("medmnist-c/pixelate", 2, "balanced_accuracy")}:
        assert scores[0][key] == scores[1][key]


def test_on_a_terminal_it_is_told_in_words(
    adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(["adapt", *FIT, "--epochs", "2", "-o", adapter]) == 0
    assert capsys.readouterr().out.startswith("wrote adapter: epoch 2 of 2, balanced accuracy on validation")
    assert run(["adapt", "merge", adapter, "-o", str(tmp_path / "m")]) == 0
    assert f"use it as open_clip:{tmp_path / 'm'}" in capsys.readouterr().out


def test_ctrl_c_in_an_evaluation_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("imc_agents.adapt.evaluate._logits", interrupted)
    assert run(["adapt", *EVAL, "-o", str(tmp_path / "e")]) == 130
    assert capsys.readouterr().err == f"interrupted; the same command goes on with {tmp_path / 'e'}\n"
    monkeypatch.undo()
    monkeypatch.chdir(Path.cwd())


def damaged(adapter: str, name: str) -> None:
    """Copies of the adapter with something wrong."""
    if Path(name).exists():
        return
    if name == "nan":
        shutil.copytree(adapter, name)
        tensors = load_file("nan/adapter_model.safetensors")
        tensors[max(tensors)][0, 0] = float("nan")
        save_file(tensors, "nan/adapter_model.safetensors")
    elif name == "cut":
        shutil.copytree(adapter, name)
        os.truncate("cut/adapter_model.safetensors", 200)
    elif name == "unfinished":
        shutil.copytree(adapter, name, ignore=shutil.ignore_patterns("imc_adapter.json"))
    elif name == "unrecorded":
        shutil.copytree(adapter, name)
        Path("unrecorded/imc_adapter.json").write_text('{"made_with": {}}')


MERGE = ("merge", "adapter")
MISTAKES: list[tuple[tuple[str, ...], str]] = [
    ((*FIT, "--rank", "0"), "--rank 0: an adapter needs a rank of 1 or more, e.g. 16"),
    ((*FIT, "--rank", "64"), "--rank 64: the projections are 32 wide; take that at most"),
    ((*FIT, "--shots", "0"), "--shots 0: give a number above 0"),
    ((*FIT, "--shots", "nan"), "--shots nan: give a number above 0"),
    ((*FIT, "--shots", "2"), "--shots 2: a share of the training images, at most 1; 0.1 is 10 %"),
    ((*FIT, "--shots", "0.01"), "0.01 draws none of the class 'normal', which has 16 images; the smallest"),
    ((*FIT, "--alpha", "0"), "--alpha 0: give a number above 0"),
    ((*FIT, "--learning-rate", "inf"), "--learning-rate inf: give a number above 0"),
    ((*FIT, "--weight-decay", "inf"), "--weight-decay inf: give a number, e.g. 1e-4"),
    ((*FIT, "--epochs", "0"), "'--epochs': Input should be greater than or equal to 1"),
    ((*FIT, "--qkv", "seperate"), "--qkv: unknown 'seperate'; did you mean 'separate'?"),
    ((*FIT, "--class-weights", "x"), "--class-weights: unknown 'x'; take none or balanced"),
    ((*FIT, "--precision", "fp8"), "--precision: unknown 'fp8'"),
    ((*FIT, "--precision", "float16"), "--precision float16 needs a GPU; take bfloat16 or float32"),
    ((*FIT, "--device", "cuda:9"), "device 'cuda:9' is not there"),
    ((*FIT, "--device", "meta"), "device 'meta' is not for encoders; take cpu, cuda or cuda:N"),
    ((*FIT, "--schedule", "cosin"), "--schedule: unknown 'cosin'; did you mean 'cosine'?"),
    ((*FIT, "--device", "gpu"), "device 'gpu' is not known; take cpu, cuda or cuda:N"),
    (
        (*FIT, "--encoder", "mllm:encoder"),
        "encoder 'mllm:encoder': adaptation needs a text encoder beside it",
    ),
    ((*FIT, "--encoder", "open_clip:gone"), "open_clip knows no model 'gone'"),
    ((*FIT, "--data", "gone"), "gone: there is no such file or folder"),
    ((*FIT, "--data", "one"), "one/labels.csv: all images are of the class 'normal'; add images of another"),
    ((*FIT, "--data", "untrained"), "untrained: has no split train to draw shots from; it has val, test"),
    ((*FIT, "--prompts", "prompts.yaml"), "no phrases for 'pneumonia', which the data has and phrases for"),
    ((*FIT, "-o", "file"), "file is a file; name a folder for the adapter"),
    ((*FIT, "-o", "file/x"), "file/x: cannot be created (Not a directory); name another folder"),
    ((*FIT, "-o", "adapter", "--epochs", "3"), "adapter: holds an adapter made with epochs 2, not 3; give"),
    ((*FIT, "-o", "unfinished"), "unfinished: holds an adapter, but neither imc_adapter.json nor"),
    ((*EVAL, "--suite", "medmnist"), "--suite: unknown 'medmnist'; did you mean 'medmnist-c'?"),
    ((*EVAL, "--noises", "pixelated"), "has no 'pixelated'; did you mean 'pixelate'?"),
    ((*EVAL, "--noises", ","), "--noises: none is given; leave it out for all"),
    ((*EVAL, "--severities", ""), "--severities: none is given; name some of 1 to 5"),
    ((*EVAL, "--severities", "6"), "severity 6 is outside 1..5"),
    ((*EVAL, "--severities", "mild"), "--severities 'mild': write numbers from 1 to 5 by comma"),
    ((*EVAL, "--table", "brestmnist"), "--table: unknown 'brestmnist'; did you mean 'breastmnist'?"),
    ((*EVAL, "--split", "tset"), "unknown split 'tset'; did you mean 'test'?"),
    ((*EVAL, "--encoder", "mllm:encoder"), "encoder 'mllm:encoder': adaptation needs a text encoder"),
    ((*EVAL, "--encoder", "open_clip:other", "--adapter", "adapter"), "other has"),
    (
        (*EVAL, "--encoder", "open_clip:resnet", "--adapter", "unfinished"),
        "but this encoder has 22 layers such as",
    ),
    ((*EVAL, "--adapter", "gone"), "gone: holds no adapter_config.json"),
    ((*EVAL, "--adapter", "cut"), "cut: the adapter cannot be read ("),
    ((*EVAL, "--adapter", "nan"), "nan: the adapter holds values that are not finite; fit it again"),
    ((*EVAL, "--adapter", "unrecorded"), "unrecorded/imc_adapter.json: damaged ('encoder'); delete"),
    ((*EVAL, "--calibrate", "adapter"), "adapter holds no bank"),
    ((*EVAL, "--device", "cuda:9"), "device 'cuda:9' is not there"),
    ((*EVAL, "-o", "file"), "file is a file; name a folder for the evaluation"),
    ((*EVAL, "-o", "adapter"), "adapter: holds something else, such as adapter_config.json; name a new"),
    ((*MERGE, "-o", "encoder"), "encoder: is there already; name a new folder"),
    ((*MERGE, "-o", "file"), "file: is there already; name a new folder"),
    ((*MERGE, "--encoder", "open_clip:other"), "adapter: was fitted to open_clip:encoder with the weights"),
    (("merge", "gone"), "gone: holds no imc_adapter.json"),
    (("merge", "unfinished"), "unfinished: holds no imc_adapter.json"),
    (("merge", "nan"), "nan: the adapter holds values that are not finite; fit it again"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistakes_are_one_clear_line(
    arguments: tuple[str, ...], words: str, adapter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in {"nan", "cut", "unfinished", "unrecorded"} & set(arguments):
        damaged(adapter, name)
    capsys.readouterr()
    output = () if "-o" in arguments else ("-o", "new")
    assert run(["adapt", *arguments, *output]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line.startswith("32 training images")]
    assert len(lines) == 1
    assert lines[0].startswith("imc: error: ")
    assert words in lines[0]
    assert not Path("new").exists()
