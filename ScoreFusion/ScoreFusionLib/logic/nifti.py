"""Volumes to and from uncompressed NIfTI-1 files, in small steps.

Slicer's own readers and writers do the whole file in one call, which for a large head blocks the GUI for some tenths
of a second. These generators move at most `STEP_BYTES` between two `yield`s. Voxels lie in a file as they lie in VTK's
memory (i fastest), so a step is a plain copy, and the affine is written as it is: RAS, sheared or flipped alike.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ScoreFusionLib.logic.errors import RunError

STEP_BYTES = 2 << 20
_HEADER_BYTES = 352  # 348 of header, 4 that say "no extension"
_CODES = {
    "uint8": 2,
    "int16": 4,
    "int32": 8,
    "float32": 16,
    "float64": 64,
    "int8": 256,
    "uint16": 512,
    "uint32": 768,
    "int64": 1024,
    "uint64": 1280,
}
_NAMES = {code: name for name, code in _CODES.items()}


@dataclass(frozen=True)
class NiftiHeader:
    """What a file says before its voxels.

    Attributes:
        spatial_shape: (I, J, K).
        dtype: Type and byte order of a stored voxel.
        affine: float64 (4, 4), voxel index to RAS mm.
        offset: Byte at which the voxels begin.
        slope, intercept: Stored value to value.
    """

    spatial_shape: tuple[int, int, int]
    dtype: np.dtype
    affine: NDArray[np.float64]
    offset: int
    slope: float
    intercept: float


def write_steps(path: Path, voxels_kji: NDArray, affine: NDArray[np.float64]) -> Iterator[None]:
    """Write a volume; each `yield` is a chance to do something else.

    Args:
        path: Ends in `.nii`.
        voxels_kji: `(K, J, I)`, as `slicer.util.arrayFromVolume` returns it.
        affine: float64 (4, 4), voxel index (i, j, k) to RAS mm.

    Raises:
        RunError: The type of the voxels has no place in a NIfTI file, or the file cannot be written.
    """
    flat = np.ascontiguousarray(voxels_kji).reshape(-1)
    header = _pack_header(voxels_kji.shape[::-1], voxels_kji.dtype, affine)
    step = max(1, STEP_BYTES // flat.itemsize)
    try:
        with path.open("wb") as file:
            file.write(header)
            for start in range(0, flat.size, step):
                file.write(flat[start : start + step].data)
                yield
    except OSError as error:
        msg = f"The volume could not be handed to the worker: {error}. Is the disk of the temporary folder full?"
        raise RunError(msg) from error


def read_header(path: Path) -> NiftiHeader:
    """Read the header of an uncompressed NIfTI-1 file.

    Raises:
        RunError: The file is missing, cut short, compressed, or not 3D.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_HEADER_BYTES)
    except OSError as error:
        msg = f"The worker's result {path.name} cannot be read: {error}. Run again; if it recurs, send us the log."
        raise RunError(msg) from error
    order = next((o for o in "<>" if len(raw) == _HEADER_BYTES and struct.unpack(o + "i", raw[:4])[0] == 348), None)
    if order is None or raw[344:347] != b"n+1":
        msg = f"The worker's result {path.name} is no complete NIfTI file. Run again; if it recurs, send us the log."
        raise RunError(msg)
    dim = struct.unpack(order + "8h", raw[40:56])
    code = struct.unpack(order + "h", raw[70:72])[0]
    offset, slope, intercept = struct.unpack(order + "3f", raw[108:120])
    if any(size > 1 for size in dim[4 : dim[0] + 1]) or code not in _NAMES:
        msg = f"The worker's result {path.name} has size {dim[1 : dim[0] + 1]} and type {code}; expected one 3D volume."
        raise RunError(msg)
    return NiftiHeader(
        spatial_shape=(dim[1], dim[2], dim[3]),
        dtype=np.dtype(order + np.dtype(_NAMES[code]).str[1:]),
        affine=_affine(raw, order),
        offset=int(offset),
        slope=slope or 1.0,
        intercept=intercept if slope else 0.0,
    )


def read_steps(
    path: Path, allocate: Callable[[tuple[int, int, int], DTypeLike], NDArray]
) -> Iterator[NiftiHeader | None]:
    """Read a volume as float32 into memory that the caller provides.

    Args:
        path: Uncompressed NIfTI-1 file.
        allocate: Takes (I, J, K) and a type, returns a flat, writable array of that many voxels, i fastest.

    Yields:
        None between the steps; the header, once, at the end.
    """
    header = read_header(path)
    target = allocate(header.spatial_shape, np.float32)
    step = max(1, STEP_BYTES // header.dtype.itemsize)
    with path.open("rb") as file:
        file.seek(header.offset)
        for start in range(0, target.size, step):
            count = min(step, target.size - start)
            raw = file.read(count * header.dtype.itemsize)
            if len(raw) != count * header.dtype.itemsize:
                msg = f"The worker's result {path.name} is cut short. Is the disk full? Free some space and run again."
                raise RunError(msg)
            piece = np.frombuffer(raw, dtype=header.dtype)
            if (header.slope, header.intercept) == (1.0, 0.0):
                target[start : start + count] = piece
            else:
                target[start : start + count] = piece * header.slope + header.intercept
            yield None
    yield header


def _pack_header(shape: tuple[int, ...], dtype: np.dtype, affine: NDArray[np.float64]) -> bytes:
    code = _CODES.get(dtype.name)
    if code is None or len(shape) != 3:
        msg = f"Volumes of type {dtype.name} and shape {shape} cannot be processed; one 3D scalar volume is expected."
        raise RunError(msg)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    header = bytearray(_HEADER_BYTES)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, 1.0, *spacing, 0.0, 0.0, 0.0, 0.0)
    struct.pack_into("<3f", header, 108, float(_HEADER_BYTES), 1.0, 0.0)
    header[123] = 2  # millimetres
    struct.pack_into("<2h", header, 252, 0, 1)  # no qform: it cannot hold a sheared affine; sform in scanner space
    struct.pack_into("<12f", header, 280, *affine[:3].reshape(-1))
    header[344:348] = b"n+1\0"
    return bytes(header)


def _affine(raw: bytes, order: str) -> NDArray[np.float64]:
    qform, sform = struct.unpack(order + "2h", raw[252:256])
    affine = np.eye(4)
    if sform > 0:
        affine[:3] = np.reshape(struct.unpack(order + "12f", raw[280:328]), (3, 4))
        return affine
    pixdim = struct.unpack(order + "8f", raw[76:108])
    if qform <= 0:
        affine[:3, :3] = np.diag(pixdim[1:4])
        return affine
    b, c, d, *origin = struct.unpack(order + "6f", raw[256:280])
    a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handedness = -1.0 if pixdim[0] < 0 else 1.0
    affine[:3, :3] = rotation * np.array([pixdim[1], pixdim[2], handedness * pixdim[3]])
    affine[:3, 3] = origin
    return affine
