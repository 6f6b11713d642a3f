"""The methods of the robustness benchmark: what each does to the text, to the image file and to its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MATRIX_METHODS", "MatrixMethod", "TextStep"]

TextStep = Literal["none", "sms", "symspell", "pyspellchecker", "rewrite"]


@dataclass(frozen=True, slots=True)
class MatrixMethod:
    """One row of the tables.

    Attributes:
        description: One line.
        text: What the question goes through.
        filter: Filter over the image file, or none.
        calibrated: Whether the image's features are calibrated.
    """

    description: str
    text: TextStep = "none"
    filter: str = ""
    calibrated: bool = False


MATRIX_METHODS: dict[str, MatrixMethod] = {
    "none": MatrixMethod("question and image as they came"),
    "sms": MatrixMethod("the question refined by the agents", text="sms"),
    "pdc": MatrixMethod("the image's features calibrated", calibrated=True),
    "imc": MatrixMethod("both", text="sms", calibrated=True),
    "symspell": MatrixMethod("the question corrected by symspellpy", text="symspell"),
    "pyspellchecker": MatrixMethod("the question corrected by pyspellchecker", text="pyspellchecker"),
    "rewrite": MatrixMethod("the question rewritten by the model, asked once", text="rewrite"),
    "median": MatrixMethod("the image through a median filter", filter="median"),
    "nlm": MatrixMethod("the image through non-local means", filter="nlm"),
}
"""By name; the order is that of the tables."""
