"""Refinement on a real vLLM server: the decisions of the embedded model, and one clear line where it cannot work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imc_agents.models.weights import cache_directory
from imc_agents.noise.text import apply_text_noise
from tests.vllm.servers import ROOT, Address, needs_vllm

pytestmark = needs_vllm

QUESTIONS = 60
LEAST_EQUAL = 57
"""95 %: both compute in bf16, but in other orders, so that a near tie may tip over."""

SIGNS = (
    "fracture",
    "mass",
    "nodule",
    "cyst",
    "pneumothorax",
    "hemorrhage",
    "effusion",
    "stone",
    "opacity",
    "tumor",
)
PLACES = ("left lung", "liver", "brain", "right kidney", "spine", "heart")
KINDS = ("typo", "ocr", "spacing", "asr", None)


def write_questions(path: Path, count: int = QUESTIONS) -> None:
    """Write questions, four fifths of them with one of four noises."""
    with path.open("w") as stream:
        for number in range(count):
            text = f"Is there any evidence of a {SIGNS[number % 10]} in the {PLACES[number // 10 % 6]}?"
            if kind := KINDS[number % 5]:
                text = apply_text_noise(text, kind, 2, sample_id=str(number)).text
            stream.write(json.dumps({"id": f"q{number}", "question": text}) + "\n")


def imc(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sixty_questions_come_out_as_on_the_embedded_model(tmp_path: Path, vllm_server: Address) -> None:
    write_questions(tmp_path / "in.jsonl")
    served = imc(
        tmp_path,
        "refine",
        "in.jsonl",
        "-o",
        "served.jsonl",
        "--backend",
        "vllm",
        "--base-url",
        vllm_server.base_url,
    )
    assert served.returncode == 0, served.stderr
    embedded = imc(tmp_path, "refine", "in.jsonl", "-o", "embedded.jsonl")
    assert embedded.returncode == 0, embedded.stderr

    left, right = rows(tmp_path / "served.jsonl"), rows(tmp_path / "embedded.jsonl")
    assert [row["id"] for row in left] == [f"q{number}" for number in range(QUESTIONS)]
    for key in ("refined", "status", "flags"):
        assert sum(a[key] == b[key] for a, b in zip(left, right, strict=True)) >= LEAST_EQUAL, key
    assert sum(row["changed"] for row in left) > QUESTIONS // 3, "else equality says nothing"

    summary = json.loads(served.stdout.splitlines()[-1])
    assert summary["failed"] == 0
    assert summary["prefix_cache_hit_rate"] > 0.5, "the context that all questions share is computed once"
    assert summary["engine_tokens_per_second"] > 0
    assert "prefix_cache_hit_rate" not in json.loads(embedded.stdout.splitlines()[-1])


def test_the_server_is_found_without_its_address_and_key(tmp_path: Path, vllm_server: Address) -> None:
    # A cache in which this server is the only one, whatever else runs on the machine.
    cache = tmp_path / "cache"
    (cache / "servers").mkdir(parents=True)
    for entry in cache_directory().iterdir():
        if entry.name != "servers":
            (cache / entry.name).symlink_to(entry)
    for record in (cache_directory() / "servers").glob("*.json"):
        if json.loads(record.read_text())["base_url"] == vllm_server.base_url:
            shutil.copy(record, cache / "servers")
    write_questions(tmp_path / "in.jsonl", 3)
    done = imc(tmp_path, "refine", "in.jsonl", "--backend", "vllm", IMC_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    folder = Path(json.loads(done.stdout.splitlines()[-1])["folder"])
    kept = b"".join(path.read_bytes() for path in (tmp_path / folder).iterdir() if path.is_file())
    assert vllm_server.api_key.encode() not in kept, "the key is in no file of the run"


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (
            (),
            {"VLLM_API_KEY": "sk-wrong-123", "IMC_CACHE": "cache"},
            "refused the key (HTTP 401); set the environment variable VLLM_API_KEY",
        ),
        (("--model", "smollm2-135m-instrukt"), {}, "did you mean 'smollm2-135m-instruct'?"),
        (("--set", "roles.critique.backend=defualt"), {}, "did you mean 'default'?"),
    ],
    ids=["key", "model", "backend"],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, vllm_server: Address, arguments: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    write_questions(tmp_path / "in.jsonl", 1)
    done = imc(
        tmp_path,
        "refine",
        "in.jsonl",
        "--backend",
        "vllm",
        "--base-url",
        vllm_server.base_url,
        *arguments,
        **variables,
    )
    assert done.returncode in (2, 4)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("imc: error:")]
    assert words in line
    assert "Traceback" not in done.stderr
    assert "sk-wrong-123" not in done.stderr


def test_a_question_longer_than_the_context_fails_alone(tmp_path: Path, vllm_server: Address) -> None:
    long = " ".join(["pneumothorax"] * 1500)
    lines = [{"id": "long", "question": long}, {"id": "short", "question": "Is there a fractre?"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = imc(
        tmp_path, "refine", "in.jsonl", "-o", "out.jsonl", "--backend", "vllm", "--base-url", vllm_server.base_url,
        "--set", "sms.max_question_chars=100000",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    found = {row["id"]: row for row in rows(tmp_path / "out.jsonl")}
    assert found["long"]["status"] == "data_error"
    assert found["long"]["refined"] == long
    assert "context" in found["long"]["error"]
    assert found["short"]["refined"] == "Is there a fracture?"


def test_a_role_may_have_a_server_of_its_own(tmp_path: Path, vllm_server: Address) -> None:
    """The perceiver on the server, the adjudicator in process."""
    write_questions(tmp_path / "in.jsonl", 10)
    (tmp_path / "imc.yaml").write_text(
        "backends:\n"
        f"  remote: {{kind: vllm, options: {{base_url: [{vllm_server.base_url}]}}}}\n"
        "roles:\n"
        "  perceive: {backend: remote}\n"
    )
    done = imc(tmp_path, "refine", "in.jsonl", "-o", "out.jsonl", "-c", "imc.yaml")
    assert done.returncode == 0, done.stderr
    (manifest,) = tmp_path.glob("runs/*/manifest.json")
    assert set(json.loads(manifest.read_text())["models"]) == {"default", "remote"}
    assert any(row["changed"] for row in rows(tmp_path / "out.jsonl"))
