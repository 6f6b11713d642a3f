"""Banks on a real encoder and real scans: noise is recognised, features are mended, doubt changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imc_agents.errors import ConfigError, DataError, UsageError
from imc_agents.noise.image import apply_image_noise
from imc_agents.noise.registry import get_noise
from imc_agents.vision.bank import Bank, check_encoder, load_bank, save_bank, without
from imc_agents.vision.build import Sample, build_bank, encodings
from imc_agents.vision.calibration import calibrate, correct, perceive
from imc_agents.vision.encoders.mllm import load
from imc_agents.vision.encoders.protocol import PATCHES, Encoded, Encoder, Packed
from imc_agents.vision.operators import operators
from tests.vision.tinymed import arrays, needs_tinymed, samples, scans, vision_checkpoint

pytestmark = needs_tinymed

NOISES = tuple(get_noise(name, "image") for name in ("gaussian", "motion", "pixelate"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load(str(vision_checkpoint(tmp_path_factory.mktemp("tinymed") / "tinymed")), dtype="float32")


@pytest.fixture(scope="module")
def bank(encoder: Encoder) -> Bank:
    return build_bank(encoder, samples(scans(held_out=False)[:100]), NOISES)


@pytest.fixture(scope="module")
def unseen() -> list[Any]:
    return arrays(scans(held_out=True)[:40])


def encode(encoder: Encoder, images: list[Any], noise: str | None = None, severity: int = 5) -> Encoded:
    made = [
        image if noise is None else apply_image_noise(image, noise, severity, seed=7, sample_id=str(i))
        for i, image in enumerate(images)
    ]
    return encoder.encode(encoder.preprocess([Image.fromarray(image) for image in made]), (PATCHES,))


@pytest.mark.parametrize("noise", [spec.name for spec in NOISES])
def test_the_noise_of_unseen_images_is_recognised(
    encoder: Encoder, bank: Bank, unseen: list[Any], noise: str
) -> None:
    findings = perceive(bank, encode(encoder, unseen, noise))
    named = [finding for finding in findings if finding.noise == noise]
    assert len(named) >= 0.85 * len(unseen)
    assert sum(abs(finding.severity - 5) <= 1 for finding in named) >= 0.7 * len(named)
    for finding in findings:
        assert sum(finding.probabilities.values()) == pytest.approx(1)


def test_clean_images_stay_as_they_are_bit_for_bit(encoder: Encoder, bank: Bank, unseen: list[Any]) -> None:
    encoded = encode(encoder, unseen)
    done = calibrate(bank, encoded)
    clean = [i for i, item in enumerate(done.treatments) if item.finding.noise == "clean"]
    assert len(clean) >= 0.9 * len(unseen)
    before, after = encoded.tokens.split(), done.tokens.split()
    assert all(torch.equal(before[i], after[i]) for i in clean)
    assert {done.treatments[i].operator for i in clean} == {"identity"}


@pytest.mark.parametrize("operator", ["auto", *operators()])
def test_features_come_closer_to_clean_ones(
    encoder: Encoder, bank: Bank, unseen: list[Any], operator: str
) -> None:
    clean = encode(encoder, unseen).tokens.rows
    for noise in ("gaussian", "motion"):
        encoded = encode(encoder, unseen, noise)
        done = calibrate(bank, encoded, operator=operator)
        before = float((encoded.tokens.rows - clean).square().mean())
        after = float((done.tokens.rows - clean).square().mean())
        # What noise adds lies on no few axes here, so projecting may do next to nothing.
        assert after < (1.001 if operator == "project" else 0.999) * before
        if operator in ("auto", "ridge", "context"):
            assert after < 0.9 * before


def test_identity_changes_nothing_and_strength_scales(
    encoder: Encoder, bank: Bank, unseen: list[Any]
) -> None:
    encoded = encode(encoder, unseen[:6], "gaussian")
    assert torch.equal(calibrate(bank, encoded, operator="identity").tokens.rows, encoded.tokens.rows)
    half, whole = (calibrate(bank, encoded, strength=s).tokens.rows - encoded.tokens.rows for s in (0.5, 1.0))
    assert torch.allclose(2 * half, whole, atol=1e-4)
    assert float(whole.abs().max()) > 0


def test_an_image_does_not_depend_on_its_batch(encoder: Encoder, bank: Bank, unseen: list[Any]) -> None:
    encoded = [encode(encoder, unseen[:4], noise) for noise in (None, "gaussian", "motion")]
    tokens = Packed(
        torch.cat([item.tokens.rows for item in encoded]), sum((item.tokens.counts for item in encoded), ())
    )
    patches = Packed(
        torch.cat([item.layers[PATCHES].rows for item in encoded]),
        sum((item.layers[PATCHES].counts for item in encoded), ()),
    )
    grids = sum((item.grids for item in encoded), ())
    together = calibrate(bank, Encoded(tokens, {PATCHES: patches}, grids)).tokens.rows
    alone = torch.cat([calibrate(bank, item).tokens.rows for item in encoded])
    assert torch.allclose(together, alone, atol=1e-4)


def test_what_is_far_from_every_prototype_is_unknown_and_left_alone(
    encoder: Encoder, bank: Bank, unseen: list[Any]
) -> None:
    rows = [image.copy() for image in unseen[:6]]
    for image in rows:
        image[::8] = 255
    colours = [np.stack([image[..., 0], image[..., 0] // 3, 255 - image[..., 0]], 2) for image in unseen[:6]]
    blank = [np.full((128, 128, 3), level, np.uint8) for level in (0, 255)]
    encoded = encode(encoder, [*rows, *colours, *blank])
    done = calibrate(bank, encoded)
    unknown = [item.finding.noise == "unknown" for item in done.treatments]
    assert sum(unknown) >= 12
    assert all(unknown[-2:])
    left = [i for i, item in enumerate(done.treatments) if item.finding.noise == "unknown"]
    assert {done.treatments[i].operator for i in left} == {"identity"}
    assert all(torch.equal(encoded.tokens.split()[i], done.tokens.split()[i]) for i in left)


def test_what_is_not_like_others_with_its_noise_is_named_and_left_alone(
    encoder: Encoder, bank: Bank, unseen: list[Any]
) -> None:
    encoded = encode(encoder, unseen[:8], "motion")
    known = perceive(bank, encoded)
    treated = [item.operator != "identity" for item in correct(bank, encoded.tokens, known).treatments]
    assert sum(treated) >= 6
    strict = replace(bank.perception, doubtful=torch.zeros_like(bank.perception.doubtful))
    done = calibrate(replace(bank, perception=strict), encoded)
    assert torch.equal(done.tokens.rows, encoded.tokens.rows)
    assert [item.finding.noise for item in done.treatments] == [finding.noise for finding in known]


def test_a_finding_without_a_noisy_prototype_corrects_nothing(
    encoder: Encoder, bank: Bank, unseen: list[Any]
) -> None:
    encoded = encode(encoder, unseen[:4], "motion")
    clean = next(i for i, item in enumerate(bank.prototypes) if not item.severity)
    findings = [replace(finding, prototypes=((clean, 1.0),)) for finding in perceive(bank, encoded)]
    assert torch.equal(correct(bank, encoded.tokens, findings).tokens.rows, encoded.tokens.rows)


def test_a_bank_without_a_noise_never_names_it(encoder: Encoder, bank: Bank, unseen: list[Any]) -> None:
    findings = perceive(without(bank, ["gaussian"]), encode(encoder, unseen, "gaussian"))
    assert "gaussian" not in {finding.noise for finding in findings}
    assert all(finding.probabilities["gaussian"] == 0 for finding in findings)


def test_a_stored_bank_does_the_same(encoder: Encoder, bank: Bank, unseen: list[Any], tmp_path: Path) -> None:
    save_bank(bank, tmp_path / "bank")
    again = load_bank(tmp_path / "bank")
    assert sorted(path.name for path in (tmp_path / "bank").iterdir()) == ["bank.json", "bank.safetensors"]
    assert (again.facts, again.patches.choices, again.encoder) == (
        bank.facts,
        bank.patches.choices,
        bank.encoder,
    )
    for noise in (None, "gaussian", "motion"):
        encoded = encode(encoder, unseen[:8], noise)
        was, now = calibrate(bank, encoded), calibrate(again, encoded)
        assert [item.finding.noise for item in now.treatments] == [
            item.finding.noise for item in was.treatments
        ]
        assert torch.allclose(now.tokens.rows, was.tokens.rows, atol=1e-3)


def test_the_same_images_and_seed_give_the_same_bank(encoder: Encoder, tmp_path: Path) -> None:
    few = samples(scans(held_out=False)[:12])
    told: list[int] = []
    for name in ("a", "b"):
        save_bank(build_bank(encoder, few, NOISES[:1], seed=3, advance=told.append), tmp_path / name)
    assert sum(told) == 2 * encodings(len(few), NOISES[:1])
    assert (tmp_path / "a" / "bank.json").read_bytes() == (tmp_path / "b" / "bank.json").read_bytes()
    other = build_bank(encoder, few, NOISES[:1], seed=4)
    assert not torch.equal(other.patches.moments[1].f, load_bank(tmp_path / "a").patches.moments[1].f)


def test_features_that_are_not_finite_are_refused(encoder: Encoder, bank: Bank, unseen: list[Any]) -> None:
    encoded = encode(encoder, unseen[:2])
    rows = encoded.tokens.rows.clone()
    rows[3, 5] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        calibrate(bank, replace(encoded, tokens=Packed(rows, encoded.tokens.counts)))


def test_an_unknown_operator_is_named(encoder: Encoder, bank: Bank, unseen: list[Any]) -> None:
    with pytest.raises(UsageError, match="did you mean 'ridge'"):
        calibrate(bank, encode(encoder, unseen[:1], "gaussian"), operator="rigde")


def test_a_bank_of_another_encoder_is_refused(bank: Bank) -> None:
    other = replace(bank.encoder, spec="mllm:/models/other", revision="0000")
    with pytest.raises(ConfigError, match=r"revision is .*, not 0000; build one with `imc prototypes build"):
        check_encoder(bank, other, "bank/")
    with pytest.raises(ConfigError, match="dtype is float32, not bfloat16"):
        check_encoder(bank, replace(bank.encoder, dtype="bfloat16"), "bank/")
    check_encoder(bank, replace(bank.encoder, spec="mllm:/moved"), "bank/")


def test_too_few_images_make_no_bank(encoder: Encoder) -> None:
    with pytest.raises(DataError, match="9 images are too few"):
        build_bank(encoder, samples(scans(held_out=False)[:9]), NOISES[:1])


def test_an_image_that_vanishes_ends_the_build_with_its_error(encoder: Encoder) -> None:
    def gone() -> Any:
        raise DataError("x.png: the image cannot be read")

    with pytest.raises(DataError, match=r"x\.png"):
        build_bank(encoder, [*samples(scans(held_out=False)[:11]), Sample("x.png", gone)], NOISES[:1])


@pytest.fixture
def stored(bank: Bank, tmp_path: Path) -> Path:
    save_bank(bank, tmp_path / "bank")
    return tmp_path / "bank"


def test_a_damaged_bank_is_named(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no bank \(bank.json is missing\)"):
        load_bank(tmp_path)
    facts = json.loads((stored / "bank.json").read_text())
    (stored / "bank.json").write_text(json.dumps(facts | {"version": 99}))
    with pytest.raises(ConfigError, match="version 99"):
        load_bank(stored)
    (stored / "bank.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "prototypes"}))
    with pytest.raises(ConfigError, match="damaged"):
        load_bank(stored)
    (stored / "bank.json").write_text(json.dumps(facts))
    content = (stored / "bank.safetensors").read_bytes()
    (stored / "bank.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="damaged"):
        load_bank(stored)
