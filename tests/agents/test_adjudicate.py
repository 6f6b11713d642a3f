"""What decides between edits that meet in one place, with a scorer whose numbers are known."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from imc_agents.agents.adjudicate import adjudicate
from imc_agents.agents.context import AgentContext
from imc_agents.agents.findings import Proposal, Ruling
from imc_agents.config.load import resolve
from imc_agents.models.protocol import Score, TokenScore
from imc_agents.prompts import load_prompt
from imc_agents.text.edits import Edit
from imc_agents.text.lexicon import Lexicon
from imc_agents.trace.events import Event

TEXT = "Is there a very large rnass here?"
MASS = Edit(22, 27, "mass", "ocr", "ocr")


class Scripted:
    """An agent context whose model gives every word two nats, and a misread one thirty more."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.config = resolve("thorough").config
        self.prompts = {name: load_prompt(name) for name in ("adjudicate", "likelihood", "offtopic")}
        self.lexicon = lexicon
        self.judged: list[str] = []

    def role_of(self, kind: str) -> tuple[str, Any]:
        return "adjudicate", self.config.roles["adjudicate"]

    def emit(self, event: Event) -> None:
        pass

    async def score(
        self, agent: str, round_: int, texts: Sequence[str], *, context: str | None = None
    ) -> list[Score]:
        self.judged += [text for text in texts if text.endswith("Answer: yes")]
        nats = [-2.0 * len(text.split()) - 30 * text.count("rnass") for text in texts]
        return [Score((TokenScore(0, len(text), n),)) for text, n in zip(texts, nats, strict=True)]


def rule(context: Scripted, *edits: Edit) -> Ruling:
    proposals = [Proposal(edit.role, 1, (edit,)) for edit in edits]
    return asyncio.run(adjudicate(cast(AgentContext, context), TEXT, 1, proposals, noisy=True))


def test_the_judge_of_meaning_reads_the_whole_wording(lexicon: Lexicon) -> None:
    context = Scripted(lexicon)
    rule(context, MASS, Edit(11, 27, "tiny rnass", "typo", "grammar"))
    (judged,) = context.judged
    assert "Is there a very large mass here?" in judged
    assert TEXT in judged


def test_a_deletion_is_not_chosen_for_making_the_text_shorter(lexicon: Lexicon) -> None:
    ruling = rule(Scripted(lexicon), MASS, Edit(11, 27, "", "typo", "grammar"))
    assert "" not in [edit.after for edit in ruling.accepted]
