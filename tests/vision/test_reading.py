"""Image files: what is read has the pixels that a person would see; all else is refused by name."""

from __future__ import annotations

import importlib.util
import io
import os
import random
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders import JPEGLosslessSV1Decoder
from pydicom.pixels.processing import apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from imc_agents.errors import DataError
from imc_agents.models.images import data_url
from imc_agents.vision import reading
from imc_agents.vision.reading import content_of, inside, read_image

RED, GREEN, BLUE, BLACK, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF"}


def read(path: Path) -> np.ndarray:
    """Read the (rows, columns, 3) pixels, checking what holds for all pictures and that a server sees the same."""
    image = read_image(path)
    assert image.mode == "RGB"
    assert not image.info
    sent, kind = content_of(path)
    assert kind in {"png", "jpeg", "webp", "bmp"}
    seen = ImageOps.exif_transpose(Image.open(io.BytesIO(sent)))
    assert seen.mode in {"RGB", "L"}
    np.testing.assert_array_equal(np.asarray(seen.convert("RGB")), np.asarray(image))
    return np.asarray(image)


def grey(path: Path) -> list[list[int]]:
    pixels = read(path)
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0].tolist()


def refused(path: Path, words: str) -> str:
    with pytest.raises(DataError, match=words) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    with pytest.raises(DataError, match=words):
        content_of(path)
    return message


def photo(size: tuple[int, int] = (48, 32), seed: int = 0) -> Image.Image:
    """A smooth colour picture, so that lossy formats stay close."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def png(header: tuple[int, int, int, int], rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG from its width, height, bit depth and colour type, its filtered rows and chunks before them."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    parts = [(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *chunks, (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in (*parts, (b"IEND", b"")))


# Ordinary files.


@pytest.mark.parametrize(("suffix", "kind"), FORMATS.items())
@pytest.mark.parametrize("size", [(1, 1), (48, 32)])
def test_every_format_shows_its_picture(
    tmp_path: Path, suffix: str, kind: str, size: tuple[int, int]
) -> None:
    source = photo(size)
    path = tmp_path / f"a.{suffix}"
    source.save(path, kind, **({"quality": 95} if kind in {"JPEG", "WEBP"} else {}))
    pixels = read(path)
    assert pixels.shape == (size[1], size[0], 3)
    exact = kind in {"PNG", "BMP", "TIFF"}
    assert np.abs(pixels.astype(int) - np.asarray(source)).mean() <= (0 if exact else 6)


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (2, 2), RED).save(path, "PNG")
    assert read(path)[0, 0].tolist() == list(RED)


def test_the_working_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (2, 2), RED).save(tmp_path / "a.png")
    monkeypatch.chdir("/")
    assert read(tmp_path / "a.png")[0, 0].tolist() == list(RED)


def test_bits_palettes_and_other_colours_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1").save(tmp_path / "bit.png")
    assert grey(tmp_path / "bit.png") == [[0, 255]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([0, 1])
    for name in ("p.png", "p.gif", "p.bmp", "p.tif"):
        palette.save(tmp_path / name)
        assert read(tmp_path / name)[0].tolist() == [list(RED), list(BLUE)]
    for mode in ("CMYK", "YCbCr"):
        Image.new("RGB", (16, 16), (200, 40, 90)).convert(mode).save(tmp_path / "a.jpg", quality=95)
        assert np.abs(read(tmp_path / "a.jpg").astype(int) - (200, 40, 90)).max() <= 4, mode
    Image.new("LAB", (2, 2)).save(tmp_path / "lab.tif")
    refused(tmp_path / "lab.tif", "LAB are not supported; convert it to RGB")


# Bounds and damage.


def test_bombs_are_refused_from_their_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for side in (8200, 12_000, 20_000):  # above our bound, where Pillow warns, where Pillow refuses
        (tmp_path / "bomb.png").write_bytes(png((side, side, 8, 2), b""))
        assert f"{64 * 2**20:,} pixels" in refused(tmp_path / "bomb.png", "pixels; make it smaller")


def test_a_strip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    Image.new("L", (200, 1)).save(path)
    assert read_image(path).size == (200, 1)
    for size in ((201, 1), (1, 4_000_000)):
        Image.new("L", size).save(path)
        assert f"{size[0]}x{size[1]}, a strip" in refused(path, "crop it to less than 200:1")
    scan(tmp_path / "strip.dcm", np.zeros((1, 201), np.uint8))
    refused(tmp_path / "strip.dcm", "the image is 201x1, a strip")


def test_the_bound_on_pixels_can_be_lowered(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo((20, 5)).save(path)
    assert read_image(path, max_pixels=100).size == (20, 5)
    with pytest.raises(DataError, match="more than 99 pixels"):
        read_image(path, max_pixels=99)
    scan(tmp_path / "a.dcm", np.zeros((20, 5), np.uint8))
    assert read_image(tmp_path / "a.dcm", max_pixels=100).size == (5, 20)
    with pytest.raises(DataError, match="more than 99 pixels"):
        read_image(tmp_path / "a.dcm", max_pixels=99)


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    photo().save(path)
    os.truncate(path, 32 * 2**20)
    assert read_image(path).size == (48, 32)
    os.truncate(path, 32 * 2**20 + 1)
    refused(path, "larger than 32 MiB")
    dicom = scan(tmp_path / "large.dcm", np.full((6000, 6000), 7, np.uint8), BitsStored=8)
    assert dicom.stat().st_size > 32 * 2**20
    assert read_image(dicom).size == (6000, 6000)
    monkeypatch.setattr(reading, "_MOST_DICOM_BYTES", 33 * 2**20)
    refused(dicom, "larger than 33 MiB")


@pytest.mark.parametrize(("suffix", "kind"), FORMATS.items())
def test_a_truncated_file_is_refused_or_whole(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a.{suffix}"
    photo((64, 64)).save(path, kind)
    whole, pixels = path.read_bytes(), read(path)
    cuts = {*range(1, len(whole), max(1, len(whole) // 60)), *range(len(whole) - 12, len(whole))}
    refusals = 0
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        try:
            got = np.asarray(read_image(path))
        except DataError:
            refusals += 1
        else:
            np.testing.assert_array_equal(got, pixels, err_msg=f"cut at {cut} of {len(whole)}")
    assert refusals >= len(cuts) - 12


@pytest.mark.parametrize("suffix", [*FORMATS, "dcm"])
def test_a_damaged_file_has_no_error_but_ours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "dcm":
        scan(path, np.arange(64, dtype=np.uint8).reshape(8, 8), WindowCenter=30, WindowWidth=20)
    else:
        photo((16, 16)).save(path, FORMATS[suffix])
    whole = bytearray(path.read_bytes())
    chance = random.Random(7)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 4))):
            damaged[chance.randrange(min(len(damaged), 900))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path, max_pixels=2**20).mode == "RGB"
        except DataError:
            continue


def test_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    content = bytearray(png((2, 1, 8, 0), b"\0\x10\x20"))
    content[-13] ^= 1  # the last byte of the checksum of the pixels
    path.write_bytes(content)
    refused(path, "damaged")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"%PDF-1.7 ...", "convert it to PNG or JPEG"),
        (b"<svg/>", "no image"),
        (b"BM", "no image"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refused(path, words)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path, "a folder; name an image file")
    refused(tmp_path / "gone.png", "No such file or directory")
    refused(tmp_path / "a\0.png", "cannot be read")
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "no regular file")
    refused(Path("/dev/zero"), "no regular file")


# Frames and orientation.


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_several_frames_are_counted_and_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    frames = [photo(seed=seed) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    refused(path, "has 3 frames; extract the one that is meant")


def test_the_picture_that_all_viewers_show_is_taken_of_a_jpeg_with_previews(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 16), RED).save(
        path, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)]
    )
    assert read(path).shape == (16, 16, 3)
    assert np.abs(read(path)[0, 0].astype(int) - RED).max() <= 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (0, 0)), (2, (0, 1)), (3, (1, 1)), (4, (1, 0)), (6, (0, 1)), (8, (1, 0))]
)
def test_images_are_turned_upright(
    tmp_path: Path, suffix: str, orientation: int, corner: tuple[int, int]
) -> None:
    """The corner that is stored top left appears where the orientation says."""
    image = Image.new("RGB", (64, 32), WHITE)
    image.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    image.save(path, exif=exif)
    pixels = read(path)
    assert pixels.shape == ((64, 32, 3) if orientation > 4 else (32, 64, 3))
    corners = {
        (row, column): pixels[-6 if row else 5, -6 if column else 5] for row in (0, 1) for column in (0, 1)
    }
    reddest = min(corners, key=lambda key: int(corners[key][1]))
    assert reddest == corner
    assert corners[corner][1] < 40


def test_an_unreadable_exif_block_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 16), RED).save(path, exif=b"Exif\0\0no such thing")
    assert np.abs(read(path)[0, 0].astype(int) - RED).max() <= 3


# Depths.


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_16_bit_ramp_is_an_8_bit_ramp(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    ramp = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(path)
    got = np.array(grey(path)).ravel()
    assert (np.diff(got) >= 0).all()
    assert sorted(set(got.tolist())) == list(range(256))
    np.testing.assert_array_equal(got, np.rint(ramp.ravel() / 257))
    dark = np.array([[0, 257, 514]], dtype=np.uint16)  # by the depth, not by what the image uses
    Image.fromarray(dark).save(path)
    assert grey(path) == [[0, 1, 2]]


def test_16_bit_colours_keep_their_high_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(
        png((2, 1, 16, 2), b"\0" + struct.pack(">6H", 0xFFFF, 0x8012, 0, 0x0100, 0x00FF, 0x7FFF))
    )
    assert read(path)[0].tolist() == [[255, 128, 0], [1, 0, 127]]
    path.write_bytes(png((1, 1, 16, 2), bytes(7), (b"tRNS", bytes(6))))
    refused(path, "save it with 8 bits")


def test_low_bit_greys_are_spread(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png((4, 1, 2, 0), b"\0\x1b"))
    assert grey(path) == [[0, 85, 170, 255]]
    path.write_bytes(png((4, 1, 2, 0), b"\0\x1b", (b"tRNS", b"\0\1")))
    assert grey(path) == [[0, 255, 170, 255]]


def test_floating_point_and_signed_values_are_stretched(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[-0.5, 0.0, 0.5, 1.5]], dtype=np.float32)).save(path)
    assert grey(path) == [[0, 64, 128, 255]]
    Image.fromarray(np.array([[-1000, 0, 1000]], dtype=np.int32)).save(path)
    assert grey(path) == [[0, 128, 255]]
    Image.fromarray(np.full((1, 2), 3.5, dtype=np.float32)).save(path)
    assert grey(path) == [[0, 0]]
    for bad in (np.nan, np.inf, -np.inf):
        Image.fromarray(np.array([[0, bad]], dtype=np.float32)).save(path)
        refused(path, "not finite")


def tiff(values: np.ndarray, photometric: int, bits: int | None = None) -> bytes:
    """A little-endian grey TIFF of one row."""
    content = values.tobytes()
    tags = [
        (256, values.size if bits is None else values.size * 8 // bits),
        (257, 1),
        (258, bits or values.dtype.itemsize * 8),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, len(content)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(content))
        + content
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def test_tiffs_of_other_kinds_keep_their_meaning(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(np.array([0, 65535], "<u2"), 0))
    assert grey(path) == [[255, 0]]  # white is zero
    path.write_bytes(tiff(np.array([0, 2**31, 2**32 - 1], "<u4"), 1))
    assert grey(path) == [[0, 128, 255]]  # unsigned
    path.write_bytes(tiff(np.array([0x00, 0x0F, 0xFF], "u1"), 1, bits=12))
    assert grey(path) == [[0, 255]]  # 12 bits, packed


# Transparency.


def vllm_image_module() -> Any:
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        pytest.skip("needs vLLM")
    spec = importlib.util.spec_from_file_location(
        "image", Path(package.origin).parent / "multimodal" / "image.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def transparent() -> Image.Image:
    image = photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def test_transparency_is_put_on_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.new("RGBA", (3, 1))
    image.putdata([(*RED, 255), (*RED, 0), (0, 0, 0, 51)])
    for name in ("a.png", "a.tif"):
        image.save(tmp_path / name)
        assert read(tmp_path / name)[0].tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]
    image.convert("LA").save(path)
    assert grey(path) == [[76, 255, 204]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([0, 1])
    for name in ("p.png", "p.gif"):
        palette.save(tmp_path / name, transparency=1)
        assert read(tmp_path / name)[0].tolist() == [list(RED), list(WHITE)]
    Image.fromarray(np.array([[RED, BLUE]], dtype=np.uint8)).save(path, transparency=RED)
    assert read(path)[0].tolist() == [list(WHITE), list(BLUE)]
    Image.fromarray(np.array([[0, 513]], dtype=np.uint16)).save(path, transparency=513)
    assert grey(path) == [[0, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_has_the_pixels_of_vllm(tmp_path: Path, mode: str) -> None:
    module = vllm_image_module()
    path = tmp_path / "a.png"
    (transparent().quantize(16) if mode == "P" else transparent().convert(mode)).save(path)
    expected = module.convert_image_mode(module.normalize_image(module.open_image(path)), "RGB")
    np.testing.assert_array_equal(read(path), np.asarray(expected))


# DICOM.


def scan(
    path: Path,
    pixels: np.ndarray | bytes,
    kind: str = "MONOCHROME2",
    syntax: str = ExplicitVRLittleEndian,
    **fields: Any,
) -> Path:
    """Write a DICOM file of the pixels, (rows, columns) or (rows, columns, 3), with further elements."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PhotometricInterpretation = kind
    dataset.SamplesPerPixel = 1
    dataset.BitsAllocated = 8
    dataset.PixelRepresentation = 0
    if isinstance(pixels, np.ndarray):
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.BitsAllocated = pixels.dtype.itemsize * 8
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        if pixels.ndim == 3:
            dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        pixels = pixels.tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    for name, value in fields.items():
        if isinstance(value, DataElement):
            dataset.add(value)
        else:
            setattr(dataset, name, value)
    dataset.BitsStored = fields.get("BitsStored", dataset.BitsAllocated)
    dataset.HighBit = dataset.BitsStored - 1
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    if dataset.file_meta.TransferSyntaxUID.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def dcm(tmp_path: Path) -> Path:
    return tmp_path / "a.dcm"


def test_without_a_window_a_scan_goes_from_its_minimum_to_its_maximum(dcm: Path) -> None:
    scan(dcm, np.array([[100, 150, 200]], np.uint16))
    assert grey(dcm) == [[0, 128, 255]]
    scan(dcm, np.array([[-100, 0, 100]], np.int16))
    assert grey(dcm) == [[0, 128, 255]]
    scan(dcm, np.array([[7]], np.uint8))
    assert grey(dcm) == [[0]]


def test_dicom_is_found_by_its_preamble_or_its_suffix(tmp_path: Path) -> None:
    assert grey(scan(tmp_path / "IM00001", np.array([[0, 1]], np.uint8))) == [[0, 255]]
    (tmp_path / "junk.dcm").write_bytes(b"junk" * 100)
    refused(tmp_path / "junk.dcm", "no DICM preamble")
    photo().save(tmp_path / "b.DCM", "PNG")
    refused(tmp_path / "b.DCM", "name it by what it is")


def test_monochrome1_is_inverted(dcm: Path) -> None:
    scan(dcm, np.array([[0, 50, 100]], np.uint8), "MONOCHROME1")
    assert grey(dcm) == [[255, 128, 0]]
    scan(dcm, np.array([[0, 40, 60, 100]], np.uint8), "MONOCHROME1", WindowCenter=50, WindowWidth=10)
    assert grey(dcm) == [[255, 255, 0, 0]]


def test_a_window_is_of_hounsfield_units_and_clips(dcm: Path) -> None:
    stored = np.array([[0, 864, 1064, 1264, 4000]], np.uint16)  # -1024, -160, 40, 240, 2976
    scan(dcm, stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    assert grey(dcm) == [[0, 0, 128, 255, 255]]
    scan(dcm, stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[2976, 40], WindowWidth=[2, 400])
    assert grey(dcm) == [[0, 0, 0, 0, 255]]  # the first of several


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_windows_are_those_of_pydicom(dcm: Path, function: str | None, rescaled: bool, signed: bool) -> None:
    stored = np.arange(0, 4096, 16, dtype=np.int16 if signed else np.uint16).reshape(16, 16) - 2048 * signed
    fields = {"WindowCenter": 500.5, "WindowWidth": 700} | ({"VOILUTFunction": function} if function else {})
    if rescaled:
        fields |= {"RescaleSlope": 2, "RescaleIntercept": -100}
    scan(dcm, stored, BitsStored=12, **fields)
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = (
        "MONOCHROME2",
        12,
        int(signed),
    )
    for name, value in fields.items():
        setattr(dataset, name, value)
    low, high = (-2048, 2047) if signed else (0, 4095)
    slope, intercept = (2, -100) if rescaled else (1, 0)
    expected = apply_windowing(stored * float(slope) + intercept, dataset)
    low, high = low * slope + intercept, high * slope + intercept
    expected = (expected - low) / (high - low) * 255
    got = np.array(grey(dcm))
    assert np.abs(got - expected).max() <= 0.5 + 1e-6
    assert got.max() - got.min() > 200


def test_a_window_of_width_one_is_a_threshold_and_odd_ones_are_refused(dcm: Path) -> None:
    stored = np.array([[9, 10, 11]], np.uint8)
    scan(dcm, stored, WindowCenter=10.5, WindowWidth=1)
    assert grey(dcm) == [[0, 0, 255]]
    scan(dcm, stored, WindowCenter=10, WindowWidth=0)
    refused(dcm, "0 wide; correct or remove WindowWidth")
    scan(dcm, stored, WindowCenter=10, WindowWidth=4, VOILUTFunction="CUBIC")
    refused(dcm, "CUBIC is not known")
    scan(dcm, stored, WindowCenter=None, WindowWidth=None)
    assert grey(dcm) == [[0, 128, 255]]


def test_padding_does_not_count(dcm: Path) -> None:
    stored = np.array([[-2000, 0, 50, 100]], np.int16)
    scan(dcm, stored, PixelPaddingValue=-2000)
    assert grey(dcm) == [[0, 0, 128, 255]]
    scan(
        dcm,
        np.array([[-2000, -1990, 0, 50, 100]], np.int16),
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=-1990,
    )
    assert grey(dcm) == [[0, 0, 0, 128, 255]]
    scan(
        dcm, stored, PixelPaddingValue=DataElement(0x00280120, "US", 63536)
    )  # a common slip: -2000 as unsigned
    assert grey(dcm) == [[0, 0, 128, 255]]
    scan(dcm, np.full((1, 2), -2000, np.int16), PixelPaddingValue=-2000)
    assert grey(dcm) == [[0, 0]]


def lookup(table: list[int], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(table), first, bits]
    item.LUTData = np.array(table, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


def test_lookup_tables_come_before_windows(dcm: Path) -> None:
    stored = np.array([[9, 10, 11, 12, 13]], np.uint16)
    tables = Sequence([lookup([4095, 2048, 0], 10, 12)])
    scan(
        dcm, stored, VOILUTSequence=tables, WindowCenter=9, WindowWidth=2, RescaleSlope=1, RescaleIntercept=0
    )
    assert grey(dcm) == [[255, 255, 128, 0, 0]]
    scan(dcm, stored, VOILUTSequence=Sequence([lookup([5000, 0], 10, 12)]))
    refused(dcm, "exceeds its own bit depth")
    scan(dcm, stored, ModalityLUTSequence=Sequence([lookup([0, 10, 40], 10, 16)]))
    assert grey(dcm) == [[0, 0, 64, 255, 255]]


def test_the_window_of_an_enhanced_object_is_in_its_groups(dcm: Path) -> None:
    transform, window, group = Dataset(), Dataset(), Dataset()
    transform.RescaleSlope, transform.RescaleIntercept = 1, -1024
    window.WindowCenter, window.WindowWidth = 40, 400
    group.PixelValueTransformationSequence = Sequence([transform])
    group.FrameVOILUTSequence = Sequence([window])
    stored = np.array([[0, 864, 1064, 1264, 4000]], np.uint16)
    scan(dcm, stored, NumberOfFrames=1, SharedFunctionalGroupsSequence=Sequence([group]))
    assert grey(dcm) == [[0, 0, 128, 255, 255]]


def test_floating_point_pixels(dcm: Path) -> None:
    for values, wanted in (([0.25, 0.5, 1.25], [[0, 64, 255]]), ([0.0, np.nan, 1.0], None)):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.BitsAllocated = 1, 3, 1, 32
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.FloatPixelData = np.array(values, "<f4").tobytes()
        dataset.save_as(dcm, enforce_file_format=True)
        if wanted is None:
            refused(dcm, "not finite")
        else:
            assert grey(dcm) == wanted


COLOURS = np.array([[RED, GREEN], [BLUE, (200, 40, 90)]], np.uint8)


def test_colours_of_dicom(dcm: Path) -> None:
    scan(dcm, COLOURS, "RGB")
    np.testing.assert_array_equal(read(dcm), COLOURS)
    planes = np.ascontiguousarray(COLOURS.transpose(2, 0, 1)).tobytes()
    scan(dcm, planes, "RGB", SamplesPerPixel=3, PlanarConfiguration=1, Rows=2, Columns=2)
    np.testing.assert_array_equal(read(dcm), COLOURS)
    scan(dcm, COLOURS.astype(np.uint16) * 257, "RGB")
    np.testing.assert_array_equal(read(dcm), COLOURS)
    ybr = np.asarray(Image.fromarray(COLOURS).convert("YCbCr"))
    scan(dcm, ybr, "YBR_FULL")
    assert np.abs(read(dcm).astype(int) - COLOURS).max() <= 2
    pairs = np.repeat(ybr[:, :1], 2, axis=1)  # two equal neighbours share their chroma
    halved = np.stack([pairs[:, 0, 0], pairs[:, 1, 0], pairs[:, 0, 1], pairs[:, 0, 2]], axis=1).tobytes()
    scan(dcm, halved, "YBR_FULL_422", SamplesPerPixel=3, PlanarConfiguration=0, Rows=2, Columns=2)
    assert np.abs(read(dcm).astype(int) - np.repeat(COLOURS[:, :1], 2, axis=1)).max() <= 2
    scan(dcm, COLOURS, "HSV")
    refused(dcm, "interpretation HSV is not supported")


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_of_dicom(dcm: Path, bits: int) -> None:
    table = np.array([RED, GREEN, BLUE, (200, 40, 90)]) * (257 if bits == 16 else 1)
    fields: dict[str, Any] = {}
    for name, channel in zip(("Red", "Green", "Blue"), table.T, strict=True):
        fields[f"{name}PaletteColorLookupTableDescriptor"] = [4, 10, bits]
        fields[f"{name}PaletteColorLookupTableData"] = channel.astype(f"<u{bits // 8}").tobytes()
    scan(dcm, np.array([[10, 11], [12, 13]], np.uint8), "PALETTE COLOR", **fields)
    np.testing.assert_array_equal(read(dcm), COLOURS)
    scan(dcm, np.array([[0, 11], [12, 266]], np.uint16), "PALETTE COLOR", **fields)
    np.testing.assert_array_equal(read(dcm), COLOURS)  # beyond the ends the first and the last entry hold


def test_compressed_dicom(dcm: Path) -> None:
    source = photo((32, 32))
    for syntax, kind, options in (
        (JPEGBaseline8Bit, "YBR_FULL_422", {"format": "JPEG", "quality": 95}),
        (JPEG2000Lossless, "YBR_RCT", {"format": "JPEG2000", "no_jp2": True, "mct": 1}),
    ):
        stream = io.BytesIO()
        source.save(stream, **options)
        fields = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "Rows": 32, "Columns": 32}
        scan(dcm, encapsulate([stream.getvalue()]), kind, syntax, **fields)
        assert np.abs(read(dcm).astype(int) - np.asarray(source)).mean() <= 6, kind
    dataset_path = scan(dcm, np.array([[100, 150, 200]], np.uint16))
    dataset = dcmread(dataset_path)
    dataset.compress(RLELossless)
    dataset.save_as(dcm)
    assert grey(dcm) == [[0, 128, 255]]


def test_a_compression_without_a_decoder_is_named_with_its_cure(dcm: Path) -> None:
    scan(dcm, encapsulate([b"\xff\xd8 lossless \xff\xd9"]), syntax=JPEGLosslessSV1, Rows=1, Columns=2)
    if not JPEGLosslessSV1Decoder.is_available:
        refused(dcm, r"no decoder .* JPEG Lossless.*; install pylibjpeg .* gdcm .* or save it uncompressed")
    scan(dcm, encapsulate([b"\xff\xd8 damaged \xff\xd9"]), syntax=JPEGBaseline8Bit, Rows=1, Columns=2)
    refused(dcm, r"its pixels \(JPEG Baseline .* cannot be decoded")
    scan(dcm, encapsulate([b"film"]), syntax="1.2.840.10008.1.2.4.102", Rows=1, Columns=2)
    refused(dcm, "transfer syntax MPEG-4.* is not supported")
    scan(dcm, np.zeros((1, 2), np.uint8), syntax=DeflatedExplicitVRLittleEndian)
    refused(dcm, "Deflated Explicit VR Little Endian is not supported; save it uncompressed")


def test_what_dicom_does_not_show_is_refused(dcm: Path) -> None:
    scan(dcm, np.zeros((4, 2), np.uint8), Rows=2, NumberOfFrames=2)
    refused(dcm, "has 2 frames; extract the one that is meant")
    scan(dcm, np.zeros((1, 2), np.uint8), Rows=60_000, Columns=60_000)
    refused(dcm, "more than 67,108,864 pixels")
    scan(dcm, np.zeros((1, 2), np.uint8), Rows=20, Columns=20)
    refused(dcm, re.escape("its pixels (Explicit VR Little Endian) cannot be decoded"))
    whole = scan(dcm, np.arange(256, dtype=np.uint8).reshape(16, 16)).read_bytes()
    dcm.write_bytes(whole[:-300])
    refused(dcm, "no pixels, or is cut off")
    for cut in range(1, len(whole), 7):
        dcm.write_bytes(whole[:cut])
        refused(dcm, "DICOM|decoded")


# Around the reading.


@pytest.mark.parametrize(
    "name", ["a.png", "sub/a.png", "sub/../a.png", "./a.png", "not there.png", "ä b.png"]
)
def test_paths_within_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    found = inside(folder, name)
    assert found == (folder / name).resolve()
    (tmp_path / "link").symlink_to(folder)
    assert inside(tmp_path / "link", name) == found


def test_paths_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    folder, other = tmp_path / "data", tmp_path / "data-2"
    folder.mkdir()
    other.mkdir()
    (other / "a.png").touch()
    (folder / "inner.png").touch()
    (folder / "out").symlink_to(other)
    (folder / "a.png").symlink_to(other / "a.png")
    (folder / "fine.png").symlink_to(folder / "inner.png")
    absolute = (str(other / "a.png"), str(folder / "inner.png"), "/etc/passwd")
    for name in ("../data-2/a.png", "..", "out/a.png", "a.png", "sub/../../x.png", *absolute):
        with pytest.raises(DataError, match="leads out of") as caught:
            inside(folder, name)
        assert repr(name) in str(caught.value)
    assert inside(folder, "fine.png") == folder / "inner.png"
    (folder / "loop").symlink_to(folder / "loop")
    for name in ("", ".", "a\0b.png", "\ud800.png"):
        with pytest.raises(DataError, match="correct it"):
            inside(folder, name)


def test_plain_files_are_sent_as_they_are_and_others_as_png(tmp_path: Path) -> None:
    for suffix, kind in (("png", "png"), ("jpg", "jpeg"), ("webp", "webp"), ("bmp", "bmp")):
        path = tmp_path / f"a.{suffix}"
        photo().save(path)
        assert content_of(path) == (path.read_bytes(), kind)
        assert data_url(path).startswith(f"data:image/{kind};base64,")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().save(tmp_path / "turned.jpg", exif=exif)
    photo().save(tmp_path / "a.gif")
    transparent().save(tmp_path / "alpha.webp")
    scan(tmp_path / "a.dcm", np.zeros((2, 2), np.uint8))
    (tmp_path / "deep.png").write_bytes(png((1, 1, 16, 2), bytes(7)))
    for name in ("turned.jpg", "a.gif", "alpha.webp", "a.dcm", "deep.png"):
        sent, kind = content_of(tmp_path / name)
        assert kind == "png"
        assert sent != (tmp_path / name).read_bytes()
        assert sent.startswith(b"\x89PNG")


def test_threads_leave_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo((300, 300)).save(path)
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [read_image(path) for _ in range(10)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
