"""The whole graph: text and image side by side, answers of the four ways, from a backend that tells what it read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imc_agents.agents.answer import WAYS
from imc_agents.agents.refiner import Refiner
from imc_agents.config.load import resolve
from imc_agents.errors import ConfigError, DataError
from imc_agents.models.protocol import Generation, ImageFeatures, Message
from imc_agents.noise.image import apply_image_noise
from imc_agents.noise.registry import get_noise
from imc_agents.trace.events import Answered, Calibrated, Event
from imc_agents.vision.bank import save_bank
from imc_agents.vision.build import build_bank
from imc_agents.vision.encoders.mllm import load
from tests.conftest import Model, SharedBackend
from tests.vision.tinymed import arrays, needs_tinymed, samples, scans, vision_checkpoint

NOISY, REFINED = "Is there a pnemothorax?", "Is there a pneumothorax?"
ROOT = Path(__file__).parents[2]


class Reader(SharedBackend):
    """The default model for scores; an answer is what it was given to read."""

    async def generate(self, messages: Sequence[Message], **options: Any) -> Generation:
        (message,) = messages
        shown = [
            item.digest if isinstance(item, ImageFeatures) else f"file {item.name}" for item in message.images
        ]
        await asyncio.sleep(0)
        return Generation(json.dumps([message.content.splitlines()[0], *shown]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of one noise, and images: a clean one and the same with noise."""
    folder = tmp_path_factory.mktemp("imc")
    encoder = load(str(vision_checkpoint(folder / "tinymed")), dtype="float32")
    save_bank(
        build_bank(encoder, samples(scans(held_out=False)[:60]), [get_noise("gaussian", "image")]),
        folder / "bank",
    )
    images = folder / "images"
    images.mkdir()
    clean = arrays(scans(held_out=True)[:1])[0]
    Image.fromarray(clean).save(images / "clean.png")
    Image.fromarray(apply_image_noise(clean, "gaussian", 5, sample_id="x")).save(images / "noisy.png")
    return folder


def opened(model: Model, place: Path, *overrides: str) -> Refiner:
    given = (f"pdc.images={place / 'images'}", "run.answer=true", *overrides)
    backend = Reader(model.backend.backend, model.backend.capabilities)
    refiner = Refiner(resolve(overrides=given).config, create=lambda _: backend)
    model.run(refiner.open())
    return refiner


def asked(
    model: Model, refiner: Refiner, question: str, image: str | None, *ways: str
) -> tuple[str, dict[str, list[str]], list[Event]]:
    events: list[Event] = []
    refinement, answers = model.run(refiner.ask("q", question, events.append, image=image, ways=ways))  # type: ignore[arg-type]
    return refinement.refined, {way: json.loads(answer) for way, answer in answers.items()}, events


@needs_tinymed
def test_each_way_reads_its_own_question_and_image(model: Model, place: Path) -> None:
    refiner = opened(model, place, f"pdc.bank={place / 'bank'}")
    refined, answers, events = asked(model, refiner, NOISY, "noisy.png", *WAYS)
    assert refined == REFINED
    assert {way: answer[0] for way, answer in answers.items()} == {
        "raw": NOISY,
        "image": NOISY,
        "text": REFINED,
        "full": REFINED,
    }
    shown = {way: answer[1] for way, answer in answers.items()}
    assert shown["raw"] == shown["text"] != shown["image"] == shown["full"]
    (seen,) = [event for event in events if isinstance(event, Calibrated)]
    assert (seen.image, seen.noise) == ("noisy.png", "gaussian")
    assert seen.severity >= 4
    assert [event.way for event in events if isinstance(event, Answered)] == list(WAYS)


@needs_tinymed
def test_what_is_the_same_is_asked_once(model: Model, place: Path) -> None:
    refiner = opened(model, place, f"pdc.bank={place / 'bank'}")
    _, answers, events = asked(model, refiner, REFINED, "clean.png", *WAYS)
    assert len({json.dumps(answer) for answer in answers.values()}) == 1
    calls = [event for event in events if event.type == "called" and event.agent == "answer"]
    assert len(calls) == 1


@needs_tinymed
def test_an_image_is_looked_at_without_anybody_to_answer(model: Model, place: Path) -> None:
    refiner = opened(
        model, place, f"pdc.bank={place / 'bank'}", "run.answer=false", "roles.answer.enabled=false"
    )
    events: list[Event] = []
    refinement = model.run(refiner.refine("q", NOISY, events.append, image="noisy.png"))
    assert refinement.refined == REFINED
    assert [event.noise for event in events if isinstance(event, Calibrated)] == ["gaussian"]


@needs_tinymed
def test_one_image_in_many_questions_at_once(model: Model, place: Path) -> None:
    refiner = opened(model, place, f"pdc.bank={place / 'bank'}")
    questions = [REFINED, "Is the heart enlarged?", "Which organ is shown?"] * 3

    async def crowd() -> list[Any]:
        return await asyncio.gather(
            *(
                refiner.ask(f"q{i}", question, lambda _: None, image="noisy.png", ways=("full",))
                for i, question in enumerate(questions)
            )
        )

    answers = [json.loads(found["full"]) for _, found in model.run(crowd())]
    assert [answer[0] for answer in answers] == questions
    assert len({answer[1] for answer in answers}) == 1


def test_without_a_bank_the_image_goes_as_it_is_and_without_an_image_none(
    model: Model, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    refiner = opened(model, tmp_path)
    assert asked(model, refiner, NOISY, "a.png", "full")[1] == {"full": [REFINED, "file a.png"]}
    assert asked(model, refiner, NOISY, None, *WAYS)[1] == {
        "raw": [NOISY],
        "image": [NOISY],
        "text": [REFINED],
        "full": [REFINED],
    }
    with pytest.raises(DataError, match="leads out of"):
        asked(model, refiner, NOISY, "../a.png", "full")


def test_the_text_is_left_alone_where_no_answer_needs_it(model: Model, tmp_path: Path) -> None:
    refined, answers, events = asked(model, opened(model, tmp_path), NOISY, None, "raw")
    assert (refined, answers) == (NOISY, {"raw": [NOISY]})
    assert {event.agent for event in events} == {"answer"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("graph=graphs.imc:gone", "graph: cannot build 'graphs.imc:gone'"),
        ("pdc.graph=graphs.nowhere:build", "pdc.graph: cannot build 'graphs.nowhere:build'"),
    ],
)
def test_a_graph_that_cannot_be_built_is_named(
    model: Model, tmp_path: Path, override: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        asked(model, opened(model, tmp_path, override), NOISY, None, "raw")


@needs_tinymed
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pdc.bank=nowhere", "nowhere holds no bank"),
        ("pdc.operator=rigde", "pdc.operator: .*did you mean 'ridge'"),
        ("pdc.encoder=mllm:nowhere", "nowhere"),
    ],
)
def test_a_bank_that_cannot_be_used_ends_it_at_the_start(
    model: Model, place: Path, override: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        opened(model, place, f"pdc.bank={place / 'bank'}", override)


def test_langgraph_json_names_graphs_that_can_be_built_and_drawn() -> None:
    named = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
    for target in named.values():
        file, _, function = target.partition(":")
        module = import_module(file.removeprefix("./").removesuffix(".py").replace("/", "."))
        assert "__start__" in getattr(module, function)().get_graph().draw_mermaid()
    assert set(named) == {"sms", "pdc", "imc"}
