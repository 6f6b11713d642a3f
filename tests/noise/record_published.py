"""Record figures of the published corruptions on real images, in a Python of their own; about ten minutes.

uv venv -p 3.11 /tmp/oracle && export VIRTUAL_ENV=/tmp/oracle
apt-get install libmagickwand-dev
uv pip install "numpy==2.2.*" "setuptools<80" scikit-image scipy opencv-python-headless pillow Wand torchvision
uv pip install --no-deps medmnistc==0.1.0 imagecorruptions==1.1.2
IMC_SHARED=../shared PYTHONPATH=. /tmp/oracle/bin/python -W ignore -m tests.noise.record_published
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from imc_agents.bench.noise_published import published
from tests.noise.published import DRAWN, RECORDED, as_grey, figures, images, sampled

TABLES = Path(__file__).parents[2] / "imc_agents" / "noise" / "image"


def cases() -> list[tuple[str, str, str | None, int]]:
    """Suite, name, table and severity; one table of those with the same strength."""
    found: list[tuple[str, str, str | None, int]] = []
    loaded = yaml.safe_load((TABLES / "medmnist_c.yaml").read_text())
    for name, row in loaded.items():
        seen: list[Any] = []
        for table, strengths in row["tables"].items():
            for severity, strength in enumerate(strengths, start=1):
                if strength not in seen:
                    seen.append(strength)
                    found.append(("medmnist-c", name, "organamnist" if table == "organ" else table, severity))
    for name in yaml.safe_load((TABLES / "medimeta_c.yaml").read_text()):
        found += [("medimeta-c", name, None, severity) for severity in range(1, 6)]
    return found


def main() -> None:
    pictures = images(Path(os.environ["IMC_SHARED"]) / "data")
    names, wanted = list(pictures), sys.argv[1:]
    rows: list[list[Any]] = (
        [row for row in json.loads(RECORDED.read_text()) if row[1] not in wanted] if wanted else []
    )
    for number, (suite, name, table, severity) in enumerate(cases()):
        if wanted and name not in wanted:
            continue
        # One chest X-ray and one picture of VQA-RAD for each, in turns. Nothing of an X-ray can be saturated.
        for picture in names[2 + number % 2 :] if name == "saturate" else names[number % 2 :: 2]:
            clean = pictures[picture]
            apply = published(suite, name, table, severity)
            noisy = [np.asarray(apply(clean)) for _ in range(DRAWN.get(name, 1))]
            if name == "frost" and picture.startswith("pneumonia"):
                # Theirs is blue on a grey image too, ours as grey as the image.
                noisy = [as_grey(made) for made in noisy]
            values = None if name in DRAWN else base64.b64encode(sampled(noisy[0]).tobytes()).decode()
            rows.append([suite, name, table, severity, picture, figures(clean, noisy), values])
            print(*rows[-1][:6], file=sys.stderr)
    order = {case: number for number, case in enumerate(cases())}
    rows.sort(key=lambda row: order[tuple(row[:4])])
    lines = [json.dumps(row, separators=(",", ":")) for row in rows]
    RECORDED.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
