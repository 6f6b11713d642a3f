"""Backend that runs the vLLM engine from this process, for a batch on one machine without a server.

The engine works in child processes of its own and is stopped with the backend. What it computes is what a server of
``imc serve`` computes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
import uuid
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from imc_agents.errors import BackendUnreachableError, ConfigError, DataError, InfraError, ModelOutputError
from imc_agents.models.apart import children_apart
from imc_agents.models.control_tokens import inert
from imc_agents.models.families import checkpoint_config
from imc_agents.models.features import check_features, engine_features
from imc_agents.models.protocol import (
    Backend,
    Capabilities,
    EngineWork,
    Generation,
    ImageFeatures,
    Message,
    Sampling,
    Score,
    TokenScore,
    Usage,
)
from imc_agents.models.replies import parse_reply
from imc_agents.models.served import records_directory
from imc_agents.models.vllm_launch import CACHED_TOKENS, engine_environment, engine_settings
from imc_agents.models.vllm_metrics import WorkCounter, read_metrics
from imc_agents.vision.reading import read_image

__all__ = ["Settings", "VllmEngineBackend", "create"]

_ENGINE = "engine"
_CALIBRATION = "IMC_VLLM_CALIBRATION"
# A forked process would have no log of its own, and its errors are in the log of the others.
_SETTING = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
}


class Settings(BaseModel):
    """Options of the ``vllm-engine`` backend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto", description="auto is what the installed vLLM was built for."
    )
    max_model_len: int | None = Field(
        default=None, ge=64, description="Context length; null takes the model's, on a CPU 4096 at most."
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Share of the GPU's memory for weights and KV cache."
    )
    calibration: str | None = Field(
        default=None, description="Folder of the bank with which all images are calibrated inside the engine."
    )
    engine_args: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of vLLM's engine, such as tensor_parallel_size."
    )


def create(model: str, options: dict[str, Any]) -> Backend:
    """Make the backend; nothing is loaded before ``open``."""
    return VllmEngineBackend(model, Settings.model_validate(options))


class VllmEngineBackend:
    """See the module. Safe to call from many tasks of the event loop that opened it."""

    def __init__(self, model: str, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._engine: Any = None
        self._tokenizer: Any = None
        self._specials: tuple[str, ...] = ()
        self._capabilities: Capabilities | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._log: Path | None = None
        self._work = WorkCounter()
        self._config: dict[str, Any] = {}

    async def open(self) -> Capabilities:
        """Load the model into an engine of its own.

        Raises:
            BackendUnreachableError: vLLM is not installed, or the engine cannot be started with the model.
            ConfigError: unknown engine arguments, or no bank where ``calibration`` says.
        """
        if self._capabilities is not None:
            return self._capabilities
        from imc_agents.models.weights import DEFAULT_MODEL, hub_commit, locate

        checkpoint = await asyncio.to_thread(locate, self._model or DEFAULT_MODEL)
        self._engine = await asyncio.to_thread(self._start, checkpoint.location)
        self._tokenizer = self._engine.get_tokenizer()
        self._specials = tuple(str(token) for token in self._tokenizer.added_tokens_decoder.values())
        self._look()
        config = self._engine.model_config
        self._config = checkpoint_config(checkpoint.location)
        weights = checkpoint.revision or hub_commit(checkpoint.location)
        revision = f"{weights}:{str(config.dtype).removeprefix('torch.')}"
        images = bool(config.is_multimodal_model)
        self._capabilities = Capabilities(
            self._model or DEFAULT_MODEL,
            revision,
            True,
            config.max_model_len,
            images,
            images and bool(config.multimodal_config.enable_mm_embeds),
        )
        return self._capabilities

    async def generate(
        self, messages: Sequence[Message], *, sampling: Sampling, schema: dict[str, Any] | None = None
    ) -> Generation:
        """Answer a chat; see ``Backend.generate``."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        self._check_open()
        started = time.perf_counter()
        prompt, length = self._prompt(messages)
        if length + sampling.max_tokens > self._limit:
            raise DataError(
                f"the prompt of {length} tokens and {sampling.max_tokens} for the reply exceed the "
                f"{self._limit} tokens that the model {self._model!r} reads; shorten the question"
            )
        wanted = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed if sampling.temperature > 0 else None,
            structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        done = await self._run(prompt, wanted)
        reply = done.outputs[0]
        read = len(done.prompt_token_ids) - (done.num_cached_tokens or 0)
        usage = Usage(read, len(reply.token_ids), (time.perf_counter() - started) * 1000)
        if reply.finish_reason == "length":
            raise ModelOutputError(
                f"the reply was cut after max_tokens = {sampling.max_tokens}; raise sampling.max_tokens of the role"
            )
        return Generation(reply.text, None if schema is None else parse_reply(reply.text, schema), usage)

    async def score(self, context: str, texts: Sequence[str]) -> tuple[list[Score], Usage]:
        """Score texts behind a context; see ``Backend.score``."""
        self._check_open()
        started = time.perf_counter()
        encoded = [self._tokenizer(context + text, return_offsets_mapping=True) for text in texts]
        longest = max((len(item.input_ids) for item in encoded), default=0)
        if longest + 1 > self._limit:
            raise DataError(
                f"the question needs {longest} tokens, the model {self._model!r} reads {self._limit - 1}; "
                "shorten it or lower sms.max_question_chars"
            )
        results = await asyncio.gather(*(self._score(len(context), item) for item in encoded))
        read = sum(tokens for _, tokens in results)
        return [score for score, _ in results], Usage(read, 0, (time.perf_counter() - started) * 1000)

    async def engine_work(self) -> dict[str, EngineWork]:
        """See ``Measured``."""
        if self._engine is not None:
            self._look()
        return self._work.done

    async def close(self) -> None:
        """Stop the engine and its processes; calls in flight are cancelled. Idempotent."""
        engine, self._engine, self._capabilities = self._engine, None, None
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        if engine is not None:
            await asyncio.to_thread(engine.shutdown)
            del engine
            with warnings.catch_warnings():
                # The engine's sockets are closed by whoever collects them, with a warning each.
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
            if self._log is not None:
                self._log.unlink(missing_ok=True)

    @property
    def _limit(self) -> int:
        assert self._capabilities is not None  # there is an open engine
        return self._capabilities.max_tokens

    def _check_open(self) -> None:
        if self._engine is None:
            raise InfraError("the vLLM engine is not open; call open() first")

    def _start(self, location: str) -> Any:
        settings = self._settings
        values = engine_settings(location, device=settings.device, max_model_len=settings.max_model_len)
        wanted = _SETTING | engine_environment(values.cpu, local=Path(location).is_dir())
        chosen = {} if settings.calibration is None else {_CALIBRATION: _bank(settings.calibration)}
        self._log = records_directory() / f"engine-{os.getpid()}.log"
        with _environment(wanted, chosen), warnings.catch_warnings(), children_apart(self._log):
            # vLLM and what it imports warn of each other's deprecations, which no user of ours can mend.
            warnings.simplefilter("ignore")
            return self._engine_of(location, values.arguments)

    def _engine_of(self, location: str, own: dict[str, Any]) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        settings = self._settings
        arguments: dict[str, Any] = {
            **own,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "use_tqdm_on_load": False,
            **settings.engine_args,
        }
        try:
            wanted = AsyncEngineArgs(model=location, **arguments)
        except TypeError as error:
            raise ConfigError(f"backend kind 'vllm-engine', option engine_args: {error}") from error
        try:
            return AsyncLLM.from_engine_args(wanted)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise BackendUnreachableError(
                f"the vLLM engine cannot run {location}: {reason}; log: {self._log}"
            ) from error

    async def _run(self, prompt: Any, sampling: Any) -> Any:
        """The finished request; a task of the backend, so that closing cancels it."""
        task = asyncio.ensure_future(self._finish(prompt, sampling))
        self._calls.add(task)
        try:
            return await task
        finally:
            self._calls.discard(task)

    async def _finish(self, prompt: Any, sampling: Any) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        done = None
        try:
            async for output in self._engine.generate(prompt, sampling, uuid.uuid4().hex):
                done = output
        except EngineDeadError as error:
            raise BackendUnreachableError(
                f"the vLLM engine died (out of memory, perhaps); log: {self._log}"
            ) from error
        except ValueError as error:
            raise InfraError(
                f"the vLLM engine refused a request: {' '.join(str(error).split())[:300]}"
            ) from error
        return done

    async def _score(self, context: int, encoded: Any) -> tuple[Score, int]:
        """Score the text behind the first ``context`` characters; also return the tokens that were read."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        ids, offsets = encoded.input_ids, encoded.offset_mapping
        first = next((i for i, (_, end) in enumerate(offsets) if end > context), len(ids))
        if first == len(ids):
            return Score(()), 0
        wanted = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={CACHED_TOKENS: first - 1} if first > 1 else None,
        )
        done = await self._run({"prompt_token_ids": ids}, wanted)
        # Counted from the end: positions that came from the cache may be missing at the beginning.
        entries = done.prompt_logprobs[first - len(ids) :]
        logprobs = [entry[token].logprob for entry, token in zip(entries, ids[first:], strict=True)]
        return _spans(offsets[first:], logprobs, context), len(ids) - (done.num_cached_tokens or 0)

    def _prompt(self, messages: Sequence[Message]) -> tuple[Any, int]:
        """What the engine takes for a chat, and how many tokens of text that is."""
        images = [path for message in messages for path in message.images]
        if images and not (self._capabilities and self._capabilities.images):
            raise DataError(f"the model {self._model!r} takes no images; use one that does")
        chat = [{"role": message.role, "content": self._content(message)} for message in messages]
        text = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = self._tokenizer(text, add_special_tokens=False).input_ids
        if not images:
            return {"prompt_token_ids": ids}, len(ids)
        return {"prompt": text, "multi_modal_data": {"image": self._images(images)}}, len(ids)

    def _images(self, images: Sequence[Path | ImageFeatures]) -> Any:
        """What the engine takes for the images of a prompt: pictures, or features."""
        features = [image for image in images if isinstance(image, ImageFeatures)]
        if not features:
            return [read_image(image) for image in images if isinstance(image, Path)]
        if len(features) != len(images):
            raise DataError("a prompt holds an image file and image features; give one or the other")
        if self._capabilities is None or not self._capabilities.features:
            raise DataError(f"the model {self._model!r} takes no image features; set the option calibration")
        for item in features:
            check_features(item, self._config, self._model)
        return engine_features(features)

    def _content(self, message: Message) -> Any:
        text = inert(message.content, self._specials)
        if not message.images:
            return text
        return [*({"type": "image"} for _ in message.images), {"type": "text", "text": text}]

    def _look(self) -> None:
        from prometheus_client import generate_latest

        state = read_metrics(generate_latest().decode())
        if state is not None:
            self._work.see(_ENGINE, state.work)


@contextmanager
def _environment(wanted: dict[str, str], chosen: dict[str, str]) -> Generator[None]:
    """Set variables for the processes that are started meanwhile; those of ``wanted`` where they are not set."""
    values = {name: value for name, value in wanted.items() if name not in os.environ} | chosen
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _bank(folder: str) -> str:
    """The path of a bank, which is read as a check; the engine compares it with the model."""
    from imc_agents.vision.bank import load_bank

    path = Path(folder).expanduser().absolute()
    load_bank(path)
    return str(path)


def _spans(offsets: Sequence[tuple[int, int]], logprobs: Sequence[float], context: int) -> Score:
    tokens: list[TokenScore] = []
    at = 0
    for (_, end), logprob in zip(offsets, logprobs, strict=True):
        # Byte-level tokens leave out the blank before a word and share a character that they split; the spans
        # reported here are contiguous instead.
        stop = max(at, end - context)
        tokens.append(TokenScore(at, stop, logprob))
        at = stop
    return Score(tuple(tokens))
