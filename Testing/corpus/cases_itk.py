"""NRRD and MetaImage: worlds, kinds, encodings, types, detached voxels, and headers of rubbish."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np

from corpus.framework import Given, Truth, refused, right, right_or_refused
from corpus.makers import META_TYPES, NRRD_TYPES, OBLIQUE, SHAPE, bad, good, head, metaimage, nrrd, placed, turned

# Any turn and type, in every format.
FORMATS = ("scan.nrrd", "scan.mha", "scan.nhdr", "scan.mhd")
TYPES = tuple(NRRD_TYPES)
for seed in range(48):
    rng = np.random.default_rng(1000 + seed)
    thick, name = seed % 3, FORMATS[seed % 4]
    spacing = rng.uniform(0.85, 1.2, 3)
    spacing[thick] = (2.0, 3.0)[seed % 2]
    turn = turned(seed, mirrored=seed % 8 > 3, shear=0.015 if seed % 5 == 0 and "nrrd" in name else 0.0)
    data = head(tuple(int(n) for n in rng.integers(6, 13, 3)), TYPES[seed % 10], seed)
    how = {"big": seed % 2 == 1}
    if "m" in name:
        how["compressed"] = seed % 3 == 0
    else:
        how["encoding"] = ("raw", "gzip", "bzip2")[seed % 3]
    family = "meta" if "m" in name else "nrrd"
    right(f"{family}: random affine {seed} ({name[4:]})", good(name, data, placed(spacing, turn, rng.uniform(-150, 150, 3)), **how))  # fmt: skip # noqa: E501

# ---- NRRD ----

for space in ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior"):
    right(f"nrrd: {space}", good("scan.nrrd", space=space))
for short, long in (("LPS", "left-posterior-superior"), ("RAS", "right-anterior-superior"), ("LAS", "left-anterior-superior")):  # fmt: skip # noqa: E501
    right(f"nrrd: {short}", good("scan.nrrd", space=long, fields={"space": short}))
for space in ("scanner-xyz", "3D-right-handed", "3D-left-handed", "SXYZ", "3DR", "3DL", "scanner-xyz-time", "LPI", "", "nonsense"):  # fmt: skip # noqa: E501
    refused(f"nrrd: space {space or 'empty'}", bad("scan.nrrd", fields={"space": space}))
refused("nrrd: space dimension alone", bad("scan.nrrd", fields={"space": None, "space dimension": "3"}), "left and right")  # fmt: skip # noqa: E501
refused("nrrd: no space", bad("scan.nrrd", fields={"space": None}))
refused("nrrd: spacings only", bad("scan.nrrd", fields={"space": None, "space directions": None, "space origin": None, "spacings": "1 1 2"}))  # fmt: skip # noqa: E501
refused("nrrd: space without directions", bad("scan.nrrd", fields={"space directions": None}))
refused("nrrd: space without origin", bad("scan.nrrd", fields={"space origin": None}))
refused("nrrd: two directions", bad("scan.nrrd", fields={"space directions": "(1,0,0) (0,1,0)"}))
refused("nrrd: directions of two numbers", bad("scan.nrrd", fields={"space directions": "(1,0) (0,1) (1,1)"}))
refused("nrrd: directions none", bad("scan.nrrd", fields={"space directions": "none none none"}))
for number in ("nan", "inf", "1e400", "0x10", "one", ""):
    refused(f"nrrd: direction of {number or 'nothing'}", bad("scan.nrrd", fields={"space directions": f"({number},0,0) (0,1,0) (0,0,2)"}))  # fmt: skip # noqa: E501
    refused(f"nrrd: origin of {number or 'nothing'}", bad("scan.nrrd", fields={"space origin": f"({number},0,0)"}))
refused("nrrd: direction of zeros", bad("scan.nrrd", fields={"space directions": "(0,0,0) (0,1,0) (0,0,2)"}))
refused("nrrd: directions in one plane", bad("scan.nrrd", fields={"space directions": "(1,0,0) (1,0,0) (0,0,2)"}))
refused("nrrd: sheared", bad("scan.nrrd", fields={"space directions": "(1,0,0) (0.5,1,0) (0,0,2)"}), "shear")
right("nrrd: blanks inside vectors", good("scan.nrrd", affine=np.diag([1.0, 1.0, 2.0, 1.0]), fields={"space directions": "(-1, 0, 0) ( 0,-1,0 ) (0,0, 2)", "space origin": "( 0, 0, 0 )"}))  # fmt: skip # noqa: E501


def in_unit(unit: str, size: float) -> object:
    def make(folder: Path) -> Given:
        affine = np.diag([size, size, size, 1.0]) @ OBLIQUE
        return Given(nrrd(folder / "scan.nrrd", None, affine, fields={"space units": " ".join([f'"{unit}"'] * 3)}),
                     Truth(head(), OBLIQUE))  # fmt: skip

    return make


right("nrrd: units mm", in_unit("mm", 1.0))
right_or_refused("nrrd: units cm", in_unit("cm", 0.1))
right_or_refused("nrrd: units m", in_unit("m", 0.001))
refused("nrrd: units furlongs", bad("scan.nrrd", fields={"space units": '"furlong" "furlong" "furlong"'}), "furlong")

for encoding in ("raw", "gzip", "gz", "bzip2", "bz2", "ascii", "text", "txt", "hex"):
    right(f"nrrd: encoding {encoding}", good("scan.nrrd", head(kind="i2"), encoding=encoding))
for encoding in ("zrl", "lzma", "nonsense", ""):
    refused(f"nrrd: encoding {encoding or 'empty'}", bad("scan.nrrd", voxels=head().tobytes(), encoding=encoding))
refused("nrrd: no encoding", bad("scan.nrrd", fields={"encoding": None}))
for kind, words in {"i1": ("signed char", "int8", "int8_t"), "u1": ("unsigned char", "uint8"), "i2": ("int16", "short int", "signed short", "int16_t"), "u2": ("unsigned short", "uint16"), "i4": ("signed int", "int32"), "u4": ("unsigned int", "uint32_t"), "i8": ("long long", "int64", "long long int"), "u8": ("unsigned long long", "uint64")}.items():  # fmt: skip # noqa: E501
    for word in words:
        right(f"nrrd: type {word}", good("scan.nrrd", head(kind=kind), fields={"type": word}))
for word in ("block", "half", "long", "", "complex"):
    refused(f"nrrd: type {word or 'empty'}", bad("scan.nrrd", fields={"type": word}))
refused("nrrd: no type", bad("scan.nrrd", fields={"type": None}))
refused("nrrd: no endian", bad("scan.nrrd", fields={"endian": None}))
right("nrrd: no endian, one byte each", good("scan.nrrd", head(kind="u1"), fields={"endian": None}))
refused("nrrd: endian middle", bad("scan.nrrd", fields={"endian": "middle"}))

for sizes in ("10 12", "10 12 7 2", "-10 12 7", "0 12 7", "10 12 1e3", "10 12 8", "32767 32767 32767", "99999999999999999999 12 7", "ten 12 7", "", "9" * 5000 + " 12 7"):  # fmt: skip # noqa: E501
    for encoding in ("raw", "gzip"):
        refused(f"nrrd: sizes '{sizes[:30]}' {encoding}", bad("scan.nrrd", encoding=encoding, fields={"sizes": sizes}))
for dimension in ("0", "-3", "2", "4", "17", "1000000000", "three", ""):
    refused(f"nrrd: dimension '{dimension}'", bad("scan.nrrd", fields={"dimension": dimension}))
refused("nrrd: no dimension", bad("scan.nrrd", fields={"dimension": None}))
refused("nrrd: no sizes", bad("scan.nrrd", fields={"sizes": None}))

for line in ("NRRD0001", "NRRD0003", "NRRD0005"):
    right(f"nrrd: {line}", good("scan.nrrd", head_line=line))
right("nrrd: comments and keys of its own", good("scan.nrrd", head_line="NRRD0005\n# a comment: one\n#\nkey:=value: with = more", fields={"content": "a head", "measurement frame": "(1,0,0) (0,1,0) (0,0,1)", "thicknesses": "nan nan 2", "centers": "cell cell cell"}))  # fmt: skip # noqa: E501
right("nrrd: CRLF", lambda folder: _crlf(good("scan.nrrd")(folder)))
for line in ("NRRD0099", "NRRD", "nrrd0004", "", "NRRD0004 NRRD0004"):
    refused(f"nrrd: first line '{line}'", bad("scan.nrrd", head_line=line))
refused("nrrd: the same field twice", bad("scan.nrrd", head_line="NRRD0004\nsizes: 7 12 10"))
right_or_refused("nrrd: a field nobody knows", good("scan.nrrd", fields={"shoe size": "44"}))
right_or_refused("nrrd: a line without a colon", good("scan.nrrd", head_line="NRRD0004\nhello"))
right_or_refused("nrrd: byte skip -1", good("scan.nrrd", before_voxels=b"xx", fields={"byte skip": "-1"}))
right_or_refused("nrrd: byte skip 5", good("scan.nrrd", before_voxels=b"xxxxx", fields={"byte skip": "5"}))
right_or_refused("nrrd: line skip 1", good("scan.nrrd", before_voxels=b"xxx\n", fields={"line skip": "1"}))
for skip in ("-7", "1e9", "99999999999999999999", "x"):
    refused(f"nrrd: byte skip {skip}", bad("scan.nrrd", fields={"byte skip": skip}))


def _crlf(given: Given) -> Given:
    header, _, voxels = given.scan.read_bytes().partition(b"\n\n")
    given.scan.write_bytes(header.replace(b"\n", b"\r\n") + b"\r\n\r\n" + voxels)
    return given


def frames(suffix: str, first: bool, number: int | None) -> object:
    """Three values for each voxel (the first axis), or three volumes (the last)."""

    def make(folder: Path) -> Given:
        data = np.stack([head(), head(seed=1), head(seed=2)], axis=0 if first else -1)
        axes = ["domain"] * 3
        axes.insert(0 if first else 3, "vector" if first else "list")
        world = np.diag([-1.0, -1.0, 1.0, 1.0]) @ OBLIQUE
        directions = [f"({','.join(repr(float(v)) for v in world[:3, axis])})" for axis in range(3)]
        directions.insert(0 if first else 3, "none")
        path = nrrd(folder / f"scan{suffix}", data,
                    fields={"kinds": " ".join(axes), "space directions": " ".join(directions)})  # fmt: skip
        options = () if number is None else ("--frame", str(number))
        truth = None if number is None else Truth(head(seed=number), OBLIQUE)
        return Given(path, truth, options)

    return make


for number in (0, 2):
    right(f"nrrd: value {number} of three", frames(".nrrd", True, number))
    right(f"nrrd: volume {number} of three", frames(".nrrd", False, number))
refused("nrrd: three values, none chosen", frames(".nrrd", True, None), "--frame")
refused("nrrd: three volumes, none chosen", frames(".nrrd", False, None), "--frame")
refused("nrrd: 2D", bad("scan.nrrd", head()[:, :, 0], fields={"space directions": "(1,0,0) (0,1,0)", "kinds": None}), "slice")  # fmt: skip # noqa: E501
refused("nrrd: one slice", bad("scan.nrrd", head((10, 12, 1))), "single slice")

for target in ("gone.raw", "", "LIST", "scan%03d.raw 1 7 1", ".", "/dev/zero", "../" * 40 + "etc/hostname", "\x00"):
    refused(f"nrrd: data file '{target!r}'", bad("scan.nhdr", fields={"data file": target}))
refused("nrrd: data file is the header", bad("scan.nhdr", fields={"data file": "scan.nhdr"}))


def detached_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return nrrd(folder / "scan.nhdr", fields={"data file": "pipe"})


refused("nrrd: data file is a pipe", detached_pipe)

# ---- MetaImage ----

for kind, word in META_TYPES.items():
    right(f"meta: {word}", good("scan.mha", head(kind=kind)))
    right(f"meta: {word}, compressed", good("scan.mha", head(kind=kind), compressed=True, big=True))
right("meta: MET_LONG has four bytes", good("scan.mha", head(kind="i4"), fields={"ElementType": "MET_LONG"}))
for word in ("MET_OTHER", "MET_STRING", "MET_NONE", "short", ""):
    refused(f"meta: type {word or 'empty'}", bad("scan.mha", fields={"ElementType": word}))
for number in ("-3", "0", "2", "4", "5", "1000000000", "three", ""):
    refused(f"meta: NDims {number or 'empty'}", bad("scan.mha", fields={"NDims": number}))
for sizes in ("10 12", "10 12 7 2", "-10 12 7", "0 12 7", "10 12 8", "32767 32767 32767", "99999999999999999999 12 7", "ten 12 7", ""):  # fmt: skip # noqa: E501
    for compressed in (False, True):
        refused(f"meta: DimSize '{sizes}' {compressed}", bad("scan.mha", compressed=compressed, fields={"DimSize": sizes}))  # fmt: skip # noqa: E501
for key in ("NDims", "DimSize", "ElementType", "ElementDataFile", "TransformMatrix", "Offset", "ElementSpacing"):
    refused(f"meta: no {key}", bad("scan.mha", fields={key: None}))
for key in ("ObjectType", "BinaryData", "CenterOfRotation", "AnatomicalOrientation"):
    right(f"meta: no {key}", good("scan.mha", fields={key: None}))
for key, words in {"TransformMatrix": ("1 0 0 0 1 0", "0 0 0 0 1 0 0 0 1", "1 0 0 1 0 0 0 0 1", "nan 0 0 0 1 0 0 0 1", "1e400 0 0 0 1 0 0 0 1", "a b c", ""), "Offset": ("nan 0 0", "inf 0 0", "1 2", "x y z"), "ElementSpacing": ("0 1 1", "nan 1 1", "inf 1 1", "1 1", "1 one 1", "1e400 1 1")}.items():  # fmt: skip # noqa: E501
    for word in words:
        refused(f"meta: {key} '{word}'", bad("scan.mha", fields={key: word}))
for key in ("Position", "Origin"):
    right(f"meta: {key} for Offset", good("scan.mha", affine=np.diag([1, 1, 2, 1.0]), fields={"Offset": None, key: "0 0 0"}))  # fmt: skip # noqa: E501
for key in ("Rotation", "Orientation"):
    right(f"meta: {key} for TransformMatrix", good("scan.mha", affine=np.diag([-1.0, -1, 2, 1]), fields={"TransformMatrix": None, key: "1 0 0 0 1 0 0 0 1"}))  # fmt: skip # noqa: E501
right("meta: ElementSize for ElementSpacing", good("scan.mha", affine=np.diag([-1.0, -1, 2, 1]), fields={"ElementSpacing": None, "ElementSize": "1 1 2"}))  # fmt: skip # noqa: E501
right("meta: HeaderSize -1", good("scan.mhd", fields={"HeaderSize": "-1"}))
right_or_refused("meta: HeaderSize 0", good("scan.mhd", fields={"HeaderSize": "0"}))
right("meta: ASCII numbers", good("scan.mha", head(kind="i2"), fields={"BinaryData": "False"}, voxels=" ".join(f"{v}" for v in head(kind="i2").ravel(order="F")).encode()))  # fmt: skip # noqa: E501
refused("meta: three channels", bad("scan.mha", np.stack([head()] * 3, 0)[0], fields={"ElementNumberOfChannels": "3"}))
for number in ("0", "-1", "x", "99999999999"):
    refused(f"meta: {number} channels", bad("scan.mha", fields={"ElementNumberOfChannels": number}))
for size in ("1", "0", "-5", "999999999"):
    right_or_refused(f"meta: CompressedDataSize {size}", good("scan.mha", compressed=True, fields={"CompressedDataSize": size}))  # fmt: skip # noqa: E501
right("meta: no CompressedDataSize", good("scan.mha", compressed=True, fields={"CompressedDataSize": None}))
for target in ("gone.raw", "LIST", "scan%03d.raw 1 7 1", ".", "", "/dev/zero", "scan.mhd"):
    refused(f"meta: ElementDataFile '{target}'", bad("scan.mhd", fields={"ElementDataFile": target}))


def meta_frames(number: int | None) -> object:
    def make(folder: Path) -> Given:
        data = np.stack([head(), head(seed=1)], axis=-1)
        fields = {"NDims": "4", "ElementSpacing": "1 1 2 1", "Offset": "0 0 0 0",
                  "TransformMatrix": " ".join(repr(float(v)) for v in np.eye(4).ravel())}  # fmt: skip
        path = metaimage(folder / "scan.mha", np.ascontiguousarray(data), fields={**fields, "DimSize": "10 12 7 2"})
        truth = None if number is None else Truth(head(seed=number), np.diag([-1.0, -1.0, 2.0, 1.0]))
        return Given(path, truth, () if number is None else ("--frame", str(number)))

    return make


right("meta: frame 1 of two", meta_frames(1))
refused("meta: two frames, none chosen", meta_frames(None), "--frame")
refused("meta: 2D", bad("scan.mha", fields={"NDims": "2", "DimSize": "10 12", "ElementSpacing": "1 1", "Offset": "0 0", "TransformMatrix": "1 0 0 1"}))  # fmt: skip # noqa: E501

# ---- Rubbish ----


def rubbish(name: str, seed: int) -> object:
    """A sound file whose header has been mangled: lines lost, doubled, swapped, numbers and letters replaced."""

    def make(folder: Path) -> Given:
        given = good(name, head(kind="i2"))(folder)
        raw = given.scan.read_bytes()
        end = raw.find(b"\n\n") if b"\n\n" in raw and "n" in name else raw.find(b"LOCAL\n")
        header, rest = raw[:end].decode("latin-1"), raw[end:]
        rng = random.Random(seed)
        lines = header.split("\n")
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(1, len(lines))
            action = rng.randrange(5)
            if action == 0 and len(lines) > 3:
                del lines[at]
            elif action == 1:
                lines.insert(at, lines[rng.randrange(1, len(lines))])
            else:
                text = list(lines[at])
                for _ in range(rng.randint(1, 5)):
                    where = rng.randrange(len(text) + 1)
                    text[where : where + rng.randint(0, 2)] = rng.choice("0123456789-+.e(), \x00\xff:=%axyz")
                lines[at] = "".join(text)
        given.scan.write_bytes("\n".join(lines).encode("latin-1") + rest)
        return Given(given.scan)  # what it now says may be another sound place: only a crash is wrong

    return make


for seed in range(40):
    right_or_refused(f"nrrd: rubbish {seed}", rubbish("scan.nrrd", seed), slow=seed >= 15)
    right_or_refused(f"meta: rubbish {seed}", rubbish("scan.mha", seed), slow=seed >= 15)
for size in (0, 1, 9, 100, 100_000):
    for name in ("scan.nrrd", "scan.mha"):
        refused(f"{name[5:]}: {size} bytes of noise", lambda folder, name=name, size=size: _noise(folder / name, size))
        refused(f"{name[5:]}: {size} bytes of noise behind the first line", lambda folder, name=name, size=size: _noise(folder / name, size, b"NRRD0004\n" if "n" in name[5:] else b"ObjectType = Image\nNDims = 3\n"))  # fmt: skip # noqa: E501


def _noise(path: Path, size: int, first: bytes = b"") -> Path:
    path.write_bytes(first + np.random.default_rng(size).bytes(size))
    return path


refused("nrrd: a line of a million characters", bad("scan.nrrd", fields={"content": "x" * 2_000_000}), "header")
assert SHAPE == (10, 12, 7)
