"""The manifest of a run: what ran on what, so that it can be resumed, repeated and cited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from imc_agents.data.rows import RESULT_FIELDS
from imc_agents.errors import UsageError

__all__ = [
    "FILE_NAME",
    "InputInfo",
    "Manifest",
    "ModelInfo",
    "RunState",
    "Selection",
    "read_manifest",
    "write_manifest",
]

FILE_NAME = "manifest.json"

RunState = Literal["running", "finished", "interrupted", "stopped"]
"""running: a process holds it, or was killed; interrupted: by Ctrl-C; stopped: by an error."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelInfo(_Record):
    """What one backend served: the name and the revision that identify its weights."""

    model: str
    revision: str
    scores: bool
    max_tokens: int


class InputInfo(_Record):
    """The input of a run.

    Attributes:
        path: Absolute, or relative to the run folder where the input came from a pipe.
        spooled: Whether the input came from a pipe and was kept in the run folder.
        format: Name of the reader.
        sha256: Hex digest of the bytes.
        bytes: Size of the file.
        rows: Rows of the file, bad ones included.
        question_field: Field that holds the question.
        id_field: Field that holds the id, or None where ids are made from row numbers.
        image_field: Field that names the image; None where images are not looked at.
    """

    path: str
    spooled: bool
    format: str
    sha256: str
    bytes: int
    rows: int
    question_field: str
    id_field: str | None
    image_field: str | None = None


class Selection(_Record):
    """Which rows of the input a run takes: those with one of the ids, the first ``limit`` of them."""

    limit: int | None = None
    only: tuple[str, ...] = ()


class Manifest(_Record):
    """Everything about a run but its samples.

    Attributes:
        rows: Rows that the run takes, after the selection.
        created: When it was started, in UTC, ISO 8601.
        updated: When this manifest was written.
        seconds: Time spent refining, all sittings together.
        sittings: How often it was started or resumed.
        added: The fields that the output has beyond those of the input, by the names of ``data.rows``.
        kind: What began it, ``imc refine`` or ``imc bench run``.
    """

    manifest_version: int = 1
    id: str
    name: str
    state: RunState
    error: str | None = None
    versions: dict[str, str]
    platform: str
    command: tuple[str, ...]
    seed: int
    models: dict[str, ModelInfo] = Field(default_factory=dict)
    prompts: dict[str, str] = Field(default_factory=dict)
    input: InputInfo
    selection: Selection = Selection()
    rows: int
    output: str | None
    created: str
    updated: str
    seconds: float = 0.0
    sittings: int = 0
    added: tuple[str, ...] = RESULT_FIELDS
    kind: Literal["refine", "bench"] = "refine"


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a run folder.

    Raises:
        UsageError: if there is none or it cannot be read.
    """
    path = folder / FILE_NAME
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return Manifest.model_validate(content)
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: not a run folder (no {FILE_NAME}); `imc runs list` shows the runs"
        ) from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: cannot be read ({reason}); the samples are still in run.db") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a run folder in one step, so that a crash leaves the old one or the new one."""
    temporary = folder / (FILE_NAME + ".tmp")
    try:
        temporary.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / FILE_NAME)
    finally:
        temporary.unlink(missing_ok=True)
