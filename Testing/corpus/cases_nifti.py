"""NIfTI: place, units, types, frames and header fields."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from corpus.framework import Given, Truth, refused, right, right_or_refused
from corpus.makers import OBLIQUE, SHAPE, at, bad, good, head, nifti, placed, turned

# Offsets in the header of version 1.
DIM, INTENT, DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SLOPE, INTER, UNITS = 40, 68, 70, 72, 76, 108, 112, 116, 123
QFORM, SFORM, QUATERN, SROW, MAGIC = 252, 254, 256, 280, 344


def shorts(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}h", *values)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


# Every orientation: 6 orders of the axes, 8 combinations of directions, of both handednesses.
for order in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]:
    for signs in range(8):
        turn = np.eye(3)[:, order] * [1 - 2 * (signs >> axis & 1) for axis in range(3)]
        letters = "".join("RAS" [np.abs(turn[:, a]).argmax()] if turn[:, a].sum() > 0 else
                          "LPI"[np.abs(turn[:, a]).argmax()] for a in range(3))  # fmt: skip
        name = ("scan.nii", "scan.nii.gz")[signs % 2]
        right(f"nifti: axes {letters}", good(name, affine=placed(turn=turn)))

# Any turn, mirrored or not, slightly sheared or not, slices across any axis, in every integer type.
TYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
for seed in range(40):
    rng = np.random.default_rng(seed)
    thick = seed % 3
    spacing = rng.uniform(0.85, 1.2, 3)
    spacing[thick] = (2.0, 3.0)[seed % 2]
    turn = turned(seed, mirrored=seed % 4 > 1, shear=0.015 if seed % 5 == 0 else 0.0)
    shape = tuple(int(n) for n in rng.integers(6, 13, 3))
    how = {"big": seed % 2 == 1, "two": seed % 3 == 1, "qform": 0 if seed % 5 == 0 else 1}
    if seed % 5 and seed % 7 == 3:
        how["sform"] = 0
    right(
        f"nifti: random affine {seed}",
        good(("scan.nii", "scan.nii.gz")[seed % 2], head(shape, TYPES[seed % 10], seed),
             placed(spacing, turn, rng.uniform(-150, 150, 3)), **how),
    )  # fmt: skip


def scaled(kind: str, slope: float, inter: float, big: bool) -> object:
    def make(folder: Path) -> Given:
        data = head(kind=kind)
        return Given(
            nifti(folder / "scan.nii", data, slope=slope, inter=inter, big=big),
            Truth(data * float(np.float32(slope)) + float(np.float32(inter)), OBLIQUE),
        )

    return make


for kind in ("u1", "i2", "u2", "i4", "f4"):
    for slope, inter, big in ((0.5, 10.0, False), (-2.0, 0.0, True), (0.001, -3.0, False)):
        right(f"nifti: {kind} with slope {slope:g}, intercept {inter:g}", scaled(kind, slope, inter, big))
right("nifti: slope 0 means none", good("scan.nii", edit=at(SLOPE, floats(0, 5))))
right("nifti: slope NaN means none", good("scan.nii", edit=at(SLOPE, floats(float("nan"), float("nan")))))
right_or_refused("nifti: slope infinite", good("scan.nii", edit=at(SLOPE, floats(float("inf"), 0))))
refused("nifti: intercept NaN", bad("scan.nii", edit=at(SLOPE, floats(2, float("nan")))))

# Units of length.
for code, word, size in ((1, "metres", 1e-3), (3, "microns", 1e3)):

    def in_units(folder: Path, code: int = code, size: float = size) -> Given:
        affine = np.diag([size, size, size, 1.0]) @ OBLIQUE
        return Given(nifti(folder / "scan.nii.gz", None, affine, units=code), Truth(head(), OBLIQUE))

    right(f"nifti: in {word}", in_units)
right("nifti: no unit is taken as mm", good(units=0))
right("nifti: mm and seconds", good(units=10))
for code in (4, 5, 6, 7, 0xFF):
    refused(f"nifti: xyzt_units {code:#x}", bad(units=code), "unit")

# sform and qform.
OTHER = placed(turn=turned(99), origin=(5, 6, 7))


def both(folder: Path) -> Given:
    def edit(raw: bytearray) -> None:
        other = nifti(folder / "other.nii", None, OTHER).read_bytes()
        raw[QUATERN : QUATERN + 24] = other[QUATERN : QUATERN + 24]
        raw[PIXDIM : PIXDIM + 4] = other[PIXDIM : PIXDIM + 4]
        (folder / "other.nii").unlink()

    return Given(nifti(folder / "scan.nii", edit=edit), Truth(head(), OBLIQUE))


right("nifti: sform goes before a different qform", both)
right("nifti: qform alone", good(sform=0))
right("nifti: sform alone", good(qform=0))
for code in (2, 3, 4, 5):
    right(f"nifti: sform code {code}", good(sform=code))
right("nifti: sform of zeros, sound qform", good("scan.nii", edit=at(SROW, bytes(48))))
right("nifti: sform NaN, sound qform", good("scan.nii", edit=at(SROW, floats(*[float("nan")] * 12))))
right("nifti: qform that is no rotation, sound sform", good("scan.nii", edit=at(QUATERN, floats(2, 2, 2))))
right("nifti: qfac 0 means 1", good("scan.nii", sform=0, affine=placed(turn=turned(5)), edit=at(PIXDIM, floats(0))))
refused("nifti: neither form", bad(sform=0, qform=0), "left and right")
refused("nifti: sform of zeros alone", bad(qform=0, edit=at(SROW, bytes(48))))
refused("nifti: NaN in the sform alone", bad(qform=0, edit=at(SROW, floats(float("nan")))))
refused("nifti: infinite origin", bad(qform=0, edit=at(SROW + 12, floats(float("inf")))))
refused("nifti: origin of 1e30 mm", bad(qform=0, edit=at(SROW + 12, floats(1e30))), "mm")
refused("nifti: sheared by 20 degrees", bad(affine=placed(turn=turned(3, shear=0.35)), qform=0), "shear")
refused("nifti: flat affine", bad(qform=0, edit=at(SROW + 32, floats(0, 0, 0, 0))))
refused("nifti: negative code of sform, no qform", bad(qform=0, edit=at(SFORM, shorts(-1))))
refused("nifti: qform with pixdim 0", bad("scan.nii", sform=0, edit=at(PIXDIM + 8, floats(0))))
refused("nifti: qform with pixdim NaN", bad("scan.nii", sform=0, edit=at(PIXDIM + 8, floats(float("nan")))))
refused("nifti: spacing 1e-9", bad(affine=placed((1e-9, 1e-9, 1e-9))), "spacing")
for spacing in (1e4, 1e6, 1e30):
    refused(f"nifti: spacing {spacing:g} across the slices", bad(affine=placed((1, 1, spacing))), "mm")
    refused(f"nifti: spacing {spacing:g} in all directions", bad(affine=placed((spacing,) * 3)), "mm")

# Frames.
FRAMES = np.stack([head(), head(seed=1), head(seed=2)], axis=-1)


def frame(number: int | None, suffix: str = ".nii.gz") -> object:
    def make(folder: Path) -> Given:
        options = () if number is None else ("--frame", str(number))
        truth = Truth(FRAMES[..., number], OBLIQUE) if number is not None and 0 <= number < 3 else None
        return Given(nifti(folder / f"scan{suffix}", FRAMES), truth, options)

    return make


for number in range(3):
    right(f"nifti: frame {number} of three", frame(number, (".nii", ".nii.gz")[number % 2]))
refused("nifti: 4D without a frame", frame(None), "--frame")
refused("nifti: frame 3 of three", frame(3), "no frame 3")


def single(axes: int) -> object:
    def make(folder: Path) -> Given:
        data = head()
        return Given(nifti(folder / "scan.nii.gz", data.reshape(*SHAPE, *(1,) * axes)), Truth(data, OBLIQUE))

    return make


for axes in (1, 2, 4):
    right(f"nifti: {axes} more axes of one frame", single(axes))
refused("nifti: 5D", bad(data=np.zeros((*SHAPE, 2, 3), np.float32)), "dimensions")
refused("nifti: one slice", bad(data=head((10, 12, 1))), "single slice")
refused("nifti: 2D", bad(data=head((10, 12, 1))[:, :, 0]), "single slice")

# Fields that lie.
refused("nifti: dim of 32767 cubed", bad(edit=at(DIM, shorts(3, 32767, 32767, 32767))))
refused("nifti: dim of 32767 cubed, not compressed", bad("scan.nii", edit=at(DIM, shorts(3, 32767, 32767, 32767))))
refused("nifti: dim one too large", bad("scan.nii", edit=at(DIM, shorts(3, 10, 12, 8))))
refused("nifti: dim one too large, compressed", bad(edit=at(DIM, shorts(3, 10, 12, 8))))
refused("nifti: negative dim", bad(edit=at(DIM, shorts(3, -10, 12, 7))))
refused("nifti: dim of zero", bad(edit=at(DIM, shorts(3, 10, 0, 7))))
for number in (0, 8, -3, 1000):
    refused(f"nifti: {number} dimensions", bad(edit=at(DIM, shorts(number))))
for code in (0, 1, 3, 9, 255, 32767, -1):
    refused(f"nifti: datatype {code}", bad(edit=at(DATATYPE, shorts(code))))
for code, word in ((128, "colours"), (2304, "colours"), (32, "complex"), (1792, "complex")):
    refused(f"nifti: datatype {code}, {word}", bad(edit=at(DATATYPE, shorts(code))))
right("nifti: wrong bitpix", good(edit=at(BITPIX, shorts(3))))
right("nifti: unknown intent", good(edit=at(INTENT, shorts(-77))))
for offset in (-1.0, 1e9, float("nan"), float("inf"), 349.5, 1e30):
    refused(f"nifti: voxels at {offset:g}", bad("scan.nii", edit=at(VOX_OFFSET, floats(offset))))
for magic in (b"abcd", b"ni1\0", b"\0\0\0\0"):
    right_or_refused(f"nifti: magic {magic!r}", good("scan.nii", edit=at(MAGIC, magic)))
right_or_refused("nifti: sizeof_hdr 0", good(edit=at(0, bytes(4))))
right_or_refused("nifti: extension flag, no extension", good("scan.nii", edit=at(348, b"\1\0\0\0")))
right("nifti: words in db_name", good(edit=at(14, b"\xff\xfe name")))
refused("nifti: all 0xFF", bad(edit=at(0, b"\xff" * 348)))
refused("nifti: all zeros", bad(edit=at(0, bytes(348))))
