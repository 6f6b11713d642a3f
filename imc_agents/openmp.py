"""How the threads of torch wait for work on the CPU."""

from __future__ import annotations

import os

__all__ = ["wait_passively"]


def wait_passively() -> None:
    """Let waiting threads sleep soon; call it before torch is imported. What the user has set stays.

    Threads that wait by spinning starve each other as soon as anything else runs on the cores (10 x slower on two busy
    cores); threads that sleep at once make small batches 1.4 x slower. So: a short spin, then sleep. OpenMP reads both
    once, when torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
