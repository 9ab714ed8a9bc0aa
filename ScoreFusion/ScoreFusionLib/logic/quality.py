"""Compare a result with its input or with a reference. Runs in a worker: `python -m ScoreFusionLib.logic.quality`.

The arithmetic is the engine's; this file reads the volumes, brings them onto the grid of the result, and writes the
figures as one JSON line and the maps as volumes. It imports neither slicer nor qt.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

MODULE = "ScoreFusionLib.logic.quality"


def compare(result: Path, reference: Path, error_map: Path | None) -> dict[str, Any]:
    """Score `result` against `reference`.

    Args:
        result, reference: Volumes; they may lie on different grids of one world.
        error_map: Where to write |result - reference|, on the result's grid, in the reference's units.

    Returns:
        `psnr` in dB, `ssim`, `mae` as a share of the reference's range, each also with `_brain` inside the brain.

    Raises:
        scorefusion.errors.ScoreFusionError: A volume cannot be used, or the two do not overlap.
    """
    import numpy as np
    import torch

    from scorefusion.errors import GeometryError
    from scorefusion.evaluation.metrics import score_volume
    from scorefusion.evaluation.regions import brain_region
    from scorefusion.imaging.files import read_volume, write_volume
    from scorefusion.imaging.grid import overlap_fraction
    from scorefusion.imaging.volume import resample

    estimate, truth = read_volume(result), read_volume(reference)
    if overlap_fraction(estimate.grid, truth.grid) < 0.5:
        msg = "The reference volume and the result overlap by less than half. Choose a reference of the same scan."
        raise GeometryError(msg)
    truth = resample(truth, estimate.grid)
    low, high = np.percentile(truth.data, (0.5, 99.5))
    scale = float(high - low) or 1.0
    region = brain_region(truth.canonical()[0])
    scores = score_volume(
        torch.from_numpy((estimate.canonical()[0].data[0] - low) / scale),
        torch.from_numpy((truth.canonical()[0].data[0] - low) / scale),
        region.mask,
    )
    if error_map is not None:
        write_volume(estimate.with_data(np.abs(estimate.data - truth.data)), error_map)
    names = ("psnr", "ssim", "mae", "psnr_brain", "ssim_brain", "mae_brain")
    return {**{name: float(getattr(scores, name)) for name in names}, "brain": region.how}


def write_change(result: Path, base: Path, change_map: Path) -> None:
    """Write what a model changed: result minus the linearly interpolated input. No measure of error: nobody knows it.

    Args:
        result, base: Volumes of one contrast and one world.
        change_map: Where to write the difference, signed, on the result's grid, in the input's units.

    Raises:
        scorefusion.errors.ScoreFusionError: A volume cannot be used.
    """
    from scorefusion.imaging.files import read_volume, write_volume
    from scorefusion.imaging.volume import resample

    sharp = read_volume(result)
    write_volume(sharp.with_data(sharp.data - resample(read_volume(base), sharp.grid).data), change_map)


def main(arguments: list[str]) -> int:
    """Make what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--error-map", type=Path)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--change-map", type=Path)
    options = parser.parse_args(arguments)
    from scorefusion.errors import ScoreFusionError

    quality = None
    try:
        if options.input is not None:
            write_change(options.result, options.input, options.change_map)
        if options.reference is not None:
            quality = compare(options.result, options.reference, options.error_map)
    except ScoreFusionError as error:
        _write({"event": "error", "kind": type(error).__name__, "message": str(error)})
        return 2
    _write({"event": "result", "quality": quality})
    return 0


def _write(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
