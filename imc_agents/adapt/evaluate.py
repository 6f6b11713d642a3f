"""Zero-shot classification under every noise and severity: the encoder as it is, adapted, calibrated, and both."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that torch ships are partial)

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imc_agents.adapt.class_prompts import load_class_prompts
from imc_agents.adapt.classifier import Head, make_head
from imc_agents.adapt.evaluation import CLEAN, Condition, Evaluation, read_logits, write_logits, write_plan
from imc_agents.adapt.files import held
from imc_agents.adapt.fit import create_encoder
from imc_agents.adapt.labelled import LabelledImages, digest_of, open_labelled
from imc_agents.adapt.lora import ADAPTER_WEIGHTS
from imc_agents.adapt.merge import check_encoder, fold
from imc_agents.adapt.pixels import Pixels
from imc_agents.adapt.shots import at_most
from imc_agents.errors import ConfigError, DataError, UsageError, nearest
from imc_agents.noise.registry import SEVERITIES, NoiseSpec, noises
from imc_agents.vision.bank import Bank, load_bank
from imc_agents.vision.calibration import calibrate
from imc_agents.vision.encoders.open_clip import OpenClipEncoder, has_patch_tokens, wrap
from imc_agents.vision.encoders.open_clip_models import Created
from imc_agents.vision.encoders.protocol import PATCHES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["SUITES", "EvalPlan", "EvalRequest", "evaluate", "plan_eval"]

SUITES = ("medmnist-c", "medimeta-c", "imc-11")
"""Suites of image noises that an encoder can be judged under."""


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """What is to be evaluated.

    Attributes:
        encoder: ``open_clip:...``.
        data: Source of labelled images.
        split: Which of its splits.
        adapter: Folder of an adapter of the encoder, or None.
        banks: Folders of banks of the encoder, and of the encoder with the adapter folded in.
        suite: One of ``SUITES``.
        table: The MedMNIST set whose strengths ``medmnist-c`` takes; None is that of the data.
        noises: Some of the suite by name; None is all.
        severities: Some of 1 to 5.
        prompts: File of class prompts; None takes those that are built in.
        limit: Images at most, drawn by a digest of their ids; None is all.
        seed: Of the noise.
    """

    encoder: str
    data: Path
    split: str = "test"
    adapter: Path | None = None
    banks: tuple[Path, ...] = ()
    suite: str = "medmnist-c"
    table: str | None = None
    noises: tuple[str, ...] | None = None
    severities: tuple[int, ...] = SEVERITIES
    prompts: Path | None = None
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """An encoder, and the names of the methods that use it as it is and calibrated."""

    created: Created
    plain: str
    calibrated: str
    encoder: OpenClipEncoder | None
    bank: Bank | None


@dataclass(frozen=True, slots=True, eq=False)
class EvalPlan:
    """Everything that an evaluation needs; made by ``plan_eval``."""

    evaluation: Evaluation
    images: LabelledImages
    head: Head
    ways: tuple[_Way, ...]
    specs: dict[str, NoiseSpec]
    table: str
    seed: int


def plan_eval(request: EvalRequest, *, device: str = "cpu") -> EvalPlan:
    """Open everything and check that it belongs together; nothing is written yet.

    The methods are ``none``, with an adapter ``adapt``, with a bank of the encoder ``calibrate``, and with a bank of
    the adapted encoder ``both``.

    Raises:
        UsageError, ConfigError, DataError: something cannot be used, or a bank fits neither encoder.
    """
    images = open_labelled(request.data, request.split)
    if request.limit is not None:
        images = at_most(images, request.limit)
    table = _table(request, images)
    specs = _noises(request, table)
    texts = load_class_prompts(images.name, images.classes, request.prompts)
    base = create_encoder(request.encoder)
    revision = base.revision
    head = make_head(base, texts.texts)
    banks = [(folder, load_bank(folder)) for folder in request.banks]
    ways = [_way(base, "none", "calibrate", banks, device)]
    if request.adapter is not None:
        check_encoder(request.adapter, request.encoder, base)
        adapted = fold(create_encoder(request.encoder), request.adapter).created
        ways.append(_way(adapted, "adapt", "both", banks, device))
    _check_banks(banks, ways, request)
    known = {way.calibrated for way in ways if way.bank} | {way.plain for way in ways}
    evaluation = Evaluation(
        made_with={
            "encoder": request.encoder,
            "revision": revision,
            "data": images.name,
            "split": images.split,
            "prompts": texts.digest,
            "images": digest_of(images),
            "adapter": "" if request.adapter is None else _digest(request.adapter / ADAPTER_WEIGHTS),
            "banks": sorted(_digest(*sorted(folder.glob("bank.*"))) for folder in request.banks),
            "suite": request.suite,
            "table": table,
            "seed": request.seed,
        },
        methods=tuple(name for name in ("none", "adapt", "calibrate", "both") if name in known),
        classes=images.classes,
        ids=images.ids,
        labels=tuple(images.labels.tolist()),
        conditions=(
            Condition(CLEAN, 0),
            *(Condition(name, severity) for name in specs for severity in request.severities),
        ),
    )
    return EvalPlan(evaluation, images, head.to(device), tuple(ways), specs, table, request.seed)


def evaluate(
    plan: EvalPlan, folder: Path, *, batch: int = 64, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Evaluate, or go on with it; the folder holds the logits of each condition.

    Args:
        plan: From ``plan_eval``.
        folder: Created where it is not there.
        batch: Images encoded at once.
        advance: Told how many images more are done, over all conditions.

    Raises:
        UsageError: the folder holds something else or cannot be written.
        DataError: an image cannot be read, or features are not finite.
    """
    write_plan(folder, plan.evaluation)
    pixels = Pixels(plan.images, plan.ways[0].created)
    with held(folder):
        for condition in plan.evaluation.conditions:
            if read_logits(folder, condition) is not None:
                advance(len(plan.images))
                continue
            write_logits(folder, condition, _logits(plan, condition, pixels, batch, advance))


def _logits(
    plan: EvalPlan, condition: Condition, pixels: Pixels, batch: int, advance: Callable[[int], None]
) -> dict[str, Tensor]:
    """Logits by method, (images, classes) float32."""
    import torch

    spec = plan.specs.get(condition.noise)
    options = {"table": plan.table} if spec is not None and spec.tables else {}

    def noisy(array: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        assert spec is not None  # clean images are not altered
        return spec.apply(
            array,
            condition.severity,
            seed=plan.seed,
            sample_id=plan.images.ids[index],
            dataset=plan.images.name,
            **options,
        )

    count = len(plan.images)
    rows = [list(range(first, min(first + batch, count))) for first in range(0, count, batch)]
    parts: dict[str, list[Tensor]] = {name: [] for name in plan.evaluation.methods}
    for indices, inputs in pixels.batches(rows, None if spec is None else noisy):
        for way in plan.ways:
            for name, embeddings in _embeddings(way, inputs):
                parts[name].append(plan.head.logits(embeddings.to(plan.head.classes.device)).cpu())
        advance(len(indices))
    logits = {name: torch.cat(found) for name, found in parts.items()}
    for name, found in logits.items():
        if not bool(found.isfinite().all()):
            raise DataError(f"{name}, {condition.noise}: the encoder gave features that are not finite")
    return logits


def _embeddings(way: _Way, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Embeddings by method; one forward pass serves both."""
    import torch

    if way.encoder is None or way.bank is None:
        device = next(way.created.model.parameters()).device
        with torch.inference_mode():
            yield way.plain, way.created.model.encode_image(inputs.to(device)).float()
        return
    encoded = way.encoder.encode(inputs, (PATCHES,))
    yield way.plain, way.encoder.pool(encoded.tokens)
    yield way.calibrated, way.encoder.pool(calibrate(way.bank, encoded).tokens)


def _way(
    created: Created, plain: str, calibrated: str, banks: Sequence[tuple[Path, Bank]], device: str
) -> _Way:
    encoder = wrap(created, device=device) if has_patch_tokens(created.model.visual) else None
    if encoder is None:
        created.model.to(device)
        return _Way(created, plain, calibrated, None, None)
    fitting = [bank for _, bank in banks if bank.encoder.identity == encoder.info.identity]
    return _Way(created, plain, calibrated, encoder, fitting[0] if fitting else None)


def _check_banks(banks: Sequence[tuple[Path, Bank]], ways: Sequence[_Way], request: EvalRequest) -> None:
    used = [way.bank for way in ways]
    for folder, bank in banks:
        same = [str(other) for other, found in banks if found.encoder.identity == bank.encoder.identity]
        if len(same) > 1:
            raise UsageError(f"--calibrate: {' and '.join(same)} are of the same encoder; give one of them")
        if not any(bank is other for other in used):
            adapted = (
                ", nor with the adapter folded in (`imc adapt merge`, then `imc prototypes build`)"
                if request.adapter is not None
                else ""
            )
            raise ConfigError(
                f"{folder}: the bank was made with {bank.encoder.spec} ({bank.encoder.identity}), not with"
                f" {request.encoder}{adapted}; build one with `imc prototypes build`"
            )


def _table(request: EvalRequest, images: LabelledImages) -> str:
    """The MedMNIST set whose strengths are taken; empty for the suites that have the same for all."""
    if request.suite not in SUITES:
        hint = nearest(request.suite, SUITES)
        raise UsageError(f"--suite: unknown {request.suite!r}{hint}; known: {', '.join(SUITES)}")
    if request.suite != "medmnist-c":
        if request.table is not None:
            raise UsageError(f"--table: {request.suite} has the same strengths for all data; leave it out")
        return ""
    table = request.table or images.table
    known = sorted({name for spec in noises("image", request.suite) for name in spec.tables})
    if not table:
        raise UsageError(
            f"--table: strengths of medmnist-c depend on the data set, and {images.name} is none of them; name one that"
            f" is alike: {', '.join(known)}"
        )
    if table not in known:
        raise UsageError(f"--table: unknown {table!r}{nearest(table, known)}; known: {', '.join(known)}")
    return table


def _noises(request: EvalRequest, table: str) -> dict[str, NoiseSpec]:
    """The noises by full name."""
    suite = noises("image", request.suite)
    specs = {spec.full_name: spec for spec in suite if not table or table in spec.tables}
    if request.noises is None:
        return specs
    known = {spec.name: name for name, spec in specs.items()} | {name: name for name in specs}
    for name in request.noises:
        if name not in known:
            raise UsageError(
                f"--noises: {request.suite}{f' of {table}' if table else ''} has no"
                f" {name!r}{nearest(name, list(known))}; it has {', '.join(spec.name for spec in specs.values())}"
            )
    return {known[name]: specs[known[name]] for name in dict.fromkeys(request.noises)}


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
