"""A multimodal model on a vLLM server: what it takes is found out, and an image reaches it."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imc_agents.bench.matrix.store import read_run
from imc_agents.errors import DataError
from imc_agents.models.protocol import Capabilities, Generation, ImageFeatures, Message, Sampling
from imc_agents.models.vllm_server import create
from tests.vision.tinymed import arrays, samples, scans
from tests.vllm.servers import ROOT, Address, needs_vllm, start, stop

SHARED = Path(os.environ.get("IMC_SHARED", Path(__file__).parents[2] / ".." / "shared"))
TINYMED = SHARED / "models" / "tinymed"
IMAGES = SHARED / "data" / "vqa_rad"

pytestmark = [
    *needs_vllm,
    pytest.mark.skipif(not (TINYMED / "assemble.py").is_file(), reason=f"no multimodal model in {TINYMED}"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tinymed") / "tinymed"
    subprocess.run([sys.executable, str(TINYMED / "assemble.py"), str(folder)], check=True, timeout=280)
    return folder


@pytest.fixture(scope="module")
def tinymed(checkpoint: Path) -> Iterator[Address]:
    address = start(checkpoint.parent, model=str(checkpoint))
    yield address
    stop(address)


def ask(
    address: Address, *questions: tuple[str, Path | ImageFeatures | None]
) -> tuple[Capabilities, list[Generation]]:
    async def scenario() -> tuple[Capabilities, list[Generation]]:
        backend = create("", {"base_url": address.base_url})
        capabilities = await backend.open()
        try:
            replies = [
                await backend.generate(
                    [Message("user", f"{text}\nAnswer with a short phrase.", (image,) if image else ())],
                    sampling=Sampling(max_tokens=24),
                )
                for text, image in questions
            ]
        finally:
            await backend.close()
        return capabilities, replies

    return asyncio.run(scenario())


def test_images_and_features_are_found_out_and_images_are_seen(tinymed: Address) -> None:
    heldout = json.loads((TINYMED / "heldout_images.json").read_text())
    names = list(heldout["images"] if isinstance(heldout, dict) else heldout)
    paths = {path.name: path for path in IMAGES.rglob("*.jpg")}
    images = [paths[Path(name).name] for name in names if Path(name).name in paths][:12]
    assert len(images) == 12
    capabilities, replies = ask(tinymed, *(("Which organ system is shown?", image) for image in images))
    assert capabilities.images
    assert capabilities.features
    answers = [reply.text.strip().lower() for reply in replies]
    assert len(set(answers)) > 1, "the answer depends on the image"
    assert all(reply.usage.prompt_tokens > 64 for reply in replies), "64 tokens of the image are read"


def test_a_model_without_eyes_says_so(vllm_server: Address, tmp_path: Path) -> None:
    image = tmp_path / "x.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match="takes no images"):
        ask(vllm_server, ("Which organ?", image))


def test_features_stand_in_for_the_image(tinymed: Address, checkpoint: Path) -> None:
    from imc_agents.vision.encoders.mllm import load
    from imc_agents.vision.reading import read_image

    encoder = load(str(checkpoint))
    heldout = json.loads((TINYMED / "heldout_images.json").read_text())
    paths = [IMAGES / "images" / name for name in heldout[:4]]
    question = "Which organ system is shown?"
    found = [encoder.encode(encoder.preprocess([read_image(path)])).tokens.rows for path in paths]
    features = [
        ImageFeatures(rows.float().numpy(), None, path.name) for rows, path in zip(found, paths, strict=True)
    ]
    capabilities, raw = ask(tinymed, *((question, path) for path in paths))
    _, sent = ask(tinymed, *((question, item) for item in features))
    assert capabilities.features
    assert [reply.text for reply in sent] == [reply.text for reply in raw]
    assert len({reply.text for reply in sent}) > 1
    with pytest.raises(DataError, match="takes 64 by 576"):
        ask(tinymed, (question, ImageFeatures(features[0].rows[:63], None, "short")))


@pytest.fixture(scope="module")
def place(checkpoint: Path) -> Path:
    """A folder with a bank of the model's own vision encoder, and an image, clean and with noise."""
    from PIL import Image

    from imc_agents.noise.image import apply_image_noise
    from imc_agents.noise.registry import get_noise
    from imc_agents.vision.bank import save_bank
    from imc_agents.vision.build import build_bank
    from imc_agents.vision.encoders.mllm import load

    folder = checkpoint.parent
    encoder = load(str(checkpoint), dtype="float32")
    noise = get_noise("gaussian", "image")
    save_bank(build_bank(encoder, samples(scans(held_out=False)[:60]), [noise]), folder / "bank")
    clean = arrays(scans(held_out=True)[:1])[0]
    Image.fromarray(clean).save(folder / "clean.png")
    Image.fromarray(apply_image_noise(clean, "gaussian", 5, sample_id="x")).save(folder / "noisy.png")
    return folder


def imc(address: Address, place: Path, *arguments: str) -> str:
    # The address, since other tests may serve the model too.
    server = ("--backend", "vllm", "--base-url", address.base_url)
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments, *server],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_question_and_its_image_go_the_whole_way(tinymed: Address, place: Path) -> None:
    question = "Whihc organ systm is shown?"
    (place / "links").mkdir()
    (place / "links" / "scan.png").symlink_to(place / "noisy.png")
    asked = ("ask", "-q", question, "--image", "links/scan.png", "--bank", "bank", "--compare", "--trace")
    row = json.loads(imc(tinymed, place, *asked))
    assert row["refined"] == "Which organ system is shown?"
    assert (row["image"]["noise"], row["image"]["image"]) == ("gaussian", "noisy.png")
    assert row["image"]["operator"] not in ("auto", "identity")
    assert set(row["answers"]) == {"raw", "text", "image", "full"}
    assert row["answer"] == row["answers"]["full"] != ""
    calls = [event for event in row["trace"] if event["type"] == "called" and event["agent"] == "answer"]
    read = [json.loads(call["prompt"])[0]["images"][0] for call in calls]
    assert len(set(read)) == 2, "raw and calibrated features"
    same = json.loads(imc(tinymed, place, *asked, "--operator", "identity"))
    assert same["answers"]["raw"] == same["answers"]["image"]
    assert same["image"]["operator"] == "identity"


def test_rows_with_images_are_answered_in_batch(tinymed: Address, place: Path) -> None:
    rows = [
        {"id": "a", "question": "Whihc organ systm is shown?", "image": "noisy.png"},
        {"id": "b", "question": "Which organ system is shown?", "image": "clean.png"},
        {"id": "c", "question": "Is the heart enlarged?", "image": ""},
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = imc(tinymed, place, "refine", "rows.jsonl", "-o", "-", "--quiet", "--bank", "bank", "--answer")
    noisy, clean, text = (json.loads(line) for line in output.splitlines())
    assert (noisy["refined"], noisy["image_noise"]) == (clean["refined"], "gaussian")
    assert (clean["image_noise"], clean["image_severity"], clean["image_operator"]) == (
        "clean",
        0,
        "identity",
    )
    assert text["image_noise"] is None
    assert all(row["answer"] for row in (noisy, clean, text))


def test_the_robustness_benchmark_on_images(tinymed: Address, place: Path) -> None:
    content = {
        "name": "images",
        "datasets": {
            "vqa-rad": {
                "format": "vqa-rad",
                "path": str(IMAGES),
                "split": "train,test",
                "answers": ["yes", "no"],
                "only": str(TINYMED / "heldout_images.json"),
                "limit": 8,
            }
        },
        "noises": ["gaussian"],
        "severities": [5],
        "methods": ["none", "pdc", "imc", "median"],
        "image_size": 128,
        "models": {
            "tinymed": {
                "backends": {"mllm": {"kind": "vllm", "options": {"base_url": tinymed.base_url}}},
                "roles": {"answer": {"backend": "mllm"}},
                "pdc": {"bank": "bank"},
            }
        },
    }
    (place / "bench.yaml").write_text(json.dumps(content))
    command = [sys.executable, str(ROOT / "cli.py"), "bench", "run", "-c", "bench.yaml"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    run = read_run(place / json.loads(done.stdout)["folder"])
    assert run.complete
    assert len(run.outcomes) == 8 * 2 * 4
    found = {(o.noise, o.method, o.sample): o for o in run.outcomes}
    for (noise, method, sample), outcome in found.items():
        assert outcome.reply
        if method != "median":  # which smooths the noise away that calibration is to see
            # A bank of sixty images may find a clean one far from all it knows, and leaves that alone as well.
            assert outcome.image_noise in (("gaussian",) if noise == "gaussian" else ("clean", "unknown"))
        changed = outcome.image_operator not in (None, "identity")
        assert changed == (noise == "gaussian" and method in ("pdc", "imc"))
        if noise == "clean" and outcome.refined == outcome.question and method in ("pdc", "imc"):
            assert outcome.reply == found[noise, "none", sample].reply
    # Methods read different features: what calibration did shows in the calls that were kept.
    replies = run.folder / "responses.db"
    connection = sqlite3.connect(replies)
    (calls,) = connection.execute("SELECT COUNT(*) FROM replies").fetchone()
    connection.close()
    assert 8 * 2 < calls <= 8 * 7


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("gone.png", None, "cannot be read"), ("text.png", b"hello", "convert it to PNG or JPEG")],
)
def test_a_bad_image_is_an_error_of_the_data(
    tinymed: Address, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        ask(tinymed, ("Which organ?", path))
