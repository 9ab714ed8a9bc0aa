"""Real exams, restored: pictures in three planes before and after, seconds, memory, and how the volume's ends look.

    python Testing/benchmarks/clinical.py EXAM_FOLDER OUT [--model brain-sr] [--preset fast] [--crop 96]

Each FLAIR and T2w of the folder with slices of 2.5 mm or more is restored in a process of its own, so that its peak of
memory is its own. A scan that has its row (NAME.json in OUT) is not made again: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "ScoreFusion")]

from scorefusion.imaging.files import read_volume, write_volume  # noqa: E402
from scorefusion.imaging.grid import Box  # noqa: E402
from scorefusion.imaging.intensity import fit_intensity_scale  # noqa: E402
from scorefusion.imaging.volume import Volume, resample  # noqa: E402

CONTRASTS = ("FLAIR", "T2w")
THICK_MM = 2.5
RIM_MM = 3.0
PIXEL_MM = 0.5


def say(line: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cropped(volume: Volume, across: int, voxels: int) -> Volume:
    """So many voxels of the middle in plane, all slices."""
    size = [n if axis == across else min(n, voxels) for axis, n in enumerate(volume.spatial_shape)]
    start = [(n - kept) // 2 for n, kept in zip(volume.spatial_shape, size, strict=True)]
    stop = [first + kept for first, kept in zip(start, size, strict=True)]
    return volume.crop(Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))


def rim(result: Volume, linear: Volume, across: int) -> dict[str, float]:
    """Mean |result - linear interpolation| in the outer 3 mm at each end of the slices' axis, over that between."""
    difference = np.moveaxis(np.abs(result.data[0] - linear.data[0]), across, 0).mean(axis=(1, 2))
    outer = max(1, round(RIM_MM / result.spacing[across]))
    inside = float(difference[outer:-outer].mean())
    return {"first": float(difference[:outer].mean()) / inside, "last": float(difference[-outer:].mean()) / inside}


def picture(before: Volume, after: Volume, path: Path) -> None:
    """Rows before and after; columns sagittal, coronal, axial through the middle; one scale, square pixels."""
    scale = fit_intensity_scale(before.data, (0.5, 99.5))
    rows = []
    for volume in (before, after):
        canonical = volume.canonical()[0]
        tiles = []
        for plane in range(3):
            middle = np.take(canonical.data[0], canonical.spatial_shape[plane] // 2, axis=plane)
            grey = np.clip((scale.normalise(middle) + 1.0) * 127.5, 0, 255).astype(np.uint8)
            wide, high = (canonical.spatial_shape[axis] * canonical.spacing[axis] for axis in range(3) if axis != plane)
            image = Image.fromarray(np.ascontiguousarray(grey.T[::-1]))
            tiles.append(np.asarray(image.resize((round(wide / PIXEL_MM), round(high / PIXEL_MM)), Image.NEAREST)))
        rows.append(tiles)
    tall = max(tile.shape[0] for tile in rows[0])
    lines = [np.hstack([np.pad(tile, ((0, tall - tile.shape[0]), (2, 2))) for tile in tiles]) for tiles in rows]
    Image.fromarray(np.vstack(lines)).save(path)


def restore(source: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One scan; writes the result, its picture, and returns its row."""
    from scorefusion.pipeline import translate

    scan = read_volume(source)
    across = int(np.argmax(scan.spacing))
    if options.crop:
        scan = cropped(scan, across, options.crop)
    start = time.monotonic()
    result = translate(
        scan, options.model, preset=options.preset, device=options.device, even_slices=not options.keep_slices
    )
    seconds = time.monotonic() - start
    write_volume(result.volume, out / f"{options.name}.nii.gz")
    picture(scan, result.volume, out / f"{options.name}.png")
    return {
        "scan": options.name,
        "from_mm": [round(mm, 3) for mm in scan.spacing],
        "to_mm": [round(mm, 3) for mm in result.volume.spacing],
        "seconds": round(seconds, 1),
        "peak_GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),
        "rim": rim(result.volume, resample(scan, result.volume.grid, "linear"), across),
        "slices_evened": result.provenance["SlicesEvened"],
        "slice_gains": result.provenance.get("SliceGains"),
        "warnings": result.provenance["Warnings"],
    }


def thick_scans(exam: Path) -> list[Path]:
    """The FLAIR and T2w scans of an exam that have thick slices."""
    scans = sorted(path for path in exam.glob("*.nii*") if any(contrast in path.name for contrast in CONTRASTS))
    return [path for path in scans if max(read_volume(path).spacing) >= THICK_MM]


def main() -> None:
    """A process for each scan that has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exam", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="brain-sr")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--crop", type=int, default=0, metavar="N", help="N x N voxels in plane; 0 = all")
    parser.add_argument("--keep-slices", action="store_true")
    parser.add_argument("--name", help=argparse.SUPPRESS)  # of the one scan that `exam` then is
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.name:
        row = restore(options.exam, options.out, options)
        (options.out / f"{options.name}.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
        return
    for source in thick_scans(options.exam):
        name = f"{options.exam.name}_{source.name.split('.')[0]}"
        row = options.out / f"{name}.json"
        if not row.is_file():
            command = [sys.executable, __file__, str(source), str(options.out), "--name", name, *_passed_on(options)]
            subprocess.run(command, check=True)
        say(json.dumps({key: value for key, value in json.loads(row.read_text()).items() if key != "slice_gains"}))


def _passed_on(options: argparse.Namespace) -> list[str]:
    kept = ["--keep-slices"] if options.keep_slices else []
    same = ["--model", options.model, "--preset", options.preset, "--device", options.device]
    return [*same, "--crop", str(options.crop), *kept]


if __name__ == "__main__":
    main()
