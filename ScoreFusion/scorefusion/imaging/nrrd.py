"""NRRD headers, read by ourselves: ITK's reader ends the process on a damaged one, and checks no checksum.

After http://teem.sourceforge.net/nrrd/format.html. Only worlds with a left and a right are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeVar

import numpy as np

from scorefusion.imaging.source import (
    LONGEST_HEADER,
    Described,
    Packing,
    decimal,
    refuse,
    refuse_damaged,
    refuse_header,
    refuse_unplaced,
    short,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

TYPES = {
    name: kind
    for kind, names in {
        "i1": "signed char, int8, int8_t",
        "u1": "uchar, unsigned char, uint8, uint8_t",
        "i2": "short, short int, signed short, signed short int, int16, int16_t",
        "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
        "i4": "int, signed int, int32, int32_t",
        "u4": "uint, unsigned int, uint32, uint32_t",
        "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
        "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(", ")
}
PACKINGS: dict[str, Packing] = {
    "raw": "raw",
    "gzip": "gzip",
    "gz": "gzip",
    "bzip2": "bzip2",
    "bz2": "bzip2",
    "text": "text",
    "txt": "text",
    "ascii": "text",
    "hex": "hex",
}
TO_RAS = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
"""Signs of the world's axes. `scanner-xyz` and `3D-right-handed` say nothing about a patient's left and right."""
TO_MM = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "": 1.0}


ENDIANS: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}
Value = TypeVar("Value", bound=str)


def describe_nrrd(path: Path, stream: BinaryIO) -> Described:
    """What the header of an NRRD file says.

    Raises:
        VolumeError: it is not that of one scalar volume or a series of them, or does not tell left from right.
    """
    fields, header_size = _fields(path, stream)
    sizes = _integers(path, fields, "sizes")
    if len(sizes) != _integers(path, fields, "dimension")[0] or not 1 <= len(sizes) <= 16 or min(sizes) < 1:
        refuse_header(path, f"'sizes: {short(fields['sizes'])}' does not fit 'dimension: {fields['dimension'][:20]}'")
    dtype = np.dtype(_one_of(path, fields, "type", TYPES))
    packing = _one_of(path, fields, "encoding", PACKINGS)
    if dtype.itemsize > 1 and packing != "text":
        dtype = dtype.newbyteorder(_one_of(path, fields, "endian", ENDIANS))
    voxels = None
    if (name := fields.get("data file")) is not None:
        if re.match(r"LIST\b|.*%.*d", name) or not name:
            refuse(path, "keeps its voxels in several files", "Save it as one file, for example as .nrrd in 3D Slicer.")
        voxels, header_size = path.parent / name, 0
    if len(sizes) < 3:
        return Described(sizes, (0, 0, 0), np.eye(4), dtype)  # a single slice: the caller refuses it
    spatial, affine = _place(path, fields, len(sizes))
    start = _start(path, fields, header_size, packing)
    return Described(sizes, spatial, affine, dtype, start=start, packing=packing, voxels=voxels)


def _fields(path: Path, stream: BinaryIO) -> tuple[dict[str, str], int]:
    """The fields by name (lower case), and the bytes of the header."""
    raw = stream.read(LONGEST_HEADER)
    first, _, rest = raw.partition(b"\n")
    if not re.fullmatch(rb"NRRD000[1-5]\r?", first):
        refuse_damaged(path)
    end = re.search(rb"(?:^|\n)\r?\n", rest)
    if end is None and len(raw) == LONGEST_HEADER:
        refuse_header(path, f"no end of it within {LONGEST_HEADER} bytes")
    text = (rest[: end.start()] if end else rest).decode("utf-8", "surrogateescape")
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        line = line.rstrip("\r")
        if not line or line.startswith("#") or ":=" in line:
            continue
        name, colon, value = line.partition(":")
        name = {"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip"}.get(
            name.strip().lower(), name.strip().lower()
        )
        if not colon:
            refuse_header(path, f"the line {short(line)} is not of the form 'field: value'")
        if name in fields:
            refuse_header(path, f"the field {short(name)} is there twice")
        fields[name] = value.strip()
    return fields, len(first) + 1 + (end.end() if end else len(rest))


def _start(path: Path, fields: dict[str, str], header_size: int, packing: Packing) -> int | None:
    """Bytes before the voxels; None = they are the last of the file."""
    lines, skipped = (_integers(path, fields, name)[0] if name in fields else 0 for name in ("line skip", "byte skip"))
    if lines or (skipped and packing != "raw") or skipped < -1:
        refuse_header(path, f"'line skip: {lines}', 'byte skip: {skipped}' cannot be followed")
    return None if skipped == -1 else header_size + skipped


def _place(path: Path, fields: dict[str, str], axes: int) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Which axes are in space, and the affine to RAS millimetres."""
    space = fields.get("space", "").lower().removesuffix("-time")
    if space not in TO_RAS:
        named = short(fields["space"]) if "space" in fields else "missing"
        refuse_unplaced(path, f"its 'space' is {named}, not left-posterior-superior or the like")
    for name in ("space directions", "space origin"):
        if name not in fields:
            refuse_unplaced(path, f"the field '{name}' is missing")
    vectors = re.findall(r"none|\([^()]*\)", fields["space directions"])
    if len(vectors) != axes or re.sub(r"none|\([^()]*\)|\s", "", fields["space directions"]):
        refuse_header(path, f"'space directions: {short(fields['space directions'])}' does not fit {axes} axes")
    spatial = [axis for axis, vector in enumerate(vectors) if vector != "none"]
    if len(spatial) != 3:
        refuse_header(path, f"{len(spatial)} of its axes have a direction in space, not 3")
    if "complex" in fields.get("kinds", "").lower():
        refuse(path, "holds complex numbers", "Save the magnitude as a volume of its own.")
    affine = np.eye(4)
    for column, axis in enumerate(spatial):
        affine[:3, column] = _vector(path, "space directions", vectors[axis])
    affine[:3, 3] = _vector(path, "space origin", fields["space origin"])
    units = [unit.strip().lower() for unit in re.findall(r'"([^"]*)"', fields.get("space units", '""'))]
    if len(set(units[:3])) != 1 or units[0] not in TO_MM:
        refuse_header(path, f"'space units: {short(fields['space units'])}' are no lengths that are known")
    world = np.diag([*(np.array(TO_RAS[space]) * TO_MM[units[0]]), 1.0])
    i, j, k = spatial
    return (i, j, k), world @ affine


def _vector(path: Path, name: str, text: str) -> list[float]:
    try:
        x, y, z = (decimal(number) for number in text.strip().removeprefix("(").removesuffix(")").split(","))
    except ValueError:
        refuse_header(path, f"{short(text)} in '{name}' is not three numbers")
    return [x, y, z]


def _integers(path: Path, fields: dict[str, str], name: str) -> tuple[int, ...]:
    """Whole numbers of at most 18 digits, at least one."""
    words = fields.get(name, "").split()
    if not words or not all(re.fullmatch(r"-?[0-9]{1,18}", word) for word in words):
        refuse_header(path, f"'{name}: {short(fields[name])}'" if name in fields else f"the field '{name}' is missing")
    return tuple(int(word) for word in words)


def _one_of(path: Path, fields: dict[str, str], name: str, known: Mapping[str, Value]) -> Value:
    value = fields.get(name)
    if value is None:
        refuse_header(path, f"the field '{name}' is missing")
    if value.lower() not in known:
        refuse_header(path, f"its '{name}' is {short(value)}; known are: {', '.join(known)}")
    return known[value.lower()]
