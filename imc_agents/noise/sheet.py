"""A contact sheet: an image as it is and with noises at all severities, one noise a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imc_agents.errors import UsageError
from imc_agents.noise.recipe import Recipe, Step, corrupt

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MOST_PIXELS", "draw_sheet"]

MOST_PIXELS = 50 * 10**6

_GAP = 6
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


def draw_sheet(image: Image.Image, title: str, recipe: Recipe, size: int, sample_id: str) -> Image.Image:
    """Return the sheet: a row for each noise, with the clean image first and then the severities.

    Args:
        image: RGB; brought to ``size`` before the noise, so that a cell shows the noise pixel by pixel.
        title: Stands above.
        recipe: The noises, all at the same severities.
        size: The longer side of a cell in pixels.
        sample_id: Id of the image.

    Raises:
        UsageError: the sheet would have more than ``MOST_PIXELS``.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    rows: dict[str, list[Step]] = {}
    for step in recipe.steps:
        rows.setdefault(step.name, []).append(step)
    severities = sorted({step.severity for step in recipe.steps})
    clean = _fitted(image, size)
    width, height = clean.width + _GAP, clean.height + _GAP
    letters = max(10, min(22, size // 12))
    font, large = ImageFont.load_default(letters), ImageFont.load_default(round(letters * 1.3))
    left = round(max(font.getlength(name) for name in rows)) + 3 * _GAP
    top = 4 * letters + _GAP
    columns = ["clean", *(f"severity {severity}" for severity in severities)]
    wide = max(left + len(columns) * width, round(large.getlength(title)) + 2 * _GAP)
    high = top + len(rows) * height
    if wide * high > MOST_PIXELS:
        raise UsageError(
            f"a sheet of {wide:,} x {high:,} pixels is too large; take a smaller --size or fewer --noises"
        )
    sheet = Image.new("RGB", (wide, high), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), title, _INK, large)
    for column, label in enumerate(columns):
        place = (left + column * width + clean.width / 2, top - letters // 2)
        pen.text(place, label, _INK, font, anchor="ms")
    array = np.asarray(clean)
    for row, (name, steps) in enumerate(rows.items()):
        y = top + row * height
        pen.text((left - 2 * _GAP, y + clean.height / 2), name, _INK, font, anchor="rm")
        sheet.paste(clean, (left, y))
        for column, step in enumerate(steps, start=1):
            noisy = corrupt(recipe, step, array, sample_id)
            sheet.paste(Image.fromarray(noisy), (left + column * width, y))
    return sheet


def _fitted(image: Image.Image, size: int) -> Image.Image:
    """Bring the longer side to ``size`` (bicubic), small images too."""
    from PIL import Image

    scale = size / max(image.size)
    wanted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if wanted == image.size else image.resize(wanted, Image.Resampling.BICUBIC)
