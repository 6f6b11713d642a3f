from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imc(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cli.py"), "noise", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT)


def test_piped_noise_is_json_lines_that_nest():
    done = imc(
        "text", "Is there free air under the diaphragm?", "--kind", "ocr", "--seed", "1", "--all-severities"
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["severity"] for row in rows] == [1, 2, 3, 4, 5]
    starts = [{slip["start"] for slip in row["slips"]} for row in rows]
    assert starts[0] <= starts[1] <= starts[4]
    assert rows[4]["noisy"] != rows[4]["text"]


def test_lines_of_stdin_are_samples_of_their_own():
    line = "Is there evidence of an aortic aneurysm?\n"
    rows = [json.loads(row) for row in imc("text", "-", stdin=line * 2).stdout.splitlines()]
    assert [row["id"] for row in rows] == ["1", "2"]
    assert rows[0]["slips"] != rows[1]["slips"]
    (alone,) = imc("text", "-", stdin=line).stdout.splitlines()
    assert json.loads(alone) == rows[0], "what follows a line changes nothing"


def test_list_names_every_noise_and_its_severities():
    rows = [json.loads(line) for line in imc("list").stdout.splitlines()]
    assert {"typo", "ocr", "asr"} <= {row["name"] for row in rows}
    assert rows[0]["strengths"] == [0.02, 0.04, 0.08, 0.12, 0.16]


def test_list_shows_a_suite_with_the_severities_of_a_data_set():
    rows = {
        row["name"]: row for row in map(json.loads, imc("list", "--suite", "medmnist-c").stdout.splitlines())
    }
    assert len(rows) == 21
    assert rows["medmnist-c/jpeg_compression"]["tables"]["octmnist"] == [30, 15, 10, 7, 5]
    assert (rows["medmnist-c/bubble"]["modality"], rows["medmnist-c/bubble"]["strengths"]) == ("image", [])
    rows = {
        row["name"]: row for row in map(json.loads, imc("list", "--table", "octmnist").stdout.splitlines())
    }
    assert rows["medmnist-c/jpeg_compression"]["strengths"] == [30, 15, 10, 7, 5]
    assert "medmnist-c/bubble" not in rows
    assert imc("list", "--suite", "medmnistc").stderr.startswith(
        "imc: error: unknown suite 'medmnistc'; did you mean 'medmnist-c'?"
    )


def test_errors_are_one_line_with_the_cure():
    done = imc("text", "x", "--kind", "typos")
    assert done.returncode == 2
    assert done.stderr == "imc: error: unknown text noise 'typos'; did you mean 'typo'?\n"
    assert imc("text", "x", "--severity", "9").stderr.startswith("imc: error: severity 9 is outside 1..5")
