"""What the openai backend makes of servers that misbehave, as one line that names the thing, the place and the cure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from imc_agents.config.schema import BackendConfig
from imc_agents.errors import (
    BackendUnreachableError,
    ConfigError,
    DataError,
    ImcError,
    InfraError,
    ModelOutputError,
)
from imc_agents.models.openai import create
from imc_agents.models.protocol import Backend, Generation, Message, Sampling, Score
from imc_agents.models.registry import create_backend
from tests.contract.openai_server import KEY, MODEL, Server, backend_for, serve

ASK = [Message("user", "Is there cardiomegaly?")]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
def server() -> Iterator[Server]:
    with serve("none", model=False) as found:
        found.answer = (500, b'{"error": {"message": "engine is dead"}}')
        yield found


def opened(backend: Backend) -> ImcError:
    async def scenario() -> None:
        await backend.open()

    with pytest.raises(ImcError) as caught:
        asyncio.run(scenario())
    return caught.value


def chat(status: int, body: Any) -> tuple[int, bytes]:
    return status, body if isinstance(body, bytes) else json.dumps(body).encode()


def ask(
    server: Server, answer: tuple[int, bytes], *, schema: dict[str, Any] | None = None, **options: Any
) -> Generation:
    async def scenario() -> Generation:
        backend = backend_for(server, scores=False, **options)
        await backend.open()
        server.answer = answer
        try:
            return await backend.generate(ASK, sampling=Sampling(max_tokens=7), schema=schema)
        finally:
            await backend.close()

    return asyncio.run(scenario())


def reply(content: str | None, finish: str = "stop") -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": finish}]}


def test_nobody_listens() -> None:
    error = opened(create("m", {"base_url": "http://127.0.0.1:9/v1"}))
    assert isinstance(error, BackendUnreachableError)
    assert "http://127.0.0.1:9/v1" in str(error)
    assert "start the server" in str(error)


def test_an_unknown_model_is_answered_with_those_served(server: Server) -> None:
    error = opened(create("smolm2", {"base_url": server.url}))
    assert isinstance(error, BackendUnreachableError)
    assert f"did you mean {MODEL!r}?" in str(error)


def test_the_only_model_needs_no_name(server: Server) -> None:
    async def scenario() -> str:
        backend = create("", {"base_url": server.url, "scores": False})
        capabilities = await backend.open()
        await backend.close()
        return capabilities.revision

    assert asyncio.run(scenario()) == MODEL


def test_a_wrong_key_names_its_variable_and_never_shows(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-wrong-1234")
    error = opened(backend_for(server, api_key_env="MY_KEY"))
    assert isinstance(error, BackendUnreachableError)
    assert "MY_KEY" in str(error)
    assert "sk-wrong" not in str(error)


def test_the_right_key_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert ask(server, chat(200, reply("yes"))).text == "yes"


def test_a_proxy_in_the_environment_is_not_used_for_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(server, chat(200, reply("yes"))).text == "yes"


def test_a_server_that_cannot_score_says_so(server: Server) -> None:
    async def scenario() -> bool:
        backend = backend_for(server)
        capabilities = await backend.open()
        try:
            with pytest.raises(InfraError, match="cannot score"):
                await backend.score("A", [" b"])
        finally:
            await backend.close()
        return capabilities.scores

    assert asyncio.run(scenario()) is False
    assert "cannot score prompts" in str(opened(backend_for(server, scores=True)))


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (chat(500, {"error": {"message": "engine is dead"}}), InfraError, "HTTP 500: engine is dead"),
        (chat(502, b"<html>Bad Gateway</html>"), InfraError, "did not answer with JSON (HTTP 502)"),
        (chat(200, b"\xff\xfe\x00"), InfraError, "did not answer with JSON"),
        (chat(200, {"hello": 1}), InfraError, "choices"),
        (chat(200, {"choices": []}), InfraError, "choices"),
        (chat(200, ["x"]), InfraError, "something else than an OpenAI server"),
        (
            chat(400, {"message": "This model's maximum context length is 9 tokens."}),
            DataError,
            "maximum context",
        ),
        (chat(400, {"error": "temperature is wrong"}), InfraError, "temperature is wrong"),
        (chat(401, {"error": "no"}), BackendUnreachableError, "OPENAI_API_KEY"),
        (chat(200, reply("y", "length")), ModelOutputError, "max_tokens = 7"),
        (chat(200, reply(None)), ModelOutputError, "no text"),
    ],
)
def test_bad_answers(server: Server, answer: tuple[int, bytes], kind: type[ImcError], words: str) -> None:
    with pytest.raises(kind) as caught:
        ask(server, answer)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"), [("HACKED", "not JSON"), ('{"a": "x"}', "does not fit its schema")]
)
def test_a_reply_that_ignores_the_schema(server: Server, content: str, words: str) -> None:
    with pytest.raises(ModelOutputError, match=words):
        ask(server, chat(200, reply(content)), schema=SCHEMA)


def test_the_schema_travels_strictly(server: Server) -> None:
    assert ask(server, chat(200, reply('{"a": 3}')), schema=SCHEMA).parsed == {"a": 3}
    _, body = server.requests[-1]
    assert body["response_format"]["json_schema"] == {"name": "reply", "schema": SCHEMA, "strict": True}
    assert "seed" not in body


def test_no_answer_in_time_names_the_limit() -> None:
    async def scenario() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        listener = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        try:
            await create("m", {"base_url": f"http://127.0.0.1:{port}/v1", "timeout_seconds": 0.2}).open()
        finally:
            listener.close()

    with pytest.raises(BackendUnreachableError, match=r"timeout_seconds = 0\.2"):
        asyncio.run(scenario())


@pytest.mark.parametrize(
    ("pieces", "logprobs", "words"),
    [
        (["A", " c"], [None, -1.0], "do not spell the prompt"),
        (["A", " b"], [None, None], "no finite log-probability"),
        (["A b"], [None], "no finite log-probability"),
    ],
)
def test_scores_that_do_not_fit_the_prompt(
    server: Server, pieces: list[str], logprobs: list[float | None], words: str
) -> None:
    def answer(tokens: list[str], values: list[float | None]) -> tuple[int, bytes]:
        entries = [{"1": {"logprob": v, "decoded_token": t}} for t, v in zip(tokens, values, strict=True)]
        return chat(200, {"choices": [{"prompt_logprobs": entries}]})

    async def scenario() -> list[Score]:
        server.answer = answer(["A", " b"], [None, -1.0])
        backend = backend_for(server, scores=True)
        await backend.open()
        server.answer = answer(pieces, logprobs)
        try:
            return (await backend.score("A", [" b"]))[0]
        finally:
            await backend.close()

    with pytest.raises(InfraError, match=words):
        asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("opneai", {}, "did you mean 'openai'?"),
        ("openai", {"base_ur": "http://127.0.0.1/v1"}, "has no option 'base_ur'; did you mean 'base_url'?"),
        ("openai", {"base_url": "http://me:pw@127.0.0.1/v1"}, "must not hold credentials"),
        ("openai", {"base_url": "localhost:8000"}, "must be an http"),
        ("openai", {"timeout_seconds": -1}, "timeout_seconds"),
    ],
)
def test_wrong_config_names_the_nearest_right_one(kind: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create_backend(BackendConfig(kind=kind, model="m", options=options))
    assert words in str(caught.value)
    assert "pw" not in str(caught.value)
