"""The published corruptions, for a Python that has ``medmnistc`` and ``imagecorruptions``; as a script, their times.

It runs apart from this package, in that other Python, and imports nothing of it. As a script it takes the path of an
``.npy`` image, reads one JSON line a request from stdin with ``suite``, ``name``, ``table``, ``severities``, ``seed``
and ``repeats``, and answers each with the milliseconds of every repeat, a mean over the severities, or with the error.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["published"]


def published(suite: str, name: str, table: str | None, severity: int, seed: int = 0) -> Callable[[Any], Any]:
    """Return the published corruption: uint8 [H, W, 3] to uint8 [H, W, 3].

    Args:
        suite: ``medmnist-c`` or ``medimeta-c``.
        name: Of the corruption.
        table: Data set of MedMNIST-C.
        severity: 1..5.
        seed: Of the global generators that the packages draw from.
    """
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    if suite == "medimeta-c":
        module = _imagecorruptions()
        return lambda image: module.corrupt(image, severity=severity, corruption_name=name)
    from PIL import Image

    registry = importlib.import_module("medmnistc.corruptions.registry")
    corruption = registry.CORRUPTIONS_DS[table][name]
    corruption.rng = np.random.default_rng(seed)
    # Their severities count from 0.
    return lambda image: corruption.apply(Image.fromarray(image), severity - 1)


@cache
def _imagecorruptions() -> Any:
    """The package with what it needs of older releases: NumPy 1's ``float_``, scikit-image's ``multichannel``."""
    import numpy as np

    np.__dict__.setdefault("float_", np.float64)
    module = importlib.import_module("imagecorruptions.corruptions")
    blur = module.gaussian

    def gaussian(image: Any, sigma: Any, multichannel: bool = False, **options: Any) -> Any:
        return blur(image, sigma, channel_axis=-1 if multichannel else None, **options)

    module.__dict__["gaussian"] = gaussian
    return importlib.import_module("imagecorruptions")


def _serve() -> None:
    import cv2
    import numpy as np

    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    image = np.load(sys.argv[1], allow_pickle=False)
    for line in sys.stdin:
        request = json.loads(line)
        repeats, severities = request.pop("repeats"), request.pop("severities")
        try:
            corruptions = [published(**request, severity=severity) for severity in severities]
            times: list[float] = []
            for _ in range(repeats):
                started = time.perf_counter()
                for corruption in corruptions:
                    corruption(image)
                times.append(1000 * (time.perf_counter() - started) / len(corruptions))
            answer: dict[str, Any] = {"ms": times}
        except Exception as error:  # whatever the package fails with belongs into the table
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
