"""What the commands of ``imc adapt`` share: checked settings, devices, and stopping between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from imc_agents.errors import UsageError, nearest

if TYPE_CHECKING:
    from imc_agents.adapt.settings import FitSettings

__all__ = ["check_device", "fit_settings", "severity_numbers", "stopping"]

_CHOICES = {
    "qkv": ("separate", "fused"),
    "schedule": ("constant", "cosine"),
    "class_weights": ("none", "balanced"),
    "precision": ("float32", "bfloat16", "float16"),
}


def fit_settings(**values: Any) -> FitSettings:
    """Check the settings of a fit.

    Raises:
        UsageError: one is not possible; names the option and what is.
    """
    from imc_agents.adapt.settings import FitSettings

    for name, known in _CHOICES.items():
        if values[name] not in known:
            hint = nearest(values[name], known) or f"; take {' or '.join(known)}"
            raise UsageError(f"--{name.replace('_', '-')}: unknown {values[name]!r}{hint}")
    if values["rank"] < 1:
        raise UsageError(f"--rank {values['rank']}: an adapter needs a rank of 1 or more, e.g. 16")
    if not values["weight_decay"] < float("inf"):
        raise UsageError(f"--weight-decay {values['weight_decay']:g}: give a number, e.g. 1e-4")
    for name in ("learning_rate", "shots", "alpha"):
        value = values[name]
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")
    if values["shots"] > 1:
        raise UsageError(
            f"--shots {values['shots']:g}: a share of the training images, at most 1; 0.1 is 10 %"
        )
    return FitSettings(**values)


def severity_numbers(listed: str) -> tuple[int, ...]:
    """The severities in a list by comma.

    Raises:
        UsageError: it is empty, or something in it is no number from 1 to 5.
    """
    from imc_agents.commands.bench_options import numbers
    from imc_agents.noise.registry import check_severity

    found = numbers(listed, "--severities", "numbers from 1 to 5 by comma, e.g. 1,3,5")
    if not found:
        raise UsageError("--severities: none is given; name some of 1 to 5, e.g. 1,3,5")
    for severity in found:
        check_severity(severity)
    return tuple(dict.fromkeys(found))


def check_device(device: str, precision: str = "float32") -> None:
    """Check that a device is there, and that it trains in a precision.

    Raises:
        ConfigError: it is not, or it does not.
    """
    from imc_agents.adapt.settings import check_precision
    from imc_agents.openmp import wait_passively
    from imc_agents.vision.encoders.specs import check_device

    wait_passively()
    check_device(device)
    check_precision(precision, device)


@contextmanager
def stopping() -> Generator[Callable[[], bool]]:
    """Yield what tells whether Ctrl-C was pressed, so that a step is finished first; a second one ends at once."""
    asked = threading.Event()

    def note(_: int, __: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
