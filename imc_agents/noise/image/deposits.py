"""What lies on an image: stains, bubbles, the dark rim of a dermatoscope and characters burnt in (MedMNIST-C).

All take a uint8 image [H, W] or [H, W, 3], the strength of a severity and the generator of the image, and return an
image of that shape. Pixels are those of a shorter side of 224. Everything is drawn for the harshest severity and a
milder one shows a part of it, smaller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imc_agents.noise.image.pixels import scale

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["black_corner", "bubble", "characters", "stain_deposit"]

_MOST_MARKS = 5
_MOST_BUBBLES = 25
_MOST_WORDS = 6
_MOST_LETTERS = 10

_ALPHA = 100
_RIM_ALPHA = 130

_MARGIN = 10  # pixels that stains and characters keep from the border


def stain_deposit(
    image: NDArray[np.uint8], strength: tuple[int, float], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Drop black marks; ``strength`` is their largest number and the area of one in pixels.

    The published marks are ten drawn ones of each size. Ours are blots of their mean area whose rims are drawn anew.
    """
    import cv2
    import numpy as np

    most, area = strength
    factor = scale(image)
    height, width = image.shape[:2]
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    waves = np.arange(2, 6)[:, None]
    count = 1 + int(random.random() * most)
    places = random.random((_MOST_MARKS, 2))
    heights = random.normal(0, 0.07, (_MOST_MARKS, 4, 1))
    phases = random.uniform(0, 2 * np.pi, (_MOST_MARKS, 4, 1))
    stained = image.copy()
    for place, high, phase in zip(places[:count].tolist(), heights, phases, strict=False):
        rim = 1 + (high * np.cos(waves * angles + phase)).sum(axis=0)
        breadth = factor * (area / np.pi) ** 0.5
        # OpenCV fills the pixels under the outline too, which is half a pixel more all around.
        radius = max(0.0, breadth - 0.5) * rim / np.square(rim).mean() ** 0.5
        edge = _MARGIN * factor + breadth
        x, y = _between(place[0], edge, width - edge), _between(place[1], edge, height - edge)
        outline = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
        cv2.fillPoly(stained, [np.rint(outline).astype(np.int32)], (0, 0, 0))
    return stained


def bubble(
    image: NDArray[np.uint8], strength: tuple[int, int], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Lay white, see-through bubbles with brighter rims over the image.

    Where bubbles meet, the brighter part shows.

    Args:
        image: The image.
        strength: The largest radius (3 at least) in pixels and the largest number (7 at least).
        random: Draws number, radii and places.
    """
    import cv2
    import numpy as np

    largest, most = strength
    factor = scale(image)
    height, width = image.shape[:2]
    count = 7 + int(random.random() * (most - 6))
    drawn = random.random((_MOST_BUBBLES, 3))
    inside, rims = np.zeros((2, height, width), np.uint8)
    for size, across, down in drawn[:count].tolist():
        radius = (3 + int(size * (largest - 2))) * factor
        edge = min(radius, (min(height, width) - 1) / 2)
        centre = (round(_between(across, edge, width - edge)), round(_between(down, edge, height - edge)))
        cv2.circle(rims, centre, max(1, round(radius + 2 * factor)), 255, cv2.FILLED)
        cv2.circle(inside, centre, max(1, round(radius)), 255, cv2.FILLED)
    covered = image.copy()
    levels = np.arange(256)
    # The inside of a bubble goes on top of the rims of others.
    for mask, alpha in ((rims, _RIM_ALPHA), (inside, _ALPHA)):
        through = (levels + (255 - levels) * alpha / 255 + 0.5).astype(np.uint8)
        cv2.copyTo(cv2.LUT(image, through), mask, covered)
    return covered


def black_corner(image: NDArray[np.uint8], strength: float, *_: Any) -> NDArray[np.uint8]:
    """Blacken what lies outside a centred circle whose radius is ``strength`` times half the shorter side."""
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    seen = np.zeros((height, width), np.uint8)
    radius = int(min(height, width) // 2 * strength)
    cv2.circle(seen, (width // 2, height // 2), radius, 255, cv2.FILLED)
    return cv2.bitwise_and(image, image, mask=seen)  # pyright: ignore[reportReturnType]


def characters(
    image: NDArray[np.uint8], strength: tuple[int, int, float], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Burn words of random letters in, each in a colour of its own, or in a grey of its own.

    Letters are no lower than three pixels, so words of small images are cut off at the border.

    Args:
        image: The image.
        strength: The largest number of words, of letters (3 at least) and the largest scale (0.14 at least) of the
            font, OpenCV's duplex one, whose letters are 22 pixels high at scale 1.
        random: Draws words, places and colours.
    """
    import cv2
    import numpy as np

    most_words, most_letters, largest = strength
    factor = scale(image)
    height, width = image.shape[:2]
    count = 1 + int(random.random() * most_words)
    # Length, size, place and colour of each word, and its letters.
    drawn = random.random((_MOST_WORDS, 7 + _MOST_LETTERS))
    colours = (drawn[:, 4:7] * 256).astype(np.uint8)
    letters = (drawn[:, 7:] * 26).astype(np.uint8) + ord("a")
    written = image.copy()
    for (length, size, across, down), colour, text in zip(
        drawn[:count, :4].tolist(), colours, letters, strict=False
    ):
        number = 3 + int(length * (most_letters - 2))
        word = text[:number].tobytes().decode()
        font = max(0.14, (14 + int(size * (round(largest * 100) - 13))) / 100 * factor)
        edge = _MARGIN * factor
        left = round(_between(across, edge, width - 8 * number * factor))
        bottom = round(_between(down, edge, height - edge))
        ink = colour.tolist() if image.ndim == 3 else colour[:1].tolist()
        cv2.putText(
            written,
            word,
            (left, bottom),
            cv2.FONT_HERSHEY_DUPLEX,
            font,
            ink,
            max(1, round(factor)),
            cv2.LINE_AA,
        )
    return written


def _between(share: float, low: float, high: float) -> float:
    """A place between two borders; where they cross, in the middle of them."""
    return low + share * (high - low) if high > low else (low + high) / 2
