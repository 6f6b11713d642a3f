"""The embedded backend on the real model: packing, batching, generation in groups, cancellation, checkpoints."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imc_agents.errors import BackendUnreachableError, DataError, InfraError
from imc_agents.models.embedded import create
from imc_agents.models.protocol import Generation, Message, Sampling, Score
from imc_agents.models.weights import DEFAULT_MODEL, locate, prepare_default
from tests.conftest import Model

CONTEXT = "Radiology question:"
VERSIONS = [
    f" Is there any evidence of a {word} in the left lower lobe of the lung?"
    for word in ("mass", "massive", "mast", "pneumothorax", "pnemothorax", "moss", "")
]
STORIES = [
    "Name three bones of the hand.",
    "What does an MRI show? Answer in one sentence, and mention water and fat, and say which of the two is bright.",
    "Say hello.",
    "Count from one to twenty in words.",
]


def test_packed_scores_are_those_of_each_text_alone_up_to_rounding(model: Model) -> None:
    """To the last digits in float32, see the tiny checkpoint below; here within bfloat16's rounding."""
    packed, _ = model.score(VERSIONS, CONTEXT)
    for version, score in zip(VERSIONS, packed, strict=True):
        (alone,), _ = model.score([version], CONTEXT)
        assert [(t.start, t.end) for t in score.tokens] == [(t.start, t.end) for t in alone.tokens]
        assert score.total == pytest.approx(alone.total, abs=0.3)


def test_a_shared_beginning_is_read_once(model: Model) -> None:
    scores, usage = model.score(VERSIONS, CONTEXT)
    tokens = [
        [version[t.start : t.end] for t in s.tokens] for version, s in zip(VERSIONS, scores, strict=True)
    ]
    beginning = (" Is", " there", " any", " evidence", " of", " a")
    shared = len(beginning)
    assert {tuple(ids[:shared]) for ids in tokens} == {beginning}
    assert usage.prompt_tokens == shared + sum(len(ids) - shared for ids in tokens)


def test_a_crowd_of_scores_and_replies_changes_no_bit(model: Model) -> None:
    async def crowd() -> list[Any]:
        calls = [
            model.backend.score(CONTEXT, [f" Is there a {'very ' * (i % 9)}large lesion?"] * (1 + i % 3))
            for i in range(30)
        ]
        asks = [
            model.backend.generate([Message("user", story)], sampling=drawn(i), schema=SHORT)
            for i, story in enumerate(STORIES)
        ]
        return await asyncio.gather(*calls, model.backend.score(CONTEXT, VERSIONS), *asks)

    alone_scores, _ = model.score(VERSIONS, CONTEXT)
    alone = [reply(model, story, drawn(i)).text for i, story in enumerate(STORIES)]
    found = model.run(crowd())
    scores: list[Score] = found[30][0]
    assert scores == alone_scores
    replies: list[Generation] = found[31:]
    assert [answer.text for answer in replies] == alone
    assert len(set(alone)) == len(alone)


CROWD = [
    (
        f"{opening} question{':' * (i % 3)}",
        [f" Is there a {'very ' * (i % 23)}{word} lesion?" for word in words],
    )
    for i, (opening, words) in enumerate(
        (opening, words)
        for opening in ("Radiology", "A long and rambling clinical", "MRI")
        for words in (["large"], ["larg", "large", "lung"], ["small", "smell"], ["", "left", "right"])
        for _ in range(4)
    )
]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_contexts_and_lengths_that_share_a_batch_change_no_bit_of_each_other(
    model: Model, dtype: str
) -> None:
    backend = create(DEFAULT_MODEL, {"dtype": dtype})

    async def score(context: str, texts: list[str]) -> list[Score]:
        return (await backend.score(context, texts))[0]

    async def answer(story: str) -> str:
        messages = [Message("user", story)]
        return (await backend.generate(messages, sampling=drawn(0), schema=SHORT)).text

    async def scenario() -> None:
        await backend.open()
        alone = [await score(*asked) for asked in CROWD], [await answer(story) for story in STORIES[:3]]
        together = await asyncio.gather(
            asyncio.gather(*(score(*asked) for asked in CROWD)),
            asyncio.gather(*(answer(story) for story in STORIES[:3])),
        )
        await backend.close()
        assert tuple(together) == alone

    model.run(scenario())


def test_an_empty_text_beside_one_that_fills_a_batch_costs_nothing(model: Model) -> None:
    long = " very" * 600
    (scores, usage) = model.score(["", long, ""])
    assert [len(score.tokens) for score in scores] == [0, 600, 0]
    assert usage.prompt_tokens == 600


def test_the_seed_decides_a_drawn_reply(model: Model) -> None:
    texts = [reply(model, STORIES[0], drawn(seed)).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_cancelled_calls_leave_the_rest_of_their_group_alone(model: Model) -> None:
    async def scenario() -> tuple[str, list[Score]]:
        doomed = [
            asyncio.ensure_future(
                model.backend.generate([Message("user", story)], sampling=Sampling(max_tokens=1500))
            )
            for story in STORIES
        ]
        kept = asyncio.ensure_future(
            model.backend.generate([Message("user", STORIES[0])], sampling=drawn(0), schema=SHORT)
        )
        queued = [asyncio.ensure_future(model.backend.score(CONTEXT, VERSIONS)) for _ in range(40)]
        await asyncio.sleep(0.1)
        for call in doomed + queued:
            call.cancel()
        answer = await kept
        scores, _ = await asyncio.wait_for(model.backend.score(CONTEXT, VERSIONS), 5)
        return answer.text, scores

    text, scores = model.run(scenario())
    assert text == reply(model, STORIES[0], drawn(0)).text
    assert scores == model.score(VERSIONS, CONTEXT)[0]


# Bounds a reply, so that it ends before max_tokens.
SHORT = {"type": "string", "minLength": 8, "maxLength": 32}


def drawn(seed: int) -> Sampling:
    return Sampling(temperature=0.9, top_p=0.95, max_tokens=64, seed=seed)


def reply(model: Model, story: str, sampling: Sampling) -> Generation:
    return model.run(model.backend.generate([Message("user", story)], sampling=sampling, schema=SHORT))


OPEN_HUB_MODEL = """
import asyncio
from imc_agents.models.embedded import create

async def main():
    backend = create("clinic/tiny", {"dtype": "float32"})
    found = await backend.open()
    print(found.model, found.revision)
    await backend.close()

asyncio.run(main())
"""


def tiny_checkpoint(folder: Path, seed: int, family: str = "llama", **options: Any) -> Path:
    """A random model of a few thousand weights with the real tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config: Any = AutoConfig.for_model(
        family,
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=2,
        **options,
    )
    made: Any = AutoModelForCausalLM.from_config(config)
    made.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(prepare_default() / name, folder / name)
    return folder


def test_a_checkpoint_folder_is_loaded_and_scores_as_transformers_does(tmp_path: Path, model: Model) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_checkpoint(tmp_path, 1)
    backend = create(str(folder), {"dtype": "float32"})
    capabilities = model.run(backend.open())
    assert (capabilities.model, capabilities.max_tokens) == (str(folder), 256)
    packed, usage = model.run(backend.score(CONTEXT, VERSIONS))
    alone = [model.run(backend.score(CONTEXT, [version]))[0][0] for version in VERSIONS]
    answer = model.run(
        backend.generate([Message("user", "Hi")], sampling=Sampling(max_tokens=48), schema={"enum": [7]})
    )
    model.run(backend.close())
    assert answer.parsed == 7
    assert usage.prompt_tokens < sum(len(score.tokens) for score in packed)
    for together, single in zip(packed, alone, strict=True):
        assert [t.logprob for t in together.tokens] == pytest.approx(
            [t.logprob for t in single.tokens], abs=1e-4
        )

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    head = [*tokenizer("").input_ids, *tokenizer(CONTEXT).input_ids]
    ids = [*head, *tokenizer(VERSIONS[3]).input_ids]
    bare: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logprobs = bare(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(logprobs[at - 1, ids[at]]) for at in range(len(head), len(ids))]
    assert [token.logprob for token in packed[3].tokens] == pytest.approx(expected, abs=1e-4)


def test_the_revision_tells_checkpoints_apart(tmp_path: Path) -> None:
    folders = [tiny_checkpoint(tmp_path / str(seed), seed) for seed in (1, 2)]
    revisions = [locate(str(folder)).revision for folder in folders]
    assert revisions[0] != revisions[1]
    assert locate(str(tiny_checkpoint(tmp_path / "again", 1))).revision == revisions[0]


def test_the_revision_sees_weights_that_changed_deep_inside_a_shard(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, 1)
    before = locate(str(folder)).revision
    shard = folder / "model.safetensors"
    content = shard.read_bytes()
    deep = 3 * 2**20
    shard.write_bytes(content[:deep] + bytes(value ^ 1 for value in content[deep:]))
    assert locate(str(folder)).revision != before


def test_a_hub_model_is_loaded_from_the_hub_cache_and_named_by_its_commit(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--clinic--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    tiny_checkpoint(repository / "snapshots" / commit, 1)
    found = subprocess.run(
        [sys.executable, "-c", OPEN_HUB_MODEL],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.split() == ["clinic/tiny", f"{commit}:float32"], found.stderr


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("granite", {"logits_scaling": 1e-3}),  # the logits are not those of the output embedding
        ("mamba", {}),  # no attention
        ("bloom", {}),  # attention of its own
    ],
)
def test_a_model_whose_own_scores_are_others_is_refused(
    tmp_path: Path, model: Model, family: str, options: dict[str, Any]
) -> None:
    folder = tiny_checkpoint(tmp_path, 1, family, **options)
    with pytest.raises(InfraError, match=f"a model of type {family!r} cannot be scored in process"):
        model.run(create(str(folder), {"dtype": "float32"}).open())


def test_a_model_with_a_sliding_window_reads_no_further(tmp_path: Path, model: Model) -> None:
    folder = tiny_checkpoint(tmp_path, 1, "mistral", sliding_window=64)
    backend = create(str(folder), {"dtype": "float32"})
    assert model.run(backend.open()).max_tokens == 64
    with pytest.raises(DataError, match="reads 64"):
        model.run(backend.score(CONTEXT, [" very" * 70]))
    model.run(backend.close())


def test_a_broken_checkpoint_is_one_clear_line(tmp_path: Path, model: Model) -> None:
    folder = tiny_checkpoint(tmp_path, 1)
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(BackendUnreachableError, match=r"cannot load model .*; check backends") as caught:
        model.run(create(str(folder), {}).open())
    assert "\n" not in str(caught.value)
