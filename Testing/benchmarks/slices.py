"""How much the slices of real scans differ in brightness and in noise, one row a scan.

    python Testing/benchmarks/slices.py SCAN.nii.gz ...

Brightness: root mean square and largest of what is evened out, and how much brighter every other slice is. Noise: from
differences of diagonal neighbours in plane within the head; robust spread of each slice's over its two neighbours'.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "ScoreFusion")]

from scorefusion.imaging.files import read_volume  # noqa: E402
from scorefusion.imaging.foreground import foreground_mask  # noqa: E402
from scorefusion.imaging.intensity import fit_intensity_scale  # noqa: E402
from scorefusion.imaging.slices import slice_gains  # noqa: E402
from scorefusion.imaging.volume import Volume  # noqa: E402

FEWEST_VOXELS = 500


def noise_differences(volume: Volume, axis: int) -> float:
    """Robust spread of the logarithm of each slice's noise over the mean of its neighbours'."""
    slices, tissue = (np.moveaxis(array, axis, 0) for array in (volume.data[0], foreground_mask(volume.data)))
    cross = 0.5 * (slices[:, 1:, 1:] - slices[:, 1:, :-1] - slices[:, :-1, 1:] + slices[:, :-1, :-1])
    inside = tissue[:, 1:, 1:] & tissue[:, :-1, :-1]
    full = [s for s in range(len(slices)) if inside[s].sum() > FEWEST_VOXELS]
    logs = np.log([np.median(np.abs(cross[s][inside[s]])) for s in full])
    return float(1.4826 * np.median(np.abs(logs[1:-1] - 0.5 * (logs[2:] + logs[:-2]))))


def main() -> None:
    """A row for each file."""
    sys.stdout.write("scan: spacing mm | gain rms %, largest %, odd - even % | noise %\n")
    for path in (Path(name) for name in sys.argv[1:]):
        volume = read_volume(path)
        axis = int(np.argmax(volume.spacing))
        found = slice_gains(volume, axis, fit_intensity_scale(volume.data).low)
        alternating = found.gains[1::2].mean() - found.gains[::2].mean()
        spacing = " x ".join(f"{mm:.2f}" for mm in volume.spacing)
        sys.stdout.write(
            f"{path.parent.name}/{path.name}: {spacing} | {100 * found.spread:.2f}, {100 * found.largest:.2f}, "
            f"{100 * alternating:+.2f} | {100 * noise_differences(volume, axis):.1f}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
