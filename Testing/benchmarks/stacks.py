"""Two orthogonal stacks of 5 mm against the better single one, by the shipped model, on a piece of a sharp head.

    python Testing/benchmarks/stacks.py T1W.nii.gz [--turn 3] [--noise 0.03] [--size 96]

The second stack is measured from the head turned by `--turn` degrees and moved by 1.5 mm, with another gain; the run
registers it. PSNR over the head's middle, in which all stacks lie. UniRes, the peer by a model, is compared by
`scorefusion evaluate` where it is installed; it is not run here.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "ScoreFusion")]

from scorefusion.evaluation.simulate import coarse_affine  # noqa: E402
from scorefusion.imaging.acquisition import Acquisition  # noqa: E402
from scorefusion.imaging.files import read_volume  # noqa: E402
from scorefusion.imaging.foreground import foreground_mask  # noqa: E402
from scorefusion.imaging.grid import Box, Grid  # noqa: E402
from scorefusion.imaging.stacks import Measurement, project  # noqa: E402
from scorefusion.imaging.volume import Volume  # noqa: E402
from scorefusion.pipeline import translate  # noqa: E402

GAIN = 1.3
RIM = 10  # voxels at each side of the piece that are not judged: the turned stack has no slices there


def say(line: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def middle(volume: Volume, size: int) -> Volume:
    """A cube around the middle, its sides whole numbers of 5 mm."""
    start = [max(0, (n - size) // 2) for n in volume.spatial_shape]
    edges = [min(size, n) // 5 * 5 for n in volume.spatial_shape]
    i, j, k = ((a, a + n) for a, n in zip(start, edges, strict=True))
    return volume.crop(Box((i[0], j[0], k[0]), (i[1], j[1], k[1])))


def turned(grid: Grid, degrees: float) -> np.ndarray:
    """A rigid motion `(4, 4)` about the middle of a grid: a turn about two axes, and 1.5 mm forward."""
    a = np.deg2rad(degrees)
    about_k, about_i = np.eye(4), np.eye(4)
    about_k[:2, :2] = about_i[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    matrix = about_k @ about_i
    centre = grid.index_to_world((np.array(grid.spatial_shape) - 1) / 2)
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + np.array([0.0, 1.5, 0.0]) * (degrees != 0)
    return matrix


def scan(head: Volume, piece: Volume, axis: int, motion: np.ndarray, noise: float, seed: int, name: str) -> Volume:
    """A stack of 5 mm of the whole head, over the piece's field of view; its header says nothing of the motion."""
    grid = piece.grid
    coarse = coarse_affine(grid.affine, Acquisition.thick_slices(grid.spatial_shape, axis, 5))
    shape = list(grid.spatial_shape)
    shape[axis] //= 5
    place = Grid((shape[0], shape[1], shape[2]), motion @ coarse)
    x = torch.from_numpy(head.data)[None]
    seen = Measurement.on(head.grid, place, torch.zeros(1, 1, *shape)).operator.forward(x)[0]
    if tuple(seen.shape[1:]) != tuple(shape):
        message = "the piece must lie well inside the head's own grid"
        raise SystemExit(message)
    generator = torch.Generator().manual_seed(seed)
    top = float(np.percentile(head.data, 99))
    data = seen + noise * top * torch.randn(seen.shape, generator=generator)
    return Volume(data.numpy(), coarse, 5.0, axis, name, head.contrast)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", type=Path)
    parser.add_argument("--turn", type=float, default=3.0)
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation, in shares of the 99th percentile")
    parser.add_argument("--size", type=int, default=95, help="voxels a side of the piece")
    parser.add_argument("--stacks", type=int, default=2, choices=(2, 3))
    options = parser.parse_args()
    head = read_volume(options.head).canonical()[0]
    piece = middle(head, options.size)
    motion = turned(piece.grid, options.turn)
    still = np.eye(4)
    scans = {
        "axial": scan(head, piece, 2, still, options.noise, 0, "axial.nii.gz"),
        "coronal": scan(head, piece, 1, motion, options.noise, 1, "coronal.nii.gz"),
    }
    if options.stacks == 3:
        scans["sagittal"] = scan(head, piece, 0, np.linalg.inv(motion), options.noise, 2, "sagittal.nii.gz")
    inside = np.zeros(piece.spatial_shape, bool)
    inside[RIM:-RIM, RIM:-RIM, RIM:-RIM] = True
    inside &= foreground_mask(piece.data[0])
    top = float(piece.data[0][inside].max())

    def decibels(result: Volume, truth: Volume, where: np.ndarray) -> float:
        error = (result.data - truth.data)[0][where]
        return float(10 * np.log10(top**2 / np.mean(error.astype(np.float64) ** 2)))

    say(f"{head.name}, {piece.grid}, coronal turned by {options.turn:g} degrees, noise {options.noise:.0%}")
    single = {}
    for name, volume in scans.items():
        begin = time.monotonic()
        # Each alone is judged on the axes that it was measured on, with the truth there.
        moved = {"axial": still, "coronal": motion, "sagittal": np.linalg.inv(motion)}[name]
        result = translate(volume, device="cpu", precision="float32").volume
        seen = Measurement.on(head.grid, Grid(result.spatial_shape, moved @ result.affine),
                              torch.zeros(1, 1, *result.spatial_shape)).operator  # fmt: skip
        truth = piece.with_data(seen.forward(torch.from_numpy(head.data)[None])[0].numpy())
        single[name] = decibels(result, truth, inside)
        say(f"  {name} alone: {single[name]:.2f} dB ({time.monotonic() - begin:.0f} s)")
    begin = time.monotonic()
    first, *others = scans.values()
    others = [replace(v, data=v.data / GAIN) for v in others]
    logs: list[str] = []
    result = translate(
        first, stacks=others, device="cpu", precision="float32", register=bool(options.turn),
        on_event=lambda event: logs.append(event["message"]) if event["event"] in ("log", "warning") else None,
    )  # fmt: skip
    both = decibels(result.volume, piece, inside)
    for line in logs:
        if ".nii.gz" in line:
            say(f"  | {line}")
    for record in result.provenance["Stacks"]:
        say(f"  | {record['Name']}: residual {record['ResidualRms']:.3g} rms, {record['ResidualMax']:.3g} at most")
    say(f"  together: {both:.2f} dB ({time.monotonic() - begin:.0f} s); {both - max(single.values()):+.2f} dB")
    known = [replace(v, affine=m @ v.affine, data=v.data) for v, m in zip(
        scans.values(), (still, motion, np.linalg.inv(motion)), strict=False)]  # fmt: skip
    measured = [Measurement.on(piece.grid, v.grid, torch.from_numpy(v.data)[None]) for v in known]
    classical = project(Acquisition.between(piece.grid, known[0].grid).upsample(measured[0].values), measured)
    figure = decibels(piece.with_data(classical[0].numpy()), piece, inside)
    say(f"  classical, motion known (cubic, projected onto all): {figure:.2f} dB")
    say("  UniRes: " + ("installed, see `scorefusion evaluate`" if find_spec("unires") else "not installed here"))


if __name__ == "__main__":
    main()
