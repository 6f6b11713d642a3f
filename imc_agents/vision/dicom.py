"""DICOM files as a radiologist's screen would show them: modality transform, window, photometric interpretation."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the types that pydicom ships are partial)

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["check_shape", "is_dicom", "read_dicom"]

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GREYS = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_LONGEST = 200
_CURE = "install pylibjpeg with its codecs or gdcm (pip install 'pylibjpeg[all]'), or save it uncompressed"


def is_dicom(path: Path, content: bytes) -> bool:
    """Whether a file says that it is DICOM, by its preamble or by its suffix."""
    return content[128:132] == b"DICM" or path.suffix.lower() == ".dcm"


def read_dicom(path: Path, content: bytes, max_pixels: int) -> Image.Image:
    """Read a DICOM file with one frame as a Pillow image in RGB.

    Grey values go through the modality transform, then through the first VOI look-up table or else the first window
    (linear, linear exact or sigmoid); without both from their minimum to their maximum, padding left out. MONOCHROME1
    is inverted. Overlays are not drawn, presentation states not heeded. The caller silences the warnings of pydicom.

    Args:
        path: For errors.
        content: The file.
        max_pixels: Refused above it, before anything is decoded.

    Raises:
        DataError: no DICOM, damaged, no pixels, several frames, too many pixels, or a compression without a decoder.
    """
    import numpy as np
    from PIL import Image

    try:
        found = _parsed(path, content)
        kind = _checked(path, found, max_pixels)
        decoder = _decoder(path, found)
        try:
            stored, described = decoder.as_array(found, index=0)
        except Exception as error:
            cure = "write it again" if decoder.is_native else f"write it again, or {_CURE}"
            raise DataError(
                f"{path}: its pixels ({decoder.UID.name}) cannot be decoded ({_line(error)}); {cure}"
            ) from error
        if kind in _GREYS:
            shown = _shown(path, found, stored)
            shown = 1.0 - shown if kind == "MONOCHROME1" else shown
        elif kind == "PALETTE COLOR":
            shown = _coloured(found, stored)
        elif described["photometric_interpretation"] == "RGB":
            shown = stored / (2.0 ** int(found.BitsStored) - 1)
        else:
            raise DataError(f"{path}: its {kind} colours cannot be converted; save it as RGB")
        return Image.fromarray(np.rint(np.clip(shown, 0, 1) * 255).astype("uint8")).convert("RGB")
    except DataError:
        raise
    except Exception as error:  # what pydicom raises at damaged files is not bounded
        raise DataError(f"{path}: the DICOM file is damaged ({_line(error)}); write it again") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _parsed(path: Path, content: bytes) -> Any:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    stream = io.BytesIO(content)
    try:
        read_preamble(stream, False)
    except InvalidDicomError as error:
        problem = "no DICOM file (it has no DICM preamble); name it by what it is, or save it with a preamble"
        raise DataError(f"{path}: {problem}") from error
    # pydicom inflates such a file whole, whatever size it unfolds to.
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise DataError(
            f"{path}: {DeflatedExplicitVRLittleEndian.name} is not supported; save it uncompressed"
        )
    stream.seek(0)
    return dcmread(stream)


def check_shape(path: Path, width: int, height: int) -> None:
    """Refuse a strip: scaled to an encoder's size by its shorter side, it would fill the memory.

    Raises:
        DataError: one side is more than 200 times the other, which is also where Qwen's image processors stop.
    """
    if max(width, height) > _LONGEST * max(1, min(width, height)):
        raise DataError(
            f"{path}: the image is {width}x{height}, a strip that no encoder can read; crop it to less than "
            f"{_LONGEST}:1"
        )


def _checked(path: Path, found: Any, max_pixels: int) -> str:
    """Check what the header says of the picture; return the photometric interpretation."""
    if not any(name in found for name in _PIXELS):
        raise DataError(f"{path}: the DICOM file holds no pixels, or is cut off; name a file of an image")
    rows, columns, kind = int(found.Rows), int(found.Columns), str(found.PhotometricInterpretation)
    if rows * columns > max_pixels:
        raise DataError(f"{path}: the image has more than {max_pixels:,} pixels; make it smaller")
    check_shape(path, columns, rows)
    frames = int(found.get("NumberOfFrames") or 1)
    if frames > 1:
        raise DataError(f"{path}: the image has {frames} frames; extract the one that is meant")
    if kind not in (*_GREYS, *_COLOURS):
        raise DataError(f"{path}: the photometric interpretation {kind} is not supported; save it as RGB")
    return kind


def _decoder(path: Path, found: Any) -> Any:
    from pydicom.pixels.decoders.base import get_decoder

    syntax = found.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise DataError(f"{path}: the DICOM file names no transfer syntax; save it with one")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise DataError(
            f"{path}: the transfer syntax {syntax.name} is not supported; convert it to PNG"
        ) from error
    if not decoder.is_available:
        raise DataError(f"{path}: no decoder for the transfer syntax {syntax.name}; {_CURE}")
    return decoder


def _shown(path: Path, found: Any, stored: Any) -> Any:
    """Grey values as displayed, from 0 to 1 (beyond where a window clips), before MONOCHROME1 is inverted."""
    import numpy as np
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    # In enhanced objects the transforms are in groups of the frame or of all frames.
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (found.get(sequence) or ())[:1]:
            for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (group.get(name) or ())[:1]:
                    found.update(item)
    integer = stored.dtype.kind in "iub"
    values = apply_modality_lut(stored.astype("int64") if integer else stored, found).astype("float64")
    if not np.isfinite(values).all():
        raise DataError(f"{path}: the image holds values that are not finite; replace them")
    if found.get("VOILUTSequence"):
        looked_up = apply_voi(np.rint(values).astype("int64"), found)
        highest = 2 ** int(found.VOILUTSequence[0].LUTDescriptor[2]) - 1
        if looked_up.max() > highest:
            raise DataError(f"{path}: its VOI look-up table exceeds its own bit depth; remove or correct it")
        return looked_up / highest
    centre, width = _first(found.get("WindowCenter")), _first(found.get("WindowWidth"))
    if centre is not None and width is not None:
        return _windowed(path, values, centre, width, str(found.get("VOILUTFunction") or "LINEAR"))
    real = values[~_padding(found, stored)] if integer else values
    real = real if real.size else values
    low, high = float(real.min()), float(real.max())
    return (values - low) / ((high - low) or 1)


def _first(value: Any) -> float | None:
    from pydicom.multival import MultiValue

    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value in (None, "") else float(value)


def _windowed(path: Path, values: Any, centre: float, width: float, function: str) -> Any:
    """The VOI LUT functions of the standard (PS3.3 C.11.2.1.2 and C.11.2.1.3), with an output from 0 to 1."""
    import numpy as np

    if width <= 0 or (width < 1 and function == "LINEAR"):
        raise DataError(f"{path}: its window is {width:g} wide; correct or remove WindowWidth")
    if function == "LINEAR":
        middle = centre - 0.5
        return values > middle if width == 1 else (values - middle) / (width - 1) + 0.5
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500)))
    raise DataError(f"{path}: the VOI LUT function {function} is not known; correct or remove it")


def _padding(found: Any, stored: Any) -> Any:
    """Which pixels are padding (boolean, of the shape of ``stored``)."""
    import numpy as np

    value = found.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = found.get("PixelPaddingRangeLimit")
    # Files give negative values as unsigned ones and the reverse: both wrap to the type of the pixels.
    ends = np.array([value, value if limit is None else limit]).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def _coloured(found: Any, stored: Any) -> Any:
    """RGB from 0 to 1 of indices into a palette."""
    import numpy as np
    from pydicom.pixels.processing import apply_color_lut

    entries, first, bits = (int(value) for value in found.RedPaletteColorLookupTableDescriptor)
    last = first + (entries or 2**16) - 1
    colours = apply_color_lut(np.clip(stored.astype("int32"), first, last), found)[..., :3]
    if bits == 8 and colours.max() <= 255:  # also where 8-bit entries lie in 16 bits each
        return colours / 255
    return colours / (2.0 ** (8 * colours.dtype.itemsize) - 1)
