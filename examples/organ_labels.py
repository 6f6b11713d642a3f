#!/usr/bin/env python3
"""Write a table of labelled images for `imc`: the organs of VQA-RAD (head, chest or abdomen).

usage: python examples/organ_labels.py OUT [--data DIR]

Reads VQA-RAD from DIR, default $IMC_SHARED/data or ../shared/data. The new folder OUT gets labels.csv with the columns
image, label and split, copies of the images, since a table names only what lies beside it, and class_prompts.yaml
with the texts of the classes. The 64 images that small_clip.py never sees are test; of the others every fifth by digest
is val, the rest train. Split by image, since the published test questions are about images of the train questions.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

PHRASES = {"HEAD": ["the head"], "CHEST": ["the chest"], "ABD": ["the abdomen"]}


def organs(folder: Path) -> dict[str, str]:
    """The organ of each image, by name of its file."""
    found = {
        row["image_name"]: row["image_organ"]
        for name in ("trainset.json", "testset.json")
        for row in json.loads((folder / name).read_text(encoding="utf-8"))
    }
    return dict(sorted(found.items()))


def split_of(names: list[str], held_out: set[str]) -> dict[str, str]:
    """The split of each image."""
    seen = sorted(set(names) - held_out, key=lambda name: hashlib.sha256(name.encode()).digest())
    validation = set(seen[::5])
    return {name: "test" if name in held_out else "val" if name in validation else "train" for name in names}


def main() -> None:
    """Copy the images, write the table and the texts."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("out", type=Path)
    arguments.add_argument(
        "--data", type=Path, default=Path(os.environ.get("IMC_SHARED", "../shared")) / "data"
    )
    options = arguments.parse_args()
    source = options.data / "vqa_rad"
    held_out = options.data.parent / "models" / "tinymed" / "heldout_images.json"
    for path in (source / "images", held_out):
        if not path.exists():
            raise SystemExit(f"no {path}; name the folder of the data with --data")
    if options.out.exists():
        raise SystemExit(f"{options.out} is there already; name a new folder")
    labels = organs(source)
    splits = split_of(list(labels), set(json.loads(held_out.read_text(encoding="utf-8"))))
    (options.out / "images").mkdir(parents=True)
    for name in labels:
        shutil.copyfile(source / "images" / name, options.out / "images" / name)
    with (options.out / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["image", "label", "split"])
        rows.writerows((f"images/{name}", label, splits[name]) for name, label in labels.items())
    # JSON is YAML; the name of the data set is that of its folder.
    entry = {"templates": ["a medical image of {{ class }}"], "classes": PHRASES}
    prompts = json.dumps({options.out.resolve().name: entry}, indent=2, ensure_ascii=False)
    (options.out / "class_prompts.yaml").write_text(prompts + "\n", encoding="utf-8")
    counts = {split: list(splits.values()).count(split) for split in ("train", "val", "test")}
    print(
        f"wrote {options.out}/labels.csv: {', '.join(f'{count} {split}' for split, count in counts.items())}"
    )


if __name__ == "__main__":
    main()
