"""Numbers: intensities, thickness, spacing, sidecars, weights, and one scan given as two contrasts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from corpus.framework import Given, Truth, refused, right, right_or_refused, sha256, warned
from corpus.makers import OBLIQUE, SHAPE, good, head, nifti, placed, write

NAN, INF = float("nan"), float("inf")


def one_voxel(value: float, kind: str = "f4", count: int = 1) -> Any:
    data = head(kind=kind)
    data[3, 4, 2 : 2 + count] = value
    return data


# ---- Intensities ----

for value in (NAN, INF, -INF):
    for name in ("scan.nii.gz", "scan.nrrd", "scan.mha"):
        refused(f"numbers: a voxel of {value} in {name[5:]}", good(name, one_voxel(value)), "NaN or infinite")
for value in (1e30, -1e30, 3e38, 1e12, -1e9, 1e21):
    refused(f"numbers: a voxel of {value:g}", good(data=one_voxel(value)))
refused("numbers: a voxel of 1e300 in double precision", good(data=one_voxel(1e300, "f8")), "infinite")
for value in (5e4, -5e4):
    warned(f"numbers: a voxel of {value:g}", good(data=one_voxel(value)), "while most lie between")
right("numbers: a voxel of 2000", good(data=one_voxel(2000)))
right("numbers: a denormal voxel", good(data=one_voxel(1e-42)))
for factor in (1e-42, 1e-39, 1e-37):
    refused(f"numbers: all times {factor:g}", good(data=head(kind="f8") * factor), "single precision")
for factor in (1e30, 1e36):
    refused(f"numbers: all times {factor:g}", good(data=head(kind="f8") * factor), "no scan has")
for factor in (1e-33, 1e-25, 1e-6, 1e-3, 1e6, 1e15):
    right(f"numbers: all times {factor:g}", good(data=head(kind="f8") * factor))
for offset in (1e9, 1e12, -1e9, 1e20):
    refused(f"numbers: all plus {offset:g}", good(data=head(kind="f8") + offset))
for offset in (1000, -1000, 1e4, -1e4):
    right(f"numbers: all plus {offset:g}", good(data=head(kind="f4") + np.float32(offset)))
for factor in (1e-6, 1e-9):
    refused(f"numbers: 1000 and differences times {factor:g}", good(data=1000 + head(kind="f8") * factor))
right_or_refused("numbers: 1000 and differences of 1e-2, one voxel of 2000", good(data=np.where(np.arange(840).reshape(SHAPE) == 400, 2000, 1000 + head(kind="f8") * 1e-4)))  # fmt: skip # noqa: E501
for value in (0, 7, -1e-40):
    refused(f"numbers: all {value:g}", good(data=np.full(SHAPE, value, np.float32)))
refused("numbers: all zero, one voxel not", good(data=np.where(np.arange(840).reshape(SHAPE) == 400, 1e-44, 0)))
right_or_refused("numbers: all zero, one voxel of 100", good(data=np.where(np.arange(840).reshape(SHAPE) == 400, 100.0, 0)))  # fmt: skip # noqa: E501
right_or_refused("numbers: a mask", good(data=(head() > 50).astype("u1")))
right_or_refused("numbers: a checkerboard", good(data=(np.indices(SHAPE).sum(0) % 2).astype("u1")))
right("numbers: noise alone", good(data=np.random.default_rng(0).normal(size=SHAPE).astype("f4")))
right("numbers: z-scored", good(data=((head() - head().mean()) / head().std()).astype("f4")))
right("numbers: the largest of 16 bits", good(data=(head(kind="i4") * 500).clip(0, 65535).astype("u2")))
right("numbers: whole numbers beyond 2^24", good(data=head(kind="i8") * (1 << 30)))


# ---- Thickness ----


def thick(option: str | None = None, sidecar: Any = None, spacing: float = 2.0) -> Callable[[Path], Given]:
    """With the thickness as an option, or in a sidecar (a dict, or the very text)."""

    def make(folder: Path) -> Given:
        path = nifti(folder / "scan.nii.gz", None, placed((1, 1, spacing)))
        if sidecar is not None:
            text = sidecar if isinstance(sidecar, (str, bytes)) else json.dumps(sidecar)
            (folder / "scan.json").write_bytes(text.encode() if isinstance(text, str) else text)
        options = () if option is None else (f"--thickness={option}",)
        name = "scan.json" if option is None else "thickness"
        return Given(path, Truth(head(), placed((1, 1, spacing))), options, measured=False, names=name)

    return make


for value in ("99.9", "50", "1e-6", "0", "-2", "nan", "inf", "-inf", "1e300", "1e-300", "100", "31"):
    refused(f"numbers: thickness {value}", thick(value), "thickness")
    if value not in ("nan", "inf", "-inf"):
        refused(
            f"numbers: sidecar with thickness {value}", thick(sidecar={"SliceThickness": float(value)}), "thickness"
        )
for value in ("17", "29", "0.09", "0.02"):
    refused(f"numbers: thickness {value} every 2 mm", thick(value), "believable")
for value in ("1", "2", "3.5"):
    right(f"numbers: thickness {value} every 2 mm", thick(value))
    right(f"numbers: sidecar with thickness {value}", thick(sidecar={"SliceThickness": float(value)}))
for value in ("9" * 401, "1" + "0" * 400, "1e400", "-1e400", "NaN", "Infinity", "9" * 5000, '"2"', "true", "[2]", "{}", '"' + "x" * 5000 + '"'):  # fmt: skip # noqa: E501
    refused(f"numbers: sidecar with thickness {value[:12]} ({len(value)} characters)", thick(sidecar=f'{{"SliceThickness": {value}}}'))  # fmt: skip # noqa: E501
for depth in (1000, 100_000, 1_000_000):
    refused(f"numbers: sidecar with lists {depth} deep", thick(sidecar="[" * depth), "json")
    right_or_refused(f"numbers: sidecar with closed lists {depth} deep", thick(sidecar='{"a": ' + "[" * depth + "]" * depth + "}"))  # fmt: skip # noqa: E501
refused("numbers: sidecar cut off", thick(sidecar='{"SliceThickness": 2'), "json")
refused("numbers: sidecar of binary", thick(sidecar=bytes(range(256))), "json")
refused("numbers: sidecar in UTF-16", thick(sidecar='{"SliceThickness": 2}'.encode("utf-16")), "json")
right("numbers: sidecar with a byte order mark", thick(sidecar=b"\xef\xbb\xbf" + b'{"SliceThickness": 2}'))
right("numbers: sidecar that is a list", thick(sidecar="[1, 2]"))
right("numbers: sidecar without thickness", thick(sidecar={"EchoTime": 0.1}))
right("numbers: sidecar with thickness null", thick(sidecar={"SliceThickness": None}))
for value in (None, 3, "x", [], "k-", "ijk"):
    right(f"numbers: sidecar with direction {value}", thick(sidecar={"SliceEncodingDirection": value}))
refused("numbers: sidecar of 20 MB", thick(sidecar=b'{"a": "' + b"x" * 20_000_000 + b'"}'), "larger")

# ---- Spacing ----


def spaced(value: str) -> Callable[[Path], Given]:
    def make(folder: Path) -> Given:
        path = nifti(folder / "scan.nii.gz", None, placed((1, 1, 2)))
        return Given(path, Truth(head(), placed((1, 1, 2))), (f"--spacing={value}",), names="spacing")

    return make


for value in ("0.001", "0.0001", "1e-9", "1e-300", "1e-320", "0", "-1", "nan", "inf", "1e400", "1,1", "1,1,1,1", "", "x", "1,nan,1", "0.003,0.003,0.003", "1,1,1e-5"):  # fmt: skip # noqa: E501
    refused(f"numbers: spacing {value or 'empty'}", spaced(value), "spacing")
for value in ("1", "0.5", "1,1,0.5", "0.5,1,1"):
    right(f"numbers: spacing {value}", spaced(value))
right_or_refused("numbers: spacing 1000", spaced("1000"))


def large(shape: tuple[int, int, int], spacing: float) -> Callable[[Path], Path]:
    return lambda folder: nifti(folder / "scan.nii.gz", head(shape), placed((spacing,) * 3))


refused("numbers: 2.9 m at 100 mm", large((29, 29, 29), 100.0), "memory")
refused("numbers: 12 m", large((12, 12, 12), 1000.0), "mm")

# ---- Weights ----


def poisoned(value: float) -> Callable[[Path], Given]:
    """A bundle with one bad weight, and the right checksum for it."""

    def make(folder: Path) -> Given:
        from safetensors.numpy import load_file, save_file
        from tiny_models import tiny_ensemble, write_tiny_bundle

        from scorefusion.fusion.inputs import InputLayout
        from scorefusion.fusion.rules import PlaneAverage

        ensemble = tiny_ensemble(InputLayout(slab_radius=1, plane_context=True, residual_gain=4.0))
        bundle = folder.parent / "poisoned"
        write_tiny_bundle(bundle, PlaneAverage(ensemble), base="cubic")
        weights, about = bundle / "models" / "plane.safetensors", bundle / "configs" / "metadata.json"
        state = {name: tensor.astype(np.float32) for name, tensor in load_file(weights).items()}
        next(iter(state.values())).flat[0] = value
        save_file(state, weights)
        metadata = json.loads(about.read_text())
        metadata["scorefusion"]["files"]["models/plane.safetensors"] = {
            "sha256": sha256(weights), "bytes": weights.stat().st_size
        }  # fmt: skip
        about.write_text(json.dumps(metadata))
        path = nifti(folder / "scan.nii.gz")
        return Given(path, None, ("--model", str(bundle)), names="model")

    return make


for value in (NAN, INF, -INF, 3e38):
    refused(f"numbers: a weight of {value}", poisoned(value))

# ---- Two contrasts ----


def pair(second: Callable[[Any], Any], affine: Any = OBLIQUE, name: str = "t2.nii.gz") -> Callable[[Path], Given]:
    def make(folder: Path) -> Given:
        first = nifti(folder / "t1.nii.gz")
        other = write(folder / name, second(head()), affine)
        return Given(first, Truth(head(), OBLIQUE), ("--input", f"t2={other}"), "translation", names=name)

    return make


right("numbers: T1 and T2", pair(lambda t1: np.where(t1 > 40, 130 - t1, t1 * 0.2).astype("f4")))
refused("numbers: the same T1 as T2", pair(lambda t1: t1), "again")
refused("numbers: the same T1 as T2, doubled", pair(lambda t1: 2 * t1), "same image")
refused("numbers: the same T1 as T2, in another format", pair(lambda t1: t1, name="t2.nrrd"), "again")
refused("numbers: the same T1 as T2, whole numbers", pair(lambda t1: (10 * t1).astype("i2")), "same image")
refused("numbers: T2 of NaN", pair(lambda t1: t1 * np.float32(NAN)), "NaN")
refused("numbers: T2 constant", pair(lambda t1: t1 * 0 + 3), "constant")
refused("numbers: T2 elsewhere", pair(lambda t1: 100 - t1, placed(origin=(500, 500, 500))), "not registered")
refused("numbers: T2 with a voxel of 1e30", pair(lambda t1: np.where(t1 == t1.max(), 1e30, t1)))


def very_same(folder: Path) -> Given:
    path = nifti(folder / "t1.nii.gz")
    return Given(path, None, ("--input", f"t2={path}"), "translation")


refused("numbers: one file as T1 and T2", very_same)
