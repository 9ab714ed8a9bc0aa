"""Several measurements of one image, taken together: the projection onto all of them at once.

One separable operator has its inverse in closed form (`Acquisition.pseudo_inverse`); several have not. What is wanted
is the least change `d` of an image for which `A (x + d)` comes close to the measurements, all operators on top of one
another in `A`: the least of `|A (x + d) - y|^2 + damping |d|^2`. Conjugate gradients on its normal equations (CGLS,
Hestenes & Stiefel 1952) find it with one `A` and one `A^T` a round; unlike those on `A A^T`, they need no system that
has a solution, and stacks that contradict each other have none.

Why damped: what two stacks measure in common they measure twice. Where the second lies a little askew, "in common" is
only nearly so, and what little the stacks see apart explains their noise by patterns of large amplitude. On a head of
3 % noise, the second stack turned by 3 degrees, the undamped projection ends 8 dB below the base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scorefusion.imaging.acquisition import Acquisition, Profile
from scorefusion.imaging.grid import Box, Grid
from scorefusion.imaging.oblique import EDGE, ObliqueAcquisition

DAMPING = 0.05
"""Of the share of voxels that are measured, which is how strongly `A^T A` answers to what all stacks see. Without noise
it costs 0.1 to 0.2 dB, with 3 % of it it earns more than 1, on 80 mm of a T1w turned by 3 degrees."""
ROUNDS = 30
CONVERGED = 0.02  # size of the gradient, against the first one, that counts as none
PARALLEL = 1e-3  # of a step, sideways; as in `Acquisition.between`


class Operator(Protocol):
    """What measures: `Acquisition` or `ObliqueAcquisition`."""

    full_shape: tuple[int, int, int]

    @property
    def coarse_shape(self) -> tuple[int, int, int]:
        """`(i, j, k)` of the measured grid."""

    def forward(self, x: Tensor) -> Tensor:
        """`A x`."""

    def adjoint(self, y: Tensor) -> Tensor:
        """`A^T y`."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What one stack says.

    Attributes:
        operator: from the full grid to the stack's.
        values: `(B, C, i, j, k)`, 0 where not counted.
        counted: bool `(i, j, k)`: voxels that lie inside the full grid.
    """

    operator: Operator
    values: Tensor
    counted: Tensor

    @classmethod
    def on(
        cls,
        fine: Grid,
        coarse: Grid,
        values: Tensor,
        thickness: float | None = None,
        axis: int | None = None,
        profile: Profile = "box",
    ) -> Measurement:
        """Of a stack on a grid of its own: separable where the axes are parallel, else oblique.

        Args:
            fine: the grid that is looked for.
            coarse: the stack's.
            values: `(B, C, i, j, k)` on `coarse`.
            thickness, axis, profile: as of `Acquisition.between`; `axis` is None for the coarsest.

        Raises:
            GeometryError: no voxel of the stack lies inside the fine grid.
        """
        steps = (np.linalg.inv(fine.affine) @ coarse.affine)[:3, :3]
        aside = np.abs(steps - np.diag(np.diag(steps)))
        if aside.max() <= PARALLEL * np.diag(steps).min():
            axis = int(np.argmax(coarse.spacing)) if axis is None else axis
            box = _inside(fine, coarse, thickness, axis)
            if box is not None:
                i, j, k = box.slices
                part = values[:, :, i, j, k].contiguous()
                operator = Acquisition.between(fine, coarse.crop(box), thickness, axis, profile)
                return cls(operator, part, torch.ones(box.shape, dtype=torch.bool))
        oblique = ObliqueAcquisition(fine, coarse, thickness, axis, profile)
        return cls(oblique, values * oblique.counted.to(values), oblique.counted)

    def residual(self, x: Tensor) -> tuple[float, float]:
        """Root mean square and largest size of `y - A x` over the counted voxels."""
        error = (self.values - self.operator.forward(x))[..., self.counted]
        return float(error.square().mean().sqrt()), float(error.abs().max())


def project(
    x: Tensor,
    measurements: Sequence[Measurement],
    damping: float = DAMPING,
    converged: float = CONVERGED,
    pause: Callable[[], None] = lambda: None,
) -> Tensor:
    """The nearest image to `x` that gives back all measurements, within what damping leaves of the difference; the
    least squares where they contradict each other.

    Args:
        x: `(B, C, I, J, K)`.
        measurements: at least one, all on the grid of `x`.
        damping: 0 gives back exactly what can be.
        converged: it ends when the gradient has fallen to this share, or after `ROUNDS`.
        pause: called between operators; may raise Cancelled.
    """

    def forward(image: Tensor) -> list[Tensor]:
        parts = []
        for one in measurements:
            pause()
            parts.append(one.operator.forward(image))
        return parts

    def adjoint(parts: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(x)
        for one, part in zip(measurements, parts, strict=True):
            pause()
            total += one.operator.adjoint(part)
        return total

    damp = damping * sum(int(one.counted.sum()) for one in measurements) / x[0, 0].numel()
    missing = [one.values - seen for one, seen in zip(measurements, forward(x), strict=True)]
    change = torch.zeros_like(x)
    direction = gradient = adjoint(missing)
    first = size = _square([gradient])
    for _ in range(ROUNDS):
        if size <= converged**2 * first:
            break
        seen = forward(direction)
        step = size / (_square(seen) + damp * _square([direction]))
        change = change + step * direction
        missing = [part - step * response for part, response in zip(missing, seen, strict=True)]
        gradient = adjoint(missing) - damp * change
        before, size = size, _square([gradient])
        direction = gradient + (size / before) * direction
    return x + change


def _square(parts: Sequence[Tensor]) -> float:
    """Sum of squares."""
    return sum(float(part.double().square().sum()) for part in parts)


def _inside(fine: Grid, coarse: Grid, thickness: float | None, axis: int) -> Box | None:
    """The voxels of a coarse grid with parallel axes whose extent lies inside the fine grid; None where none does."""
    to_fine = np.linalg.inv(fine.affine) @ coarse.affine
    start, stop = [0, 0, 0], [0, 0, 0]
    for along in range(3):
        width = to_fine[along, along]
        if thickness is not None and along == axis:
            width *= thickness / coarse.spacing[along]
        centres = to_fine[along, along] * np.arange(coarse.spatial_shape[along]) + to_fine[along, 3]
        inside = (centres - width / 2 >= -0.5 - EDGE) & (centres + width / 2 <= fine.spatial_shape[along] - 0.5 + EDGE)
        if not inside.any():
            return None
        start[along], stop[along] = int(np.argmax(inside)), int(inside.size - np.argmax(inside[::-1]))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
