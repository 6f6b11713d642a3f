"""Image files on their way to a server: whole, of a known kind, and bounded."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from imc_agents.errors import DataError
from imc_agents.models.images import data_url
from imc_agents.vision.reading import read_image

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.png"
    PIL.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def test_a_file_travels_byte_for_byte(scan: Path) -> None:
    head, _, content = data_url(scan).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content) == scan.read_bytes()


@pytest.mark.parametrize(("suffix", "kind"), [("jpg", "jpeg"), ("webp", "webp"), ("bmp", "bmp")])
def test_the_kind_is_that_of_the_content(scan: Path, suffix: str, kind: str) -> None:
    other = scan.with_suffix(f".{suffix}")
    PIL.open(scan).convert("RGB").save(other)
    renamed = other.rename(scan.with_name("whatever.png"))
    assert data_url(renamed).startswith(f"data:image/{kind};")


def test_what_servers_show_differently_is_sent_decoded(scan: Path) -> None:
    other = scan.with_suffix(".gif")
    PIL.open(scan).convert("P").save(other)
    assert data_url(other).startswith("data:image/png;")


def test_grey_images_become_rgb(scan: Path) -> None:
    image = read_image(scan)
    assert (image.mode, image.size) == ("RGB", (8, 8))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"%PDF-1.7", "convert it to PNG or JPEG"), (b"\x89PNG\r\n\x1a\nrest", "damaged")],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_files_and_pixels_are_bounded(tmp_path: Path, scan: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as stream:
        stream.write(scan.read_bytes())
        stream.truncate(33 * 2**20)
    with pytest.raises(DataError, match="larger than 32 MiB"):
        data_url(large)
    # A bomb: a small file that unfolds to 100 million pixels.
    bomb = tmp_path / "bomb.png"
    PIL.new("1", (10_000, 10_000)).save(bomb)
    with pytest.raises(DataError, match="pixels"):
        read_image(bomb)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        data_url(tmp_path / "gone.png")
