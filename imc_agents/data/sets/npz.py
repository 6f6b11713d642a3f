"""Arrays in ``.npz`` files: looked at by their headers, mapped where they are stored plain, never unpickled."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_agents.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MOST_BYTES", "Member", "load_member", "members", "npz_keys"]

MOST_BYTES = 4 * 2**30
"""Largest array that is unpacked into memory; ones that are stored plain are mapped and may be larger."""

_LOCAL_HEADER = struct.Struct("<26x2H")
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class Member:
    """One array of a file, by its header.

    Attributes:
        name: The key.
        shape: Its shape.
        dtype: Its NumPy dtype; ``object`` ones hold pickled Python and are never read.
        fortran: Whether it is stored column by column.
        offset: Where its data begins in the file, or None where it is compressed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    fortran: bool
    offset: int | None


def members(path: Path) -> dict[str, Member]:
    """Return the arrays of a file by key, from their headers alone.

    Raises:
        UsageError: the file cannot be read, is no ``.npz``, or is damaged.
    """
    with _archive(path) as archive:
        return {
            info.filename.removesuffix(".npy"): _member(path, archive, info)
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }


def npz_keys(path: Path) -> frozenset[str]:
    """Return the keys of a file, or none where it is no ``.npz``."""
    if not path.is_file():  # a named pipe would be waited for
        return frozenset()
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return frozenset()


def load_member(path: Path, member: Member) -> NDArray[Any]:
    """Return an array: a read-only map of the file where it is stored plain, else unpacked into memory.

    Raises:
        UsageError: it holds Python objects, is damaged, or needs more than ``MOST_BYTES`` unpacked.
    """
    import numpy as np

    if member.dtype.hasobject:
        raise UsageError(
            f"{path}: {member.name} holds pickled Python objects, which can run code and are never loaded; "
            "save it as a plain array"
        )
    size = member.dtype.itemsize
    for side in member.shape:
        size *= side
    order = "F" if member.fortran else "C"
    if member.offset is not None and size:
        if member.offset + size > path.stat().st_size:
            raise UsageError(f"{path}: {member.name} is cut short; get the file again")
        return np.memmap(path, member.dtype, "r", member.offset, member.shape, order)
    if size > MOST_BYTES:
        raise UsageError(
            f"{path}: {member.name} needs {size / 2**30:.1f} GiB unpacked, at most {MOST_BYTES >> 30} are taken; "
            "save it uncompressed (numpy.savez), so that it is mapped"
        )
    values = bytearray(size)
    with _archive(path) as archive, archive.open(f"{member.name}.npy") as stream:
        _skip_header(path, member.name, stream)
        view, filled = memoryview(values), 0
        while filled < size and (block := stream.read(min(2**20, size - filled))):
            view[filled : filled + len(block)] = block
            filled += len(block)
    if filled < size:
        raise UsageError(f"{path}: {member.name} is cut short; get the file again")
    return np.frombuffer(values, member.dtype).reshape(member.shape, order=order)


@contextmanager
def _archive(path: Path) -> Generator[zipfile.ZipFile]:
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: no regular file; name an .npz file")
    try:
        with path.open("rb") as stream:
            start = stream.read(6)
        if start.startswith(b"\x93NUMPY"):
            raise UsageError(f"{path}: a single .npy array, no .npz; save images and labels with numpy.savez")
        if start[:1] == b"\x80" and not zipfile.is_zipfile(path):
            raise UsageError(
                f"{path}: a Python pickle, which can run code and is never loaded; save it with numpy.savez"
            )
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file; check the path") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path}: damaged, or no .npz file ({reason}); get it again") from error


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as stream:
        shape, fortran, dtype = _skip_header(path, name, stream)
        header = stream.tell()
    if any(side < 0 for side in shape):
        raise UsageError(f"{path}: {name} has the impossible shape {list(shape)}; get the file again")
    offset = None
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as raw:
            raw.seek(info.header_offset)
            name_length, extra_length = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
        offset = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length + header
    return Member(name, shape, dtype, fortran, offset)


def _skip_header(path: Path, name: str, stream: Any) -> tuple[tuple[int, ...], bool, Any]:
    import numpy as np

    npy: Any = np.lib.format
    try:
        old = npy.read_magic(stream) == (1, 0)
        return npy.read_array_header_1_0(stream) if old else npy.read_array_header_2_0(stream)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: {name} is no array of NumPy ({reason}); save it again") from error
