"""The real vision encoder of TinyMed and real images, for tests; read in place, skipped where they are absent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from imc_agents.vision.build import Sample

SHARED = Path(os.environ.get("IMC_SHARED", Path(__file__).parents[2] / ".." / "shared"))
SOURCE = SHARED / "models" / "tinymed"
SCANS = SHARED / "data" / "vqa_rad" / "images"
needs_tinymed = pytest.mark.skipif(
    not (SOURCE / "tinymed.safetensors").is_file() or not SCANS.is_dir(),
    reason=f"needs {SOURCE} and {SCANS}; set IMC_SHARED",
)


def vision_checkpoint(folder: Path) -> Path:
    """A checkpoint that holds the vision tower and the projector of TinyMed, and no language model."""
    folder.mkdir(parents=True)
    with safe_open(SOURCE / "tinymed.safetensors", "pt") as stored:
        names = [name for name in stored.keys() if not name.startswith(("lora.", "language_model."))]  # noqa: SIM118
        save_file({name: stored.get_tensor(name) for name in names}, folder / "model.safetensors")
    config = json.loads((SOURCE / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "tinymed"}))
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (SOURCE / name).exists():
            (folder / name).write_bytes((SOURCE / name).read_bytes())
    return folder


def scans(*, held_out: bool) -> list[Path]:
    """The VQA-RAD images that TinyMed has never seen, or the others."""
    names = set(json.loads((SOURCE / "heldout_images.json").read_text()))
    return [path for path in sorted(SCANS.glob("*.jpg")) if (path.name in names) == held_out]


def samples(paths: list[Path]) -> list[Sample]:
    """Files as samples of a bank."""

    def loader(path: Path) -> Any:
        return lambda: Image.open(path).convert("RGB")

    return [Sample(path.name, loader(path)) for path in paths]


def arrays(paths: list[Path], size: int = 128) -> list[Any]:
    """Files as uint8 arrays with a shorter side of ``size``."""
    from imc_agents.vision.build import at_encoder_size

    return [np.asarray(at_encoder_size(sample.load(), size)) for sample in samples(paths)]
