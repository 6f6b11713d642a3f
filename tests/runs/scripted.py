"""The ``imc`` command with a scripted refiner in the place of the agents: python -m tests.runs.scripted refine ...

The refiner needs no model, is deterministic, and takes a pseudo-random time that the id determines. What a question
says decides how it fares: "fail:infra2" fails twice before it works, and so on. Variables of the environment:

SCRIPTED_SECONDS  longest time of one question
SCRIPTED_FLUSH    seconds between flushes of the store
SCRIPTED_PROMPTS  digest of the prompts
SCRIPTED_REPAIRED failure that does not happen any more, e.g. unreachable; 1 for all
SCRIPTED_LOG      file that gets the id of each refined question
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

from imc_agents.errors import BackendUnreachableError, DataError, InfraError, ModelOutputError
from imc_agents.models.protocol import Capabilities
from imc_agents.refinement import Refinement
from imc_agents.trace.events import (
    Answered,
    Assessed,
    Calibrated,
    Called,
    EditRecord,
    Instantiated,
    Merged,
    Perceived,
    Proposed,
    Recorder,
)

FAILURES = {
    "fail:model": ModelOutputError("the reply is not JSON: 'Sure!'"),
    "fail:data": DataError("the question does not fit the model's context of 2048 tokens"),
    "fail:unreachable": BackendUnreachableError(
        "http://127.0.0.1:9/v1: connection refused; start the server"
    ),
    "fail:defect": KeyError("boom"),
}


class Refiner:
    """Turns "teh" into "the"; see ``imc_agents.agents.refiner.Refiner`` for the interface."""

    def __init__(self, config: object, *, dry_run: Callable[[str], None] | None = None) -> None:
        self.dry_run = dry_run
        self.answers = bool(getattr(getattr(config, "run", None), "answer", False))
        self.longest = float(os.environ.get("SCRIPTED_SECONDS", "0.004"))
        self.prompts = os.environ.get("SCRIPTED_PROMPTS", "abc")
        self.attempts: dict[str, int] = {}
        self.asked: list[str] = []

    async def open(self) -> dict[str, Capabilities]:
        return {"default": Capabilities("scripted", "r1", scores=True, max_tokens=2048)}

    async def engine_work(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def prompt_hashes(self) -> dict[str, str]:
        return {"likelihood": self.prompts}

    async def refine(
        self, sample_id: str, question: str, record: Recorder, *, image: str | None = None
    ) -> Refinement:
        refinement = await self._refine(sample_id, question, record)
        if image is not None:
            if image == "gone.png":
                raise DataError("gone.png: the image cannot be read")
            seen = {"noise": "motion", "severity": 3, "probabilities": {"clean": 0.25, "motion": 0.75}}
            done = {"operator": "ridge", "gate": 0.75, "change": 0.5}
            record(Calibrated(agent="pdc", round=1, image=image, **seen, **done))
        if self.answers:
            record(Answered(agent="answer", round=1, way="full", question=question, answer=f"saw {image}"))
        if log := os.environ.get("SCRIPTED_LOG"):
            with Path(log).open("a") as stream:
                stream.write(f"{sample_id}\n")
        return refinement

    async def _refine(self, sample_id: str, question: str, record: Recorder) -> Refinement:
        if self.dry_run is not None:
            self.dry_run(f"score: {question}")
            return Refinement(question, question, "unchanged")
        self.asked.append(sample_id)
        share = int(hashlib.sha256(sample_id.encode()).hexdigest()[:8], 16) / 2**32
        record(Perceived(agent="perceive", round=1, text=question, clean="teh" not in question))
        call = {"agent": "perceive", "round": 1, "operation": "score", "backend": "default", "reply": "-3.2"}
        record(
            Called(**call, prompt=question, prompt_tokens=len(question), completion_tokens=0, milliseconds=1)
        )
        await asyncio.sleep(share * self.longest)
        if question == "fail:stubborn":
            await _ignore_cancellation()
        repaired = os.environ.get("SCRIPTED_REPAIRED")
        if question in FAILURES and repaired not in ("1", question.removeprefix("fail:")):
            raise FAILURES[question]
        if question.startswith("fail:infra"):
            self.attempts[sample_id] = self.attempts.get(sample_id, 0) + 1
            if self.attempts[sample_id] <= int(question.removeprefix("fail:infra")):
                raise InfraError("503 from the server")
        if question == "fail:slow" and repaired != "1":
            await asyncio.sleep(60)
        if "teh" not in question:
            return Refinement(question, question, "unchanged", confidence=0.9 + share / 10, calls=1)
        refined = question.replace("teh", "the")
        start = question.index("teh")
        edit = EditRecord(start=start, end=start + 3, before="teh", after="the", kind="typo")
        record(Instantiated(agent="supervisor", round=1, role="spelling", source="catalogue", reason="typo"))
        record(Proposed(agent="spelling", round=1, text=question, edits=(edit,)))
        scores = {"gain": 9.0, "slip_cost": 5.0, "margin": 4.0, "verdict": "accepted"}
        record(Assessed(agent="adjudicate", round=1, role="spelling", edit=edit, **scores))
        record(Merged(agent="adjudicate", round=1, before=question, after=refined, accepted=1))
        return Refinement(
            question,
            refined,
            "ok",
            flags=("low_confidence",) if share < 0.3 else (),
            confidence=share,
            rounds=1,
            calls=1,
            prompt_tokens=len(question),
            milliseconds=share * 7,
        )


async def _ignore_cancellation() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


def refiner_module() -> types.ModuleType:
    """What stands in for ``imc_agents.agents.refiner``."""
    module = types.ModuleType("imc_agents.agents.refiner")
    module.Refiner = Refiner  # type: ignore[attr-defined]
    return module


def main() -> None:
    sys.modules["imc_agents.agents.refiner"] = refiner_module()
    if flush := os.environ.get("SCRIPTED_FLUSH"):
        from imc_agents.runs import batch, writer

        batch.FLUSH_SECONDS = writer.FLUSH_SECONDS = float(flush)
    from cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
