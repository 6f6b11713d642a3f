"""Tones and colours of published benchmarks: brightness, contrast, gamma and saturation.

All take a uint8 image [H, W] or [H, W, 3] and the strength of a severity, and return an image of that shape; nothing is
drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imc_agents.noise.image.pixels import truncated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["brightness", "channel_contrast", "contrast", "gamma", "saturate", "value"]


def brightness(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Multiply by ``strength``, as Pillow's ``ImageEnhance.Brightness``."""
    return _through(image, _levels() * strength)


def contrast(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Multiply the distance from the mean luminance by ``strength``, as Pillow's ``ImageEnhance.Contrast``."""
    import cv2

    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean = int(cv2.mean(grey)[0] + 0.5)
    return _through(image, mean + strength * (_levels() - mean))


def channel_contrast(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Multiply the distance from the mean of each channel by ``strength``, as ImageNet-C."""
    import cv2
    import numpy as np

    means = np.array(cv2.mean(image)[: 1 if image.ndim == 2 else 3])
    return _through(image, (_levels()[:, None] - means) * strength + means)


def gamma(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Raise intensities 0..1 to the power ``strength``, as torchvision's ``adjust_gamma`` of Pillow images."""
    return _through(image, (255 + 1 - 1e-3) * (_levels() / 255) ** strength)


def value(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Add ``strength`` to the value of HSV (0..1), the brightness of ImageNet-C; hue and saturation stay."""
    import cv2
    import numpy as np

    raised = np.minimum(_levels() / 255 + strength, 1) * 255
    if image.ndim == 2:
        return _through(image, raised)
    channels = cv2.split(image)
    most = np.maximum(np.maximum(channels[0], channels[1]), channels[2])
    with np.errstate(divide="ignore"):
        factor = np.where(_levels() > 0, raised / _levels(), 0).astype(np.float32).take(most)
    # Black has no hue: it turns grey.
    lift = np.where(_levels() > 0, 0, raised).astype(np.float32).take(most)
    return cv2.merge([truncated(channel * factor + lift) for channel in channels])  # pyright: ignore[reportReturnType]


def saturate(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Add ``strength`` to the saturation of HSV (0..1); a grey image has no hue to saturate and stays as it is.

    Grey pixels of a colour image turn red, as published: their hue counts as 0.
    """
    import cv2
    import numpy as np

    if image.ndim == 2:
        return image.copy()
    channels = cv2.split(image)
    most = np.maximum(np.maximum(channels[0], channels[1]), channels[2])
    least = np.minimum(np.minimum(channels[0], channels[1]), channels[2])
    chroma, bright = (most - least).astype(np.float32), most.astype(np.float32)
    grey = chroma == 0
    chroma[grey] = 1
    factor = np.minimum(chroma + strength * bright, bright) / chroma
    made: list[NDArray[np.uint8]] = []
    for number, channel in enumerate(channels):
        # How far a grey pixel's green and blue lie below its red.
        shift = np.where(grey, strength * bright if number else 0, (bright - channel) * factor)
        made.append(truncated(bright - shift))
    return cv2.merge(made)  # pyright: ignore[reportReturnType]


def _levels() -> NDArray[np.float64]:
    import numpy as np

    return np.arange(256, dtype=np.float64)


def _through(image: NDArray[np.uint8], levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Each value through a table [256], or [256, C] with one for each channel."""
    import cv2

    # What a rounding error puts just below a level is that level.
    table = truncated(levels + 1e-9)
    return cv2.LUT(image, table if table.ndim == 1 else table[:, None, :])  # pyright: ignore[reportReturnType]
