"""Coarse scans made from sharp ones: the settings of the tables, through the same `Acquisition` that restores them.

Every input here is simulated: slice-profile blur, then decimation, of a volume that is the truth. No real coarse/sharp
pair is involved, and the operator's name belongs in the caption of each table (`Setting.description`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scorefusion.errors import RequestError
from scorefusion.imaging.acquisition import Acquisition, AxisSampling, Profile
from scorefusion.imaging.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scorefusion.imaging.grid import Grid

AXES = {"R": 0, "A": 1, "S": 2}
_NAME = re.compile(r"(?P<kind>iso|thick|inplane)(?P<amount>\d+(\.\d+)?)(?P<profile>g?)(@(?P<axis>[RAS]))?")


@dataclass(frozen=True)
class Setting:
    """How a scan was made coarse. Names: `iso4`, `thick5`, `thick5g@A` (Gaussian profile, coronal slices), `inplane4`.

    Attributes:
        kind: "iso": blocks of `amount` voxels along all axes; "inplane": along the two axes other than `axis`;
            "thick": slices `amount` mm thick and as far apart, along `axis`.
        amount: voxels ("iso", "inplane") or millimetres ("thick").
        axis: axis of the RAS+ ordered volume across the slices.
        profile: slice profile.
    """

    kind: str
    amount: float
    axis: int = 2
    profile: Profile = "box"

    @classmethod
    def parse(cls, name: str) -> Setting:
        """From a name on the command line."""
        match = _NAME.fullmatch(name.strip())
        if match is None:
            msg = (
                f"unknown setting {name!r}: expected iso4 (4x4x4 voxel average), thick5 (5 mm slices along S), "
                "thick5@A (along A), thick5g (Gaussian profile) or inplane4 (4x4 within slices)"
            )
            raise RequestError(msg)
        kind, amount = match["kind"], float(match["amount"])
        if kind != "thick" and (amount != int(amount) or amount < 2):
            msg = f"setting {name!r}: the factor of {kind!r} is a whole number of voxels, 2 or more"
            raise RequestError(msg)
        profile: Profile = "gaussian" if match["profile"] else "box"
        return cls(kind, amount, AXES[match["axis"] or "S"], profile)

    @property
    def name(self) -> str:
        """The name that `parse` takes."""
        letter = "RAS"[self.axis]
        where = "" if self.kind == "iso" or letter == "S" else f"@{letter}"
        return f"{self.kind}{self.amount:g}{'g' if self.profile == 'gaussian' else ''}{where}"

    @property
    def description(self) -> str:
        """For a caption: operator, factor, axes."""
        shape = "box" if self.profile == "box" else "Gaussian (full width at half maximum)"
        letter, n = "RAS"[self.axis], f"{self.amount:g}"
        if self.kind == "iso":
            return f"simulated: {shape} average over {n} x {n} x {n} voxels, all axes"
        if self.kind == "inplane":
            return f"simulated: {shape} average over {n} x {n} voxels, the axes other than {letter}"
        return f"simulated: slices of {n} mm along {letter}, {shape} profile, no gap, onto the truth's own grid"

    def block(self, grid: Grid) -> int:
        """Sizes that this divides hold whole blocks or slices; 1 where they are not whole voxels."""
        factor = self.amount / grid.spacing[self.axis] if self.kind == "thick" else self.amount
        return round(factor) if abs(factor - round(factor)) < 1e-3 else 1

    def coarsened_axes(self) -> tuple[int, ...]:
        """Axes that lose detail."""
        if self.kind == "iso":
            return (0, 1, 2)
        return (self.axis,) if self.kind == "thick" else tuple(axis for axis in range(3) if axis != self.axis)

    def acquisition(self, grid: Grid) -> Acquisition:
        """The operator on this grid, whose axes are in RAS+ order."""
        shape = grid.spatial_shape
        if self.kind == "iso":
            return Acquisition.isotropic(shape, int(self.amount), self.profile)
        if self.kind == "inplane":
            even = Acquisition.isotropic(shape, int(self.amount), self.profile).axes
            return Acquisition(shape, [None if axis == self.axis else even[axis] for axis in range(3)])
        factor = self.amount / grid.spacing[self.axis]
        if factor <= 1.0:
            msg = (
                f"setting {self.name!r} asks for slices of {self.amount:g} mm, but the volume's spacing along "
                f"{'RAS'[self.axis]} is {grid.spacing[self.axis]:.3g} mm already: nothing would be coarser"
            )
            raise RequestError(msg)
        return Acquisition.thick_slices(shape, self.axis, factor, None, self.profile)


@dataclass(frozen=True, eq=False)
class CoarseScan:
    """A simulated scan and the operator that made it."""

    volume: Volume  # on the coarse grid, its place in the world kept
    acquisition: Acquisition
    setting: Setting


def simulate(truth: Volume, setting: Setting) -> CoarseScan:
    """Scan `truth` (one channel, axes in RAS+ order) coarsely."""
    acquisition = setting.acquisition(truth.grid)
    measured = acquisition.forward(torch.from_numpy(truth.data)[None])[0].numpy()
    thickness, axis = (setting.amount, setting.axis) if setting.kind == "thick" else (None, None)
    affine = coarse_affine(truth.affine, acquisition)
    volume = Volume(measured, affine, thickness, axis, truth.source, truth.contrast)
    return CoarseScan(volume, acquisition, setting)


def coarse_affine(affine: NDArray[np.float64], acquisition: Acquisition) -> NDArray[np.float64]:
    """Affine of the measured grid: its first voxel's centre is the first slice's centre."""
    step = np.eye(4)
    for axis, sampling in enumerate(acquisition.axes):
        if isinstance(sampling, AxisSampling):
            step[axis, axis] = sampling.factor
            step[axis, 3] = float(sampling.centres[0])
    return affine @ step


# -- restoration without learning: the bar that a model must pass ------------------------------------------------------

#: Rounds of iterative back-projection in the tables.
ROUNDS = 20

#: Label and function from the measurement `(B, C, i, j, k)` to the full grid, by key. Each interpolation has the
#: projection too, as the model does.
CLASSICAL: dict[str, tuple[str, Callable[[Acquisition, Tensor], Tensor]]] = {
    "nearest": ("nearest", lambda a, y: a.upsample(y, "nearest")),
    "linear": ("trilinear", lambda a, y: a.upsample(y, "linear")),
    "cubic": ("cubic B-spline", lambda a, y: a.upsample(y, "cubic")),
    "nearest+proj": ("nearest + projection", lambda a, y: a.project(a.upsample(y, "nearest"), y)),
    "linear+proj": ("trilinear + projection", lambda a, y: a.project(a.upsample(y, "linear"), y)),
    "cubic+proj": ("cubic + projection", lambda a, y: a.project(a.upsample(y, "cubic"), y)),
    "cubic+ibp": (
        f"cubic + back-projection ({ROUNDS} rounds)",
        lambda a, y: a.back_project(y, rounds=ROUNDS, interpolation="cubic"),
    ),
}
