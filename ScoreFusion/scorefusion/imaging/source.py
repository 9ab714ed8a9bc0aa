"""A file as it is read: opened once, hashed from the very handle that is then decoded, and checked to its end.

The formats describe what lies in a file as `Described`: a header that has been checked, its voxels not yet read.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NoReturn

import numpy as np

from scorefusion.errors import VolumeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Packing = Literal["raw", "gzip", "bzip2", "zlib", "text", "hex"]
CHUNK = 1 << 20  # bytes
MOST_VOXELS = 1 << 30  # of one volume: 4 GiB as float32, and no scan has as many
MOST_BEHIND = 1 << 20  # bytes behind the voxels that are read over: some tools pad
LONGEST_HEADER = 1 << 20  # bytes
LONGEST_NAME = 360  # characters of a path in a message

DICOM_HINT = "Convert DICOM with `dcm2niix`, or load it in 3D Slicer and save the volume as .nii.gz or .nrrd."


@dataclass(frozen=True)
class Described:
    """What a header says.

    Attributes:
        sizes: of the axes in the order of the file, the fastest first.
        spatial: which three of them are axes in space, ascending.
        affine: float64 `(4, 4)`, index along the spatial axes to RAS millimetres.
        dtype: of a number in the file, byte order included.
        start: bytes in the file before the (packed) numbers; None = whatever lies before the last of them.
        packing: how the numbers are stored.
        prefix: unpacked bytes before the first number.
        voxels: the file they are in; None = the one with the header.
        slope, intercept: of the numbers, in the units of the volume.
        slice_axis: across the slices, if the header names one.
    """

    sizes: tuple[int, ...]
    spatial: tuple[int, int, int]
    affine: NDArray[np.float64] = field(repr=False)
    dtype: np.dtype
    start: int | None = 0
    packing: Packing = "raw"
    prefix: int = 0
    voxels: Path | None = None
    slope: float = 1.0
    intercept: float = 0.0
    slice_axis: int | None = None

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """`(I, J, K)`."""
        i, j, k = (self.sizes[axis] for axis in self.spatial)
        return i, j, k

    @property
    def frames(self) -> int:
        """Volumes in the file, or values of each voxel."""
        return int(np.prod(self.sizes, dtype=object)) // int(np.prod(self.spatial_shape, dtype=object))

    @property
    def interleaved(self) -> bool:
        """Whether the values of one voxel lie together."""
        return self.spatial[0] > 0


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """The file and its SHA-256. What is read inside is what was hashed, or VolumeError is raised."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            refuse(path, "is a folder, but a volume file was expected", DICOM_HINT)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe waits for a writer, perhaps for ever
            refuse(path, "is no regular file but a pipe or a device", "Copy what it gives to a file first.")
        stream = path.open("rb")
    except VolumeError:
        raise
    except FileNotFoundError:
        refuse(path, "does not exist", "Check the spelling and the folder.")
    except PermissionError:
        refuse(path, "may not be read by you", "Ask its owner for the right, or copy it.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        refuse(path, f"cannot be opened ({reason})", "Check the spelling and the folder.")
    with stream:
        before = os.fstat(stream.fileno())
        digest = hashlib.sha256()
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
        stream.seek(0)
        yield stream, digest.hexdigest()
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        refuse(path, "was changed while it was read", "Wait until it is complete, and try again.")


def read_voxels(path: Path, stream: BinaryIO, described: Described, frame: int = 0) -> NDArray[np.float32]:
    """One volume out of a file, `(I, J, K)` float32 in the units of the volume; checksums are verified.

    Args:
        path: names the file in messages.
        stream: the file with the voxels.
        described: its header.
        frame: which volume, or which value of each voxel.
    """
    count, size = int(np.prod(described.spatial_shape)), described.dtype.itemsize
    shape, at_once = described.spatial_shape, 1
    if described.interleaved:
        at_once, before = described.frames, 0
    else:
        before = frame * count
    total = count * described.frames
    try:
        if described.packing == "text":
            numbers = _numbers_in_words(stream, described, total)[before : before + count * at_once]
        else:
            span = (before * size, count * at_once * size, total * size)
            numbers = np.frombuffer(_bytes(stream, described, *span), described.dtype)
        data = numbers.reshape((at_once, *shape), order="F")[frame if described.interleaved else 0]
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            if (described.slope, described.intercept) != (1.0, 0.0):
                data = data * np.float64(described.slope) + described.intercept
            return np.ascontiguousarray(data, dtype=np.float32)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        refuse_damaged(path, error)


def unpacked_start(stream: BinaryIO, size: int, packing: Packing) -> bytes:
    """The first `size` bytes of a file's content, or as many as can be had."""
    try:
        return gzip.GzipFile(fileobj=stream).read(size) if packing == "gzip" else stream.read(size)
    except (OSError, EOFError, zlib.error):
        return b""


def _bytes(stream: BinaryIO, described: Described, skip: int, wanted: int, total: int) -> bytearray:
    """`wanted` bytes of the numbers behind the first `skip` of `total`; packed ones are read to their checksum."""
    if described.packing == "raw":
        size = stream.seek(0, os.SEEK_END)
        start = size - total if described.start is None else described.start
        if not 0 <= start <= size - total:
            msg = f"{total} bytes of voxels do not fit into {size} bytes of file"
            raise EOFError(msg)
        stream.seek(start + skip)
        return bytearray(stream.read(wanted))
    stream.seek(described.start or 0)
    if described.packing == "hex":
        return bytearray.fromhex(stream.read(3 * total).decode("ascii"))[skip : skip + wanted]
    data, passed = bytearray(), -described.prefix
    for chunk in _unpacked(stream, described):  # grows with what is there, not with what the header claims
        data += chunk[max(0, skip - passed) : max(0, skip + wanted - passed)]
        passed += len(chunk)
        if passed > total + MOST_BEHIND:
            msg = "more is packed than the header says"
            raise ValueError(msg)
    if passed < total:
        msg = f"{passed} bytes of voxels, not {total}"
        raise EOFError(msg)
    return data


def _unpacked(stream: BinaryIO, described: Described) -> Iterator[bytes]:
    """The content of a packed stream, to its very end, where the checksum is."""
    if described.packing in ("gzip", "bzip2"):
        with gzip.GzipFile(fileobj=stream) if described.packing == "gzip" else bz2.BZ2File(stream) as unpacked:
            while chunk := unpacked.read(CHUNK):
                yield chunk
        return
    unpacker, packed = zlib.decompressobj(), b""
    while not unpacker.eof:
        packed = unpacker.unconsumed_tail or stream.read(CHUNK)
        chunk = unpacker.decompress(packed, CHUNK)
        if not (packed or chunk or unpacker.eof):
            msg = "the packed voxels end too early"
            raise EOFError(msg)
        yield chunk


def _numbers_in_words(stream: BinaryIO, described: Described, total: int) -> NDArray[np.float64]:
    stream.seek(described.start or 0)
    words = stream.read(64 * total).replace(b",", b" ").split()
    if len(words) != total:
        msg = f"{len(words)} numbers, not {total}"
        raise ValueError(msg)
    return np.array([float(word) for word in words])


# ---- Words ----


def refuse(path: Path, what: str, fix: str, kind: type[VolumeError] = VolumeError) -> NoReturn:
    """Raise the error: what is wrong with this file, and what to do."""
    name = str(path)
    if len(name) > LONGEST_NAME:
        name = f"{name[:80]}...{name[-LONGEST_NAME + 80 :]}"
    msg = f"'{name}' {what}. {fix}"
    raise kind(msg)


def refuse_unplaced(path: Path, why: str) -> NoReturn:
    """The file does not say which side is left."""
    what = f"does not say how it lies in space ({why}), so left and right are unknown"
    refuse(path, what, "Load it in 3D Slicer, check left and right, and save it again.")


def refuse_header(path: Path, why: str) -> NoReturn:
    """The header makes no sense; `why` names the field."""
    refuse(path, f"has a damaged header: {why}", "Copy or export it again.")


def refuse_damaged(path: Path, error: Exception | None = None) -> NoReturn:
    """The library's or our own finding is kept as the cause; it would not help the reader of this message."""
    msg = f"'{path}' cannot be read: it is truncated, damaged or of another format. Copy or export it again."
    raise VolumeError(msg) from error


def decimal(text: str) -> float:
    """A number in a header. ValueError for what Python alone takes for one, such as `1_0` and `infinity`."""
    if not re.fullmatch(r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*", text, re.ASCII):
        msg = f"{short(text)} is no number"
        raise ValueError(msg)
    return float(text)


def short(text: object) -> str:
    """A value from a file for a message: quoted, without control characters, of bearable length."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:56]}..."
