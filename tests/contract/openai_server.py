"""A small OpenAI-compatible server on 127.0.0.1 around the default model, so that the wire format is really used.

Replies come from an embedded backend; prompts are scored by the bare transformers model, token by token, which makes
the server an independent check of the embedded backend's numbers as well.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from imc_agents.errors import DataError, ModelOutputError
from imc_agents.models.embedded import create
from imc_agents.models.protocol import Backend, Message, Sampling
from imc_agents.models.weights import DEFAULT_MODEL, locate

MODEL = "smollm2"
KEY = "secret-key-of-the-test"
CONTEXT_TOKENS = 2048


class Scorer:
    """The bare model: log-probability of every token of a prompt behind the tokens before it."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place = locate(DEFAULT_MODEL).location
        self.tokenizer = AutoTokenizer.from_pretrained(place)
        self.model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16).eval()
        self.lock = threading.Lock()

    def tokens(self, prompt: str) -> list[int]:
        return self.tokenizer(prompt).input_ids

    def logprobs(self, ids: list[int]) -> list[float | None]:
        import torch

        with self.lock, torch.inference_mode():
            table = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        return [None, *(float(table[i, token]) for i, token in enumerate(ids[1:]))]


@dataclass
class Server:
    """What the handlers share, and what the tests look at.

    Attributes:
        style: How prompts are scored: as vLLM does, with echo as older servers do, or not at all.
        requests: Path and body of every request, in order of arrival.
        answer: If set, sent as ``(status, body)`` to every POST instead of a real answer.
    """

    url: str
    style: Literal["prompt_logprobs", "echo", "none"]
    requests: list[tuple[str, Any]] = field(default_factory=list)
    answer: tuple[int, bytes] | None = None


class _Listener(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 resets connections when a crowd comes at once


@contextmanager
def serve(style: Literal["prompt_logprobs", "echo", "none"], *, model: bool = True) -> Iterator[Server]:
    """Serve on a free port until the block ends; without ``model`` only canned answers are given."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    backend = create(DEFAULT_MODEL, {})
    scorer = Scorer() if model else None
    if model:
        run(backend.open())
    httpd = _Listener(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server = Server(f"http://127.0.0.1:{httpd.server_address[1]}/v1", style)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the tests' output clean."""

        def do_GET(self) -> None:
            card = {"id": MODEL, "object": "model", "owned_by": "test", "max_model_len": CONTEXT_TOKENS}
            if self.authorised():
                self.send(200, {"object": "list", "data": [card]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append((self.path, body))
            if not self.authorised():
                return
            if server.answer is not None:
                self.send(*server.answer)
            elif body["model"] != MODEL:
                self.fail(404, f"The model `{body['model']}` does not exist.")
            elif self.path == "/v1/completions":
                self.complete(body)
            else:
                self.chat(body)

        def authorised(self) -> bool:
            if self.headers.get("Authorization") in (None, f"Bearer {KEY}"):
                return True
            self.fail(401, f"Incorrect API key provided: {self.headers['Authorization']}")
            return False

        def complete(self, body: dict[str, Any]) -> None:
            assert scorer is not None
            prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
            rows = [scorer.tokens(prompt) for prompt in prompts]
            if any(len(row) + body["max_tokens"] > CONTEXT_TOKENS for row in rows):
                self.fail(400, f"This model's maximum context length is {CONTEXT_TOKENS} tokens.")
                return
            choices: list[dict[str, Any]] = []
            for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
                choice: dict[str, Any] = {
                    "index": index,
                    "text": " x",
                    "finish_reason": "length",
                    "logprobs": None,
                }
                pieces = [scorer.tokenizer.decode([token]) for token in row]
                if style == "prompt_logprobs" and "prompt_logprobs" in body:
                    entries = zip(row, pieces, scorer.logprobs(row), strict=True)
                    choice["prompt_logprobs"] = [
                        {str(t): {"logprob": value, "rank": 1, "decoded_token": piece}}
                        if value is not None
                        else None
                        for t, piece, value in entries
                    ]
                if style == "echo" and body.get("echo"):
                    choice["text"] = f"{prompt} x"
                    choice["logprobs"] = {
                        "tokens": [*pieces, " x"],
                        "token_logprobs": [*scorer.logprobs(row), -1.0],
                    }
                choices.append(choice)
            usage = {"prompt_tokens": sum(map(len, rows)), "completion_tokens": len(rows)}
            self.send(200, {"object": "text_completion", "choices": choices[::-1], "usage": usage})

        def chat(self, body: dict[str, Any]) -> None:
            schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
            messages = [Message(message["role"], message["content"]) for message in body["messages"]]
            sampling = Sampling(body["temperature"], body["top_p"], body["max_tokens"], body.get("seed", 0))
            finish, text, written = "stop", "", body["max_tokens"]
            try:
                assert scorer is not None
                if (
                    sum(len(scorer.tokens(message.content)) for message in messages) + written
                    > CONTEXT_TOKENS
                ):
                    raise DataError("the chat is too long")
                reply = run(backend.generate(messages, sampling=sampling, schema=schema))
                text, written = reply.text, reply.usage.completion_tokens
            except ModelOutputError:
                finish = "length"
            except CancelledError:  # the server is going down
                self.close_connection = True
                return
            except DataError as error:
                self.fail(400, f"This model's maximum context length is {CONTEXT_TOKENS} tokens: {error}")
                return
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
            usage = {"prompt_tokens": 1, "completion_tokens": written}
            self.send(200, {"object": "chat.completion", "choices": [choice], "usage": usage})

        def fail(self, status: int, message: str) -> None:
            self.send(status, {"error": {"message": message, "type": "error", "code": status}})

        def send(self, status: int, body: Any) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client cancelled its call

    httpd.RequestHandlerClass = Handler
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        if model:
            run(backend.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def backend_for(server: Server, **options: Any) -> Backend:
    """An ``openai`` backend, not yet open, that talks to the server and repeats nothing."""
    from imc_agents.models.openai import create as create_openai

    return create_openai(MODEL, {"base_url": server.url, "attempts": 1, **options})
