"""Do guides guide, or are they copied? Lesions painted into the guide alone must not appear, and lesions painted into
the truth alone must stay.

A spot's contrast is the mean of what it changed inside it, less the mean of what it changed in the ring around it, in
units of the image's range, so that a brighter scale alone counts as nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scorefusion.errors import RequestError
from scorefusion.evaluation.guided.exams import GUIDE, Guided
from scorefusion.evaluation.guided.ways import Restore
from scorefusion.evaluation.lesions import RING, LesionRegion, lesion_contrast, lesion_region
from scorefusion.evaluation.regions import erode
from scorefusion.evaluation.rows import Row
from scorefusion.evaluation.simulate import CLASSICAL, CoarseScan, simulate
from scorefusion.imaging.grid import Grid
from scorefusion.imaging.intensity import IntensityScale, fit_intensity_scale
from scorefusion.imaging.volume import Volume

RADIUS = (4.0, 8.0)  # mm
STRENGTH = (0.3, 0.6)  # of the image's range, brighter
EDGE = 1.5  # mm over which a spot fades
HOW = (
    f"Spots of {RADIUS[0]:g} to {RADIUS[1]:g} mm radius, {STRENGTH[0]:.0%} to {STRENGTH[1]:.0%} of the range brighter, "
    "painted at several places at once. Leaked: painted into the T1w alone, the contrast of the result against the "
    "result beside the clean T1w, over the contrast painted; 0 % is right, below 0 % it came out dark. Kept: painted "
    "into the truth alone before it was scanned coarsely, beside the clean T1w; 100 % is right. The worst leak is the "
    "largest in size, the worst kept the smallest."
)


@dataclass(frozen=True)
class Spot:
    """A ball in the world: RAS mm, its radius in mm, and how much brighter it is, as a share of an image's range."""

    centre: tuple[float, float, float]
    radius: float
    strength: float

    def level(self, grid: Grid) -> NDArray[np.float32]:
        """`(I, J, K)` 1 inside, 0 outside, fading over `EDGE`."""
        middle = grid.world_to_index(np.array(self.centre))
        steps = [np.arange(size) - place for size, place in zip(grid.spatial_shape, middle, strict=True)]
        i, j, k = (step.astype(np.float32) for step in np.ix_(*steps))
        distance = np.sqrt(sum((x * i + y * j + z * k) ** 2 for x, y, z in grid.affine[:3, :3].astype(np.float32)))
        return np.clip((self.radius - distance) / EDGE + 0.5, 0.0, 1.0)


def place_spots(subject: Guided, wanted: int, seed: int) -> list[Spot]:
    """Up to `wanted` spots well inside the brain, far enough from each other that no ring touches another spot.

    Raises:
        RequestError: not even one fits.
    """
    rng = np.random.default_rng(seed)
    grid, spots = subject.truth.grid, list[Spot]()
    for _ in range(wanted):
        radius, strength = float(rng.uniform(*RADIUS)), float(rng.uniform(*STRENGTH))
        free = erode(subject.brain.mask, int(np.ceil(radius / min(grid.spacing))))
        places = grid.index_to_world(torch.nonzero(free).numpy().astype(np.float64).reshape(-1, 3))
        for other in spots:
            apart = radius + other.radius + RING[1] * max(grid.spacing) + EDGE
            places = places[np.linalg.norm(places - np.array(other.centre), axis=-1) > apart]
        if len(places):
            x, y, z = places[int(rng.integers(len(places)))].tolist()
            spots.append(Spot((x, y, z), radius, strength))
    if not spots:
        msg = f"{subject.case.title}: no spot of {RADIUS[0]:g} mm fits into its brain here; give a larger --crop"
        raise RequestError(msg)
    return spots


def paint(volume: Volume, spots: Sequence[Spot], scale: IntensityScale) -> Volume:
    """The volume (one channel, any grid) with the spots, as bright as `scale` says."""
    added = sum(spot.strength * spot.level(volume.grid) for spot in spots)
    return volume.with_data((volume.data + (scale.high - scale.low) * np.asarray(added)).astype(np.float32))


def spot_rows(subject: Guided, restore: Restore, prefix: str, clean: Tensor, wanted: int, seed: int) -> list[Row]:
    """What becomes of each spot, `leaked`, `kept` and `kept_cubic` as shares of the contrast painted.

    Args:
        subject: person and contrast.
        restore: the model.
        prefix: its name.
        clean: `(I, J, K)` the scan restored beside the T1w as it is, scanner units.
        wanted: spots.
        seed: of their places, radii and strengths.
    """
    spots, grid, guide = place_spots(subject, wanted, seed), subject.truth.grid, subject.guides[GUIDE]
    lying = paint(guide, spots, fit_intensity_scale(guide.data))
    scan = _scan_with(subject, spots)
    leaked = restore(subject.scan.volume, {GUIDE: lying}, grid, True).data - clean
    kept = restore(scan.volume, {GUIDE: guide}, grid, True).data - clean
    cubic = _cubic(scan) - _cubic(subject.scan)
    rows = []
    for number, spot in enumerate(spots, 1):
        level = torch.from_numpy(spot.level(grid))
        region = lesion_region(level > 0.5, subject.brain.mask)
        if region is None:
            msg = f"{subject.case.title}: spot {number} has no ring inside the brain; give a larger --crop"
            raise RequestError(msg)
        painted = lesion_contrast(spot.strength * level, region)[0]
        figures = {
            "leaked": _share(leaked, region, painted * subject.width),
            "kept": _share(kept, region, painted * subject.width),
            "kept_cubic": _share(cubic, region, painted * subject.width),
            "radius_mm": spot.radius,
            "strength": spot.strength,
            **dict(zip(("x_mm", "y_mm", "z_mm"), spot.centre, strict=True)),
        }
        own = (subject.setting, subject.name, subject.contrast, subject.apart)
        rows.append(Row(*own, f"{prefix}:spot-{number}", f"{prefix} with T1w, spot {number}", "spot", figures))
    return rows


def _share(change: Tensor, region: LesionRegion, painted: float) -> float:
    return lesion_contrast(change, region)[0] / painted


def _scan_with(subject: Guided, spots: Sequence[Spot]) -> CoarseScan:
    return simulate(paint(subject.truth, spots, subject.scale), subject.scan.setting)


def _cubic(scan: CoarseScan) -> Tensor:
    return CLASSICAL["cubic"][1](scan.acquisition, torch.from_numpy(scan.volume.data)[None])[0, 0]
