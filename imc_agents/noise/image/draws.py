"""Random numbers of an image: the same on every machine, in every order, and at every severity."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["generator"]


def generator(dataset: str, sample_id: str, noise: str, seed: int) -> np.random.Generator:
    """A generator that depends on these four alone; the severity is left out, so that severities share draws."""
    import numpy as np

    digest = sha256("\0".join((dataset, sample_id, noise, str(seed))).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
