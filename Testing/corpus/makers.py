"""Volumes on disk, made by hand: headers as plain bytes and text, so that anything in them can be wrong."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from corpus.framework import Given, Truth

SHAPE = (10, 12, 7)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Edit = Callable[[bytearray], object]

NRRD_TYPES = {"i1": "int8", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "i8": "longlong",
              "u8": "ulonglong", "f4": "float", "f8": "double"}  # fmt: skip
META_TYPES = {"i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT",
              "u4": "MET_UINT", "i8": "MET_LONG_LONG", "u8": "MET_ULONG_LONG", "f4": "MET_FLOAT",
              "f8": "MET_DOUBLE"}  # fmt: skip


def head(shape: tuple[int, int, int] = SHAPE, kind: str = "f4", seed: int = 0) -> Any:
    """A lopsided blob with noise, 0 to about 110: whole numbers, so that every type holds it."""
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    blob = 90 * np.exp(-3 * ((i - 0.2) ** 2 + (j + 0.3) ** 2 + (k - 0.1) ** 2))
    return np.round(np.abs(blob + 6 * rng.random(shape))).astype(kind)


def placed(spacing: Any = (1.0, 1.1, 2.0), turn: Any = None, origin: Any = (-31.0, 12.5, 7.25)) -> Any:
    """An affine: `turn` `(3, 3)` is orthogonal, or nearly."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def turned(seed: int, *, mirrored: bool = False, shear: float = 0.0) -> Any:
    """A random orthogonal matrix, a mirror image if wanted, with axes `shear` (cosine) off their right angles."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    if (np.linalg.det(turn) < 0) != mirrored:
        turn[:, 0] *= -1
    turn[:, 1] += shear * turn[:, 0]
    return turn / np.linalg.norm(turn, axis=0)


OBLIQUE = placed(turn=turned(7))


def nifti(
    path: Path, data: Any = None, affine: Any = OBLIQUE, edit: Edit | None = None, *, big: bool = False,
    two: bool = False, sform: int = 1, qform: int = 1, slope: float | None = None, inter: float = 0.0, units: int = 2,
) -> Path:  # fmt: skip
    """Write a NIfTI file; `edit` then changes its (uncompressed) bytes."""
    data = head() if data is None else data
    header = (nibabel.Nifti2Header if two else nibabel.Nifti1Header)(endianness=">" if big else "<")
    kind = nibabel.Nifti2Image if two else nibabel.Nifti1Image
    header.set_data_dtype(data.dtype)
    image = kind(data, affine, header)
    image.set_qform(affine, code=qform)
    image.set_sform(affine, code=sform)
    if not sform:
        image.header["srow_x"] = image.header["srow_y"] = image.header["srow_z"] = 0
    image.header["xyzt_units"] = units
    if slope is not None:
        image.header.set_slope_inter(slope, inter)
        # nibabel would scale the numbers back; they are to stay as they are
        raw = bytearray(kind(data, affine, image.header).to_bytes())
        at = 176 if two else 112
        raw[at : at + (16 if two else 8)] = np.array(
            [slope, inter], (">" if big else "<") + ("f8" if two else "f4")
        ).tobytes()
        size = data.size * data.dtype.itemsize
        raw[-size:] = data.astype(data.dtype.newbyteorder(">" if big else "<")).tobytes(order="F")
    else:
        raw = bytearray(image.to_bytes())
    if edit is not None:
        edit(raw)
    path.write_bytes(gzip.compress(raw) if path.name.lower().endswith(".gz") else raw)
    return path


def at(offset: int, content: bytes) -> Edit:
    """An edit that puts bytes at a place."""
    return lambda raw: raw.__setitem__(slice(offset, offset + len(content)), content)


def vector(values: Any) -> str:
    """`(1,0,0)`, every digit kept."""
    return "(" + ",".join(repr(float(v)) for v in values) + ")"


def nrrd(
    path: Path, data: Any = None, affine: Any = OBLIQUE, *, space: str = "left-posterior-superior",
    encoding: str = "raw", big: bool = False, fields: Mapping[str, str | None] | None = None,
    head_line: str = "NRRD0004", voxels: bytes | None = None, before_voxels: bytes = b"",
) -> Path:  # fmt: skip
    """Write an NRRD file; `fields` replace, add or (None) leave out lines of the header. `.nhdr` gets a data file."""
    data = head() if data is None else data
    flip = (
        {"left": -1, "right": 1}.get(space.split("-")[0], 1),
        {"posterior": -1, "anterior": 1}.get(space.split("-")[1], 1),
    )
    world = np.diag([*flip, 1.0, 1.0]) @ affine
    lines: dict[str, str | None] = {
        "type": NRRD_TYPES.get(data.dtype.str[1:], data.dtype.name),
        "dimension": str(data.ndim),
        "space": space,
        "sizes": " ".join(map(str, data.shape)),
        "space directions": " ".join(vector(world[:3, axis]) for axis in range(3)),
        "kinds": "domain domain domain",
        "endian": "big" if big else "little",
        "encoding": encoding,
        "space origin": vector(world[:3, 3]),
    } | dict(fields or {})
    raw = data.astype(data.dtype.newbyteorder(">" if big else "<")).tobytes(order="F")
    if voxels is None:
        pack = {"raw": bytes, "gzip": gzip.compress, "gz": gzip.compress, "bzip2": bz2.compress, "bz2": bz2.compress,
                "hex": lambda b: b.hex().encode(),
                "ascii": lambda _: " ".join(f"{v:g}" for v in data.ravel(order="F")).encode()}  # fmt: skip
        voxels = pack[{"text": "ascii", "txt": "ascii"}.get(encoding, encoding)](raw)
    voxels = before_voxels + voxels
    if path.suffix.lower() == ".nhdr" and "data file" not in lines:
        lines["data file"] = path.stem + ".raw"
        path.with_suffix(".raw").write_bytes(voxels)
        voxels = b""
    text = "\n".join([head_line, *(f"{key}: {value}" for key, value in lines.items() if value is not None)])
    path.write_bytes(text.encode() + (b"\n" if "data file" in lines else b"\n\n") + voxels)
    return path


def metaimage(
    path: Path, data: Any = None, affine: Any = OBLIQUE, *, compressed: bool = False, big: bool = False,
    fields: Mapping[str, str | None] | None = None, voxels: bytes | None = None,
) -> Path:  # fmt: skip
    """Write a MetaImage; `fields` replace, add or (None) leave out lines of the header. `.mhd` gets a data file."""
    data = head() if data is None else data
    world = LPS @ affine
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    directions = world[:3, :3] / spacing
    raw = data.astype(data.dtype.newbyteorder(">" if big else "<")).tobytes(order="F")
    if voxels is None:
        voxels = zlib.compress(raw) if compressed else raw
    local = path.suffix.lower() == ".mha"
    lines: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": str(data.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(big),
        "CompressedData": str(compressed),
        "CompressedDataSize": str(len(voxels)) if compressed else None,
        "TransformMatrix": " ".join(repr(float(v)) for v in directions.T.ravel()),
        "Offset": " ".join(repr(float(v)) for v in world[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": " ".join(repr(float(v)) for v in spacing),
        "DimSize": " ".join(map(str, data.shape)),
        "ElementType": META_TYPES.get(data.dtype.str[1:], "MET_OTHER"),
    } | {key: value for key, value in (fields or {}).items() if key != "ElementDataFile"}
    file = (fields or {}).get("ElementDataFile", "LOCAL" if local else path.stem + (".zraw" if compressed else ".raw"))
    if not local:
        (path.parent / (path.stem + (".zraw" if compressed else ".raw"))).write_bytes(voxels)
        voxels = b""
    text = "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)
    path.write_bytes(text.encode() + (f"ElementDataFile = {file}\n".encode() if file is not None else b"") + voxels)
    return path


WRITERS = {".nii": nifti, ".nii.gz": nifti, ".nrrd": nrrd, ".nhdr": nrrd, ".mha": metaimage, ".mhd": metaimage}


def write(path: Path, data: Any = None, affine: Any = OBLIQUE, **how: Any) -> Path:
    """Write in the format of the name."""
    suffix = next(s for s in sorted(WRITERS, key=len, reverse=True) if path.name.lower().endswith(s))
    return WRITERS[suffix](path, data, affine, **how)


def good(name: str = "scan.nii.gz", data: Any = None, affine: Any = OBLIQUE, **how: Any) -> Callable[[Path], Given]:
    """A case's maker: a sound volume, and the truth about it."""

    def make(folder: Path) -> Given:
        voxels = head() if data is None else data
        return Given(write(folder / name, voxels, affine, **how), Truth(voxels, affine))

    return make


def bad(name: str = "scan.nii.gz", *arguments: Any, **how: Any) -> Callable[[Path], Path]:
    """A case's maker: a volume with something wrong in it."""
    return lambda folder: write(folder / name, *arguments, **how)
