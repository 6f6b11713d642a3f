"""What every corruption of an image costs, beside the published code in the same run."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from imc_agents.errors import UsageError
from imc_agents.noise.registry import SEVERITIES, NoiseSpec, noises

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["NoiseSpeed", "drawn_picture", "measure_speed", "published_times", "ratios"]

_TURN_MS = 500
Ask = Callable[[NoiseSpec, str | None, int, int], "list[float] | str"]
"""A noise, its table, a seed and a number of repeats to milliseconds, or to an error."""


_SCRIPT = Path(__file__).with_name("noise_published.py")


@dataclass(frozen=True, slots=True)
class NoiseSpeed:
    """Times of one corruption, means over its five severities.

    Attributes:
        suite: Its suite.
        name: Its name.
        ms: Milliseconds an image, median over repeats.
        published_ms: Of the published code; None where there is none, or where it fails.
        ratio: ``published_ms`` over ``ms``.
        error: What the published code fails with.
    """

    suite: str
    name: str
    ms: float
    published_ms: float | None = None
    ratio: float | None = None
    error: str | None = None


@contextmanager
def published_times(python: str, image: NDArray[np.uint8]) -> Generator[Ask]:
    """Start another Python that has the published packages, and end it behind the block.

    Args:
        python: An interpreter with ``medmnistc`` and ``imagecorruptions``.
        image: uint8 [H, W, 3].

    Yields:
        A function of a noise, its table, a seed and a number of repeats; it returns the milliseconds of each repeat,
        or what the published code fails with.

    Raises:
        UsageError: if the interpreter does not start or ends too early.
    """
    import numpy as np

    with TemporaryDirectory() as folder:
        path = Path(folder) / "image.npy"
        np.save(path, image)
        command = [python, "-W", "ignore", str(_SCRIPT), str(path)]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            raise UsageError(f"--oracle {python}: {error.strerror}; name a Python") from None

        def ask(spec: NoiseSpec, table: str | None, seed: int, repeats: int) -> list[float] | str:
            assert process.stdin is not None
            assert process.stdout is not None
            request = {
                "suite": spec.suite,
                "name": spec.name,
                "table": table,
                "severities": SEVERITIES,
                "seed": seed,
            }
            try:
                process.stdin.write(json.dumps(request | {"repeats": repeats}) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            if not line:
                raise UsageError(
                    f"--oracle {python}: it ended without an answer; it needs numpy and opencv-python"
                )
            answer = json.loads(line)
            return answer.get("ms") or str(answer["error"])

        try:
            yield ask
        finally:
            process.communicate()


def drawn_picture(size: int) -> NDArray[np.uint8]:
    """A drawn picture in colour [size, size, 3] with edges and texture, the same on every machine."""
    import cv2
    import numpy as np

    random = np.random.Generator(np.random.PCG64(0))
    coarse = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    fine = random.integers(-20, 21, (size, size, 3))
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(smooth + fine, 0, 255).astype(np.uint8)


def measure_speed(
    image: NDArray[np.uint8],
    *,
    oracle: str | None = None,
    turns: int = 9,
    repeats: int = 20,
    tell: Callable[[NoiseSpeed], None] | None = None,
) -> list[NoiseSpeed]:
    """Time every image noise of every suite in this process, and the published code in turns with it.

    OpenCV works in one thread on both sides, as it does beside others that each have an image of their own.

    Args:
        image: uint8 [H, W, 3].
        oracle: A Python with the published packages.
        turns: How often ours and theirs take turns.
        repeats: Images in each turn, each at every severity, or fewer where they would take longer than half a second.
        tell: Told each result as it comes.

    Raises:
        UsageError: if the oracle does not run.
    """
    import cv2

    specs = [spec for suite in ("imc-11", "medmnist-c", "medimeta-c") for spec in noises("image", suite)]
    rows: list[NoiseSpeed] = []
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with nullcontext() if oracle is None else published_times(oracle, image) as published:
            for spec in specs:
                rows.append(
                    _speed(spec, image, None if spec.suite == "imc-11" else published, turns, repeats)
                )
                if tell is not None:
                    tell(rows[-1])
    finally:
        cv2.setNumThreads(threads)
    return rows


def _speed(
    spec: NoiseSpec, image: NDArray[np.uint8], published: Ask | None, turns: int, repeats: int
) -> NoiseSpeed:
    table = next(iter(spec.tables), None)
    mine: list[float] = []
    theirs: list[float] = []
    # A first image of each, which also pays for imports and tables, tells how many fit into a turn.
    first = _times(spec, image, table, 0, 1)
    other = published(spec, table, 0, 1) if published else []
    for turn in range(1, turns + 1):
        mine += _times(spec, image, table, turn, _fitting(first, repeats))
        if published and not isinstance(other, str):
            other = published(spec, table, turn, _fitting(other, repeats))
            theirs += other if not isinstance(other, str) else []
    ms = statistics.median(mine)
    if isinstance(other, str) or not theirs:
        return NoiseSpeed(spec.suite, spec.name, ms, error=other if isinstance(other, str) else None)
    published_ms = statistics.median(theirs)
    return NoiseSpeed(spec.suite, spec.name, ms, published_ms, published_ms / ms)


def _fitting(times: list[float], repeats: int) -> int:
    return max(1, min(repeats, int(_TURN_MS / (len(SEVERITIES) * max(times)))))


def _times(
    spec: NoiseSpec, image: NDArray[np.uint8], table: str | None, turn: int, repeats: int
) -> list[float]:
    options: dict[str, Any] = {} if table is None else {"table": table}
    times: list[float] = []
    for number in range(repeats):
        started = time.perf_counter()
        for severity in SEVERITIES:
            spec.apply(image, severity, seed=turn, sample_id=str(number), dataset="", **options)
        times.append(1000 * (time.perf_counter() - started) / len(SEVERITIES))
    return times


def ratios(rows: Sequence[NoiseSpeed]) -> tuple[float, float] | None:
    """Least and median ratio; None where nothing was compared."""
    found = [row.ratio for row in rows if row.ratio is not None]
    return (min(found), statistics.median(found)) if found else None
