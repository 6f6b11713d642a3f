"""``imc ask`` as a user types it: an answer of the default model, and one clear line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli import run

ROOT = Path(__file__).parents[2]


def test_a_question_alone_is_refined_and_answered(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "cli.py"),
            "ask",
            "-q",
            "Is there a pnemothorax?",
            "--compare",
            "--trace",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["refined"], row["image"]) == ("Is there a pneumothorax?", None)
    answers = row["answers"]
    assert row["answer"] == answers["full"] == answers["text"] != ""
    assert answers["raw"] == answers["image"]
    assert {"perceived", "merged", "answered"} <= {event["type"] for event in row["trace"]}
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-q", "Is it?", "--image", "gone.png"), "gone.png: there is no such image"),
        (("-q", " "), "--question: the question is empty"),
        (("-q", "Is it?", "--bank", "bank"), "are for images; name one by --image"),
        (("-q", "Is it?", "--set", "roles.answer.enabled=false"), "one enabled role must be answerer"),
        (("-q", "Is it?", "-i", "a.png", "--bank", "nowhere"), "nowhere holds no bank"),
        (("-q", "Is it?", "--backend", "vlm"), "did you mean 'vllm'"),
    ],
)
def test_mistakes_are_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    assert run(["ask", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
