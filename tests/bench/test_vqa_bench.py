"""`imc bench vqa`: what it reads of VQA-RAD."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imc_agents.bench.vqa import VqaQuestion, closed_questions
from imc_agents.errors import UsageError


def published(folder: Path) -> Path:
    rows = [
        {"qid": 1, "image_name": "a.jpg", "question": "Is it large?", "answer": "Yes "},
        {"qid": 2, "image_name": "b.jpg", "question": "Is it round?", "answer": "no"},
        {"qid": 3, "image_name": "a.jpg", "question": "Which organ?", "answer": "liver"},
        {"qid": 4, "image_name": "a.jpg", "question": "How many?", "answer": 2},
    ]
    (folder / "trainset.json").write_text(json.dumps(rows[:2]))
    (folder / "testset.json").write_text(json.dumps(rows[2:]))
    return folder


def test_closed_questions_of_the_chosen_images(tmp_path: Path) -> None:
    folder = published(tmp_path)
    first = VqaQuestion("train-1", "a.jpg", "Is it large?", "yes")
    assert closed_questions(folder) == [first, VqaQuestion("train-2", "b.jpg", "Is it round?", "no")]
    assert closed_questions(folder, ["a.jpg"]) == [first]
    with pytest.raises(UsageError, match="no closed question"):
        closed_questions(folder, ["c.jpg"])
    (folder / "testset.json").unlink()
    with pytest.raises(UsageError, match=r"testset\.json: cannot be read"):
        closed_questions(folder)
