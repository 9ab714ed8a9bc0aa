"""MetaImage headers, read by ourselves, for the reasons of `nrrd`.

After https://itk.org/Wiki/ITK/MetaIO/Documentation; where it and ITK differ, as ITK does. The world is LPS.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scorefusion.imaging.source import (
    LONGEST_HEADER,
    Described,
    decimal,
    refuse,
    refuse_damaged,
    refuse_header,
    refuse_unplaced,
    short,
)

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
OTHER_NAMES = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
FLAGS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def describe_metaimage(path: Path, stream: BinaryIO) -> Described:
    """What the header of a MetaImage file says.

    Raises:
        VolumeError: it is not that of one scalar volume or a series of them.
    """
    fields, header_size = _fields(path, stream)
    axes = int(_numbers(path, fields, "NDims", 1)[0])
    if not 1 <= axes <= 10:
        refuse_header(path, f"NDims is {axes}")
    sizes = tuple(int(n) for n in _numbers(path, fields, "DimSize", axes))
    channels = int(_numbers(path, fields, "ElementNumberOfChannels", 1, [1.0])[0])
    if min(*sizes, channels) < 1 or max(*sizes, channels) > 1 << 31:
        refuse_header(path, f"DimSize is {short(fields['DimSize'])} with {channels} values for each voxel")
    kind = fields.get("ElementType", "").removesuffix("_ARRAY")
    if kind not in TYPES:
        refuse_header(path, f"ElementType is {short(kind)}; known are: {', '.join(TYPES)}")
    if _numbers(path, fields, "ElementToIntensityFunctionSlope", 1, [1.0]) != [1.0] or _numbers(
        path, fields, "ElementToIntensityFunctionOffset", 1, [0.0]
    ) != [0.0]:
        refuse_header(path, "ElementToIntensityFunction scales the values, which programs do not agree about")
    dtype = np.dtype(TYPES[kind]).newbyteorder(">" if _flag(path, fields, "BinaryDataByteOrderMSB", False) else "<")
    packed = _flag(path, fields, "CompressedData", False)
    binary = _flag(path, fields, "BinaryData", True)
    name = fields["ElementDataFile"]
    local = name.upper() in ("LOCAL", "LOCAL ")
    if not local and (re.match(r"LIST\b|.*%.*d", name) or not name):
        refuse(path, "keeps its voxels in several files", "Save it as one file, for example as .mha in 3D Slicer.")
    skipped = int(_numbers(path, fields, "HeaderSize", 1, [0.0])[0])
    if skipped < -1 or (skipped and (packed or local)):
        refuse_header(path, f"HeaderSize is {skipped}")
    return Described(
        sizes=sizes if channels == 1 else (channels, *sizes),
        spatial=(0, 1, 2) if channels == 1 else (1, 2, 3),
        affine=_affine(path, fields, axes),
        dtype=dtype,
        start=None if skipped == -1 else header_size if local else skipped,
        packing="zlib" if packed else "raw" if binary else "text",
        voxels=None if local else path.parent / name,
    )


def _fields(path: Path, stream: BinaryIO) -> tuple[dict[str, str], int]:
    """The fields by name, and the bytes of the header, which ends with ElementDataFile."""
    raw = stream.read(LONGEST_HEADER)
    fields: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in fields:
        if position >= len(raw):
            refuse_damaged(path)
        end = raw.find(b"\n", position) if b"\n" in raw[position:] else len(raw)
        line = raw[position:end].decode("utf-8", "surrogateescape")
        position = end + 1
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        name = OTHER_NAMES.get(name.strip(), name.strip())
        if not equals:
            refuse_damaged(path) if not fields else refuse_header(path, f"the line {short(line)} is not 'name = value'")
        if name in fields:
            refuse_header(path, f"{short(name)} is there twice")
        fields[name] = value.strip()
    return fields, min(position, len(raw))


def _affine(path: Path, fields: dict[str, str], axes: int) -> np.ndarray:
    """The first three axes in RAS millimetres; further ones are series."""
    size = "ElementSize" if "ElementSpacing" not in fields and "ElementSize" in fields else "ElementSpacing"
    for name in ("TransformMatrix", "Offset", size) if axes >= 3 else ():
        if name not in fields:
            refuse_unplaced(path, f"{name} is missing")
    affine = np.eye(4)
    if axes >= 3:
        # The file has the direction of one axis after the other.
        directions = np.array(_numbers(path, fields, "TransformMatrix", axes * axes)).reshape(axes, axes).T
        affine[:3, :3] = directions[:3, :3] * _numbers(path, fields, size, axes)[:3]
        affine[:3, 3] = _numbers(path, fields, "Offset", axes)[:3]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _numbers(
    path: Path, fields: dict[str, str], name: str, count: int, default: list[float] | None = None
) -> list[float]:
    """Finite numbers, exactly `count`."""
    if name not in fields:
        if default is None:
            refuse_header(path, f"{name} is missing")
        return default
    try:
        numbers = [decimal(word) for word in fields[name].split()]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        refuse_header(path, f"{name} is {short(fields[name])}, not {count} number{'s'[: count > 1]}")
    return numbers


def _flag(path: Path, fields: dict[str, str], name: str, default: bool) -> bool:
    if name not in fields:
        return default
    if fields[name].lower() not in FLAGS:
        refuse_header(path, f"{name} is {short(fields[name])}, not True or False")
    return FLAGS[fields[name].lower()]
