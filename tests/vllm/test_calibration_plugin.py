"""Calibration inside vLLM: the identity changes nothing, a bank does, and features from outside pass as they are.

Run as a program, this file is the process in which the engines of the first tests live, so that one engine can be
asked with and without calibration.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imc_agents.vision.bank import load_bank, save_bank
from imc_agents.vision.build import Sample, build_bank
from tests.vllm.servers import ROOT, Address, needs_vllm, start, stop

SHARED = Path(os.environ.get("IMC_SHARED", ROOT / ".." / "shared"))
TINYMED = SHARED / "models" / "tinymed"
IMAGES = SHARED / "data" / "vqa_rad" / "images"
WORDS = "Which organ is it? The chest and lungs, I think"
QUESTION = "Which organ system is shown?"
SCORED = 8

pytestmark = [
    *needs_vllm,
    pytest.mark.skipif(not (TINYMED / "assemble.py").is_file(), reason=f"no multimodal model in {TINYMED}"),
]


def clean_images(count: int) -> list[Any]:
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in sorted(IMAGES.glob("*.jpg"))[:count]]


def noisy_images(count: int, size: int) -> list[Any]:
    import numpy as np
    from PIL import Image

    from imc_agents.noise.registry import get_noise
    from imc_agents.vision.build import at_encoder_size

    apply = get_noise("gaussian").apply
    images = [np.asarray(at_encoder_size(image, size)) for image in clean_images(count)]
    return [
        Image.fromarray(apply(image, 5, seed=1, sample_id=str(i), dataset=""))
        for i, image in enumerate(images)
    ]


def make_bank(checkpoint: Path, folder: Path, images: int) -> Path:
    """A bank of one noise, for the encoder as the engine runs it."""
    from imc_agents.noise.registry import get_noise
    from imc_agents.vision.encoders.mllm import load

    samples = [Sample(str(i), lambda image=image: image) for i, image in enumerate(clean_images(images))]
    encoder = load(str(checkpoint), dtype="bfloat16")
    save_bank(build_bank(encoder, samples, [get_noise("gaussian")], groups=1, batch=8), folder)
    return folder


def tiny_tokenizer(tinymed: Path, folder: Path, *added: str) -> Any:
    from transformers import AutoTokenizer

    loader: Any = AutoTokenizer
    tokenizer = loader.from_pretrained(tinymed)
    tokenizer.add_tokens(["\n" * n for n in range(1, 5)])
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_random(model: Any, folder: Path, rename: Callable[[str], str] = lambda name: name) -> None:
    """Save with weights so wide that the image matters to the answer."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.to(torch.bfloat16).save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file({rename(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})


# The widths of the first model, so that its bank does for all.
VISION = {
    "hidden_size": 256,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 576,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


def tiny_gemma3(tinymed: Path, folder: Path) -> None:
    from transformers import (
        AutoTokenizer,
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    loader: Any = AutoTokenizer
    names = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tiny_tokenizer(tinymed, folder, *names.values())
    tokenizer = loader.from_pretrained(folder, extra_special_tokens=names)
    images = Gemma3ImageProcessor(size={"height": 64, "width": 64}, do_pan_and_scan=False)
    Gemma3Processor(
        images, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=4
    ).save_pretrained(folder)
    config = Gemma3Config(
        text_config={**TEXT, "vocab_size": len(tokenizer)},
        vision_config=VISION,
        mm_tokens_per_image=4,
        **{
            f"{key}_index": tokenizer.convert_tokens_to_ids(name)
            for key, name in zip(("boi_token", "eoi_token", "image_token"), names.values(), strict=True)
        },
    )
    # As published checkpoints name them.
    save_random(
        Gemma3ForConditionalGeneration(config),
        folder,
        lambda name: name.replace("vision_tower.", "vision_tower.vision_model.", 1),
    )


def tiny_idefics3(tinymed: Path, folder: Path) -> None:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = tiny_tokenizer(
        tinymed, folder, "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *places
    )
    images = Idefics3ImageProcessor(size={"longest_edge": 128}, max_image_size={"longest_edge": 64})
    Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template
    ).save_pretrained(folder)
    config = Idefics3Config(
        text_config={
            "model_type": "llama",
            **TEXT,
            "vocab_size": len(tokenizer),
            "pad_token_id": 2,
            "max_position_embeddings": 2048,
        },
        vision_config=VISION,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=2,
    )
    save_random(Idefics3ForConditionalGeneration(config), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibration")


@pytest.fixture(scope="module")
def tinymed(folder: Path) -> Path:
    checkpoint = folder / "tinymed"
    subprocess.run([sys.executable, str(TINYMED / "assemble.py"), str(checkpoint)], check=True, timeout=280)
    return checkpoint


@pytest.fixture(scope="module")
def bank(tinymed: Path, folder: Path) -> Path:
    return make_bank(tinymed, folder / "bank", 12)


@pytest.fixture(scope="module")
def answers(tinymed: Path, bank: Path, folder: Path) -> dict[str, Any]:
    """What the engines say, by checkpoint and by how they calibrate."""
    from imc_agents.vision.encoders.mllm import load

    for name, make in (("gemma3", tiny_gemma3), ("idefics3", tiny_idefics3)):
        make(tinymed, folder / name)
    info = load(str(folder / "gemma3"), dtype="bfloat16").info
    for family in ("gemma3", "idefics3"):
        encoder = dataclasses.replace(info, family=family)
        save_bank(
            dataclasses.replace(load_bank(bank), encoder=encoder, layers=(-1, 0, 4)),
            folder / f"bank-{family}",
        )
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "answers.json").read_text())


@pytest.fixture(scope="module")
def served(tinymed: Path, bank: Path, folder: Path) -> Iterator[Address]:
    address = start(folder, "--calibrate", str(bank), model=str(tinymed))
    yield address
    stop(address)


def farthest(left: list[list[float]], right: list[list[float]]) -> float:
    return max(
        abs(a - b) for one, two in zip(left, right, strict=True) for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("family", ["tinymed", "gemma3", "idefics3"])
def test_the_identity_changes_nothing_bit_by_bit_and_a_correction_does(
    answers: dict[str, Any], family: str
) -> None:
    found = answers[family]
    assert found["identity"] == found["raw"]
    assert all(moved != raw for moved, raw in zip(found["moved"], found["raw"], strict=True))


def test_a_noisy_image_is_calibrated(answers: dict[str, Any]) -> None:
    found = answers["tinymed"]
    assert farthest(found["calibrated"], found["raw"]) > 0.01


def test_features_that_are_sent_are_not_calibrated_again(answers: dict[str, Any]) -> None:
    found = answers["tinymed"]
    assert found["own features"] == found["alone"]


def test_features_computed_outside_are_those_of_the_engine(answers: dict[str, Any]) -> None:
    found = answers["tinymed"]
    # A few values of the patch embedding are rounded the other way, which blocks and language model amplify.
    assert found["deviation of tokens"] < 0.01
    assert farthest(found["features"], found["alone"]) < 1.0


def test_a_server_started_with_a_bank_answers_as_the_calibrated_engine(
    answers: dict[str, Any], served: Address
) -> None:
    found = answers["tinymed"]

    async def ask() -> list[float]:
        body = {
            "model": "tinymed",
            "messages": chat(noisy_images(1, 128)[0]),
            "max_tokens": SCORED,
            "temperature": 0,
            "logprobs": True,
        }
        headers = {"Authorization": f"Bearer {served.api_key}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{served.base_url}/chat/completions", json=body) as response,
        ):
            assert response.status == 200, await response.text()
            choice = (await response.json())["choices"][0]
        return [entry["logprob"] for entry in choice["logprobs"]["content"]]

    answer = asyncio.run(ask())
    away = farthest([answer], [found["raw chat"]])
    assert away > 0.001
    assert farthest([answer], [found["calibrated chat"]]) < away / 5


def chat(image: Any) -> list[dict[str, Any]]:
    content = io.BytesIO()
    image.save(content, "PNG")
    url = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": parts}]


def engines(folder: Path) -> None:
    """Ask one engine after another, each in every way."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    found: dict[str, Any] = {}
    for name, mark, bank in (
        ("tinymed", "<image>", "bank"),
        ("gemma3", "<start_of_image>", "bank-gemma3"),
        ("idefics3", "<image>", "bank-idefics3"),
    ):
        os.environ["IMC_VLLM_CALIBRATION"] = str(folder / bank)
        began = time.monotonic()
        found[name] = one_engine(folder / name, mark, load_bank(folder / bank))
        found[name]["seconds"] = time.monotonic() - began
        cleanup_dist_env_and_memory()
    (folder / "answers.json").write_text(json.dumps(found))


def one_engine(checkpoint: Path, mark: str, bank: Any) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    from imc_agents.serving.calibration import calibrated
    from imc_agents.vision import calibration

    outside = checkpoint.name == "tinymed"
    engine: Any = LLM(
        str(checkpoint),
        enforce_eager=True,
        dtype="bfloat16",
        max_model_len=1024,
        enable_prefix_caching=False,
        enable_mm_embeds=outside,
    )
    images = noisy_images(2, bank.encoder.image_size)
    asked = iter(range(10_000))
    kept: list[Any] = []

    def score(*data: list[Any]) -> list[list[float]]:
        """Log-probabilities of the words behind images, or behind the features of one."""
        prompts = [
            {
                "prompt": f"user {mark * len(item)} {WORDS}",
                "multi_modal_data": {"image": item},
                # Names of their own, so that no features come from the cache of the way before.
                "multi_modal_uuids": {"image": [f"image-{next(asked)}" for _ in item]},
            }
            for item in data
        ]
        wanted = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        return [
            [next(iter(entry.values())).logprob for entry in done.prompt_logprobs[-SCORED:]]
            for done in engine.generate(prompts, wanted, use_tqdm=False)
        ]

    def reply() -> list[float]:
        wanted = SamplingParams(temperature=0, max_tokens=SCORED, logprobs=0)
        done = engine.chat(chat(images[0]), wanted, use_tqdm=False)[0].outputs[0]
        return [entry[token].logprob for entry, token in zip(done.logprobs, done.token_ids, strict=True)]

    def calibrate_with(operator: str | None) -> None:
        def change(model: Any) -> None:
            own = type(model)._process_image_input.__get__(model)

            def keep(image_input: Any) -> Any:
                kept.append(own(image_input))
                return kept[-1]

            model._process_image_input = (
                keep
                if operator is None
                else calibrated(own, model.imc_taps, bank, operator=operator, strength=1.0)
            )

        engine.apply_model(change)
        engine.llm_engine.reset_encoder_cache()

    def shift(bank: Any, encoded: Any, *, operator: str, strength: float) -> Any:
        for layer in bank.layers:
            assert len(encoded.layers[layer].counts) == len(encoded.tokens.counts) == len(encoded.grids)
            assert encoded.layers[layer].rows.shape[1] == bank.encoder.layer_width
        return calibration.Calibration(
            dataclasses.replace(encoded.tokens, rows=encoded.tokens.rows * 0.5), ()
        )

    pictures: list[Any] = [[image] for image in images] + [images]
    found: dict[str, Any] = {}
    if outside:
        found["calibrated"], found["calibrated chat"] = score(*pictures), reply()
    calibrate_with("identity")
    found["identity"] = score(*pictures)
    calibrate_with(None)
    found["raw"] = score(*pictures)
    if outside:
        from imc_agents.vision.encoders.mllm import load

        found["raw chat"] = reply()
        kept.clear()
        found["alone"] = score(images[:1])
        tokens = kept[0][0]
        encoder = load(str(checkpoint), dtype="bfloat16")
        encoded = encoder.encode(encoder.preprocess(images[:1])).tokens.rows.clone()
        away = (encoded.float() - tokens.float()).norm() / tokens.float().norm()
        found["deviation of tokens"] = float(away)
        calibrate_with("auto")
        found["own features"] = score([tokens])
        found["features"] = score([encoded])
    own, calibration.calibrate = calibration.calibrate, shift
    calibrate_with("auto")
    found["moved"] = score(*pictures)
    calibration.calibrate = own
    return found


if __name__ == "__main__":
    engines(Path(sys.argv[1]))
