"""Copies of data sets in their published layouts, made of the real data, small and in a folder of the test."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

SHARED = Path(os.environ.get("IMC_SHARED", Path(__file__).resolve().parents[2] / "../shared")) / "data"

need_vqa_rad = pytest.mark.skipif(not (SHARED / "vqa_rad").is_dir(), reason="VQA-RAD is not here")
need_slake = pytest.mark.skipif(not (SHARED / "slake").is_dir(), reason="SLAKE is not here")
need_medmnist = pytest.mark.skipif(
    not (SHARED / "pneumoniamnist").is_dir(), reason="PneumoniaMNIST is not here"
)


def rows_of(name: str) -> list[dict[str, Any]]:
    return json.loads((SHARED / name).read_text(encoding="utf-8"))


def write_json(path: Path, rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def vqa_rad(folder: Path, count: int = 12) -> Path:
    """The first questions of each split with their images."""
    for name in ("trainset.json", "testset.json"):
        rows = rows_of(f"vqa_rad/{name}")[:count]
        write_json(folder / name, rows)
        (folder / "images").mkdir(exist_ok=True)
        for row in rows:
            shutil.copy(SHARED / "vqa_rad/images" / row["image_name"], folder / "images")
    return folder


def chest() -> dict[str, Any]:
    """The arrays of PneumoniaMNIST, 60 of each split."""
    with np.load(SHARED / "pneumoniamnist/pneumoniamnist.npz") as held:
        return {key: held[key][:60] for key in held.files}


def medimeta(folder: Path, *, task_labels: bool = True) -> Path:
    """PneumoniaMNIST as MedIMeta lays it out: tiff files by number, splits of paths, two tasks."""
    arrays = chest()
    images = np.concatenate([arrays["val_images"][:6], arrays["test_images"][:8]])
    labels = np.concatenate([arrays["val_labels"][:6], arrays["test_labels"][:8]])[:, 0]
    bright = np.stack([labels, images.mean((1, 2)) > 140], 1).astype(int)
    for name in ("images", "splits", "task_labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    paths = [f"images/{number:06d}.tiff" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(folder / path)
    (folder / "splits/val.txt").write_text("\n".join(paths[:6]))
    (folder / "splits/test.txt").write_text("\n".join(paths[6:]))
    (folder / "info.yaml").write_text(
        "id: pneumonia\nname: Pneumonia\ntasks:\n"
        "  - task_name: disease\n    task_target: BINARY_CLASSIFICATION\n    labels: {0: normal, 1: pneumonia}\n"
        "  - task_name: both\n    task_target: MULTILABEL_CLASSIFICATION\n    labels: {0: pneumonia, 1: bright}\n"
        "input_size: [1, 28, 28]\n"
    )
    if task_labels:
        np.save(folder / "task_labels/disease.npy", labels)
        np.save(folder / "task_labels/both.npy", bright)
    with (folder / "annotations.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["filepath", "tasks/disease", "tasks/both"])
        for path, label, pair in zip(paths, labels, bright, strict=True):
            writer.writerow([path, label, pair.tolist()])
    return folder


def path_vqa_rows(count: int) -> list[dict[str, str]]:
    return [
        {"image": f"test_{number:04d}", "question": row["question"], "answer": str(row["answer"])}
        for number, row in enumerate(rows_of("vqa_rad/testset.json")[:count])
    ]


def shards(folder: Path, images: list[bytes], rows: list[dict[str, str]]) -> Path:
    """Parquet files as Hugging Face writes them, two for the split."""
    (folder / "data").mkdir(parents=True)
    half = len(rows) // 2
    for number, part in enumerate((slice(0, half), slice(half, None))):
        table = pa.table(
            {
                "image": [{"bytes": content, "path": None} for content in images[part]],
                "question": [row["question"] for row in rows[part]],
                "answer": [row["answer"] for row in rows[part]],
            }
        )
        pq.write_table(table, folder / f"data/test-{number:05d}-of-00002.parquet")
    return folder


def medmnist_c(folder: Path, arrays: dict[str, Any]) -> Path:
    """Five severities that can be told apart by brightness, mild ones first."""
    stack = np.concatenate([arrays["test_images"] // (level + 1) for level in range(5)])
    (folder / "pneumoniamnist").mkdir(parents=True)
    for corruption in ("gaussian_noise", "pixelate"):
        labels = np.tile(arrays["test_labels"], (5, 1))
        np.savez_compressed(
            folder / f"pneumoniamnist/{corruption}.npz", test_images=stack, test_labels=labels
        )
    return folder


def medimeta_c(folder: Path, arrays: dict[str, Any]) -> Path:
    """Clean images and one severity of one corruption."""
    (folder / "pneumonia/test").mkdir(parents=True)
    for name, images in (("clean", arrays["test_images"]), ("fog_severity_2", arrays["test_images"] // 2)):
        np.savez(folder / f"pneumonia/test/{name}.npz", images=images, labels=arrays["test_labels"][:, 0])
    return folder
