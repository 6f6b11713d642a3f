"""The corruptions of published benchmarks: MedMNIST-C and MediMeta-C."""

from __future__ import annotations

from imc_agents.noise.registry import NoiseSpec

__all__ = ["SUITE_NOISES"]

SUITE_NOISES: tuple[NoiseSpec, ...] = ()
