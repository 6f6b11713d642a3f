"""Image filters that one would try first: the baselines of calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FILTERS", "filtered"]

FILTERS = ("median", "nlm", "bilateral")
"""Median of 3 x 3, non-local means (Buades et al. 2005) and bilateral (Tomasi & Manduchi 1998)."""


def filtered(image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Denoise an image.

    Args:
        image: uint8 [H, W, 3].
        name: One of ``FILTERS``.
    """
    import cv2

    library: Any = cv2
    if name == "median":
        return library.medianBlur(image, 3)
    if name == "nlm":
        return library.fastNlMeansDenoisingColored(image, None, 7, 7, 5, 15)
    return library.bilateralFilter(image, 5, 40, 3)
