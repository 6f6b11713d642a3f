"""Questions for the noise tests: a few of our own, and the published ones where the shared data is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

QUESTIONS = (
    "Is there evidence of an aortic aneurysm?",
    "What is the abnormality in the left lung seen on the chest x-ray?",
    "Is the ileum dilated with free air in the patient's abdomen?",
    "Does the patient have a history of shortness of breath without chest pain?",
    "Is the mass in the right kidney larger than 3.5 cm, or is it not seen on the MRI?",
    "Where is the lesion located and which part of the brain shows the fracture?",
)


def vqa_rad_questions() -> list[str]:
    folder = (
        Path(os.environ.get("IMC_SHARED", Path(__file__).parents[2].parent / "shared")) / "data" / "vqa_rad"
    )
    if not folder.is_dir():
        pytest.skip(f"needs VQA-RAD in {folder}; set IMC_SHARED to the folder that holds data/vqa_rad")
    rows = json.loads((folder / "testset.json").read_text(encoding="utf-8"))
    return sorted({row["question"] for row in rows})
