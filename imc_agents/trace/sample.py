"""What the views need to know of a sample; the records of the run store have it."""

from __future__ import annotations

from typing import Protocol

from imc_agents.refinement import Refinement

__all__ = ["Sample"]


class Sample(Protocol):
    """One refined question and where it came from."""

    @property
    def row_index(self) -> int:
        """Position in the input, from 0."""
        ...

    @property
    def id(self) -> str:
        """The user's id of the row."""
        ...

    @property
    def refinement(self) -> Refinement:
        """The outcome."""
        ...
