"""What one contrast's brightness says of another's, voxel by voxel: the base image of a translation.

A curve gives each normalised intensity of a condition the mean intensity that the target has there. Networks that
start from it need not learn what a table of a few numbers knows: they learn what the surroundings of a voxel say.

The darkest fluid of a T1w is as dark as the background of a stripped brain, and the brightest tissue of a T2w. So the
background is told apart by its place first (`clear_background`) and has no part in the curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scorefusion.intensity import filled, foreground_mask

KNOTS = 17  # an eighth of [-1, 1] apart
BACKGROUND, DARKEST = -0.99, -0.98  # what is not above the first is background; no tissue is below the second
SMOOTHNESS = 1e-4  # weight of the squared bend beside the squared error: fills in where no voxel was seen


@dataclass(frozen=True)
class IntensityCurve:
    """Straight pieces between values at even distances over [-1, 1]; beyond the ends their values hold.

    Attributes:
        values: of the target, normalised, at the knots. Background (up to `BACKGROUND`) becomes -1 whatever they are.
    """

    values: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """The curve at `x`, any shape, normalised."""
        knots = torch.tensor(self.values, dtype=x.dtype, device=x.device)
        index, share = _place(x, len(self.values))
        return torch.lerp(knots[index], knots[index + 1], share).masked_fill(x <= BACKGROUND, -1.0)

    @classmethod
    def fit(cls, persons: Iterable[tuple[Tensor, Tensor]], knots: int = KNOTS) -> IntensityCurve:
        """Least squares, every person with the same weight.

        Args:
            persons: of each, voxels of the condition and of the target, `(N,)`, normalised, without background.
        """
        matrix, vector = np.zeros((knots, knots)), np.zeros(knots)
        for source, target in persons:
            index, share = (each.double().numpy() for each in _place(source.float(), knots))
            wanted, below = target.double().numpy(), index.astype(int)
            for first, weight in ((0, 1.0 - share), (1, share)):
                vector += _sums(below + first, weight * wanted, knots) / len(wanted)
                for second, other in ((0, 1.0 - share), (1, share)):
                    flat = (below + first) * knots + below + second
                    matrix += _sums(flat, weight * other, knots * knots).reshape(knots, knots) / len(wanted)
        bend = np.diff(np.eye(knots), n=2, axis=0)
        matrix += SMOOTHNESS * bend.T @ bend
        return cls(tuple(round(float(value), 5) for value in np.linalg.solve(matrix, vector)))


def clear_background(x: Tensor) -> Tensor:
    """A condition with exactly -1 around the head and nothing below `DARKEST` in it.

    Args:
        x: `(I, J, K)` normalised, whole: what lies in holes of the foreground belongs to the head.
    """
    inside = torch.from_numpy(filled(foreground_mask((0.5 * (x[None].float().cpu() + 1.0)).numpy()))).to(x.device)
    return torch.where(inside, x.clamp(min=DARKEST), -1.0)


def read_curves(section: dict[str, Any]) -> tuple[IntensityCurve, ...] | None:
    """A bundle's curves, one a condition; None where its base is no mapped condition."""
    curves: Sequence[Sequence[float]] | None = section.get("base_curves")
    return None if curves is None else tuple(IntensityCurve(tuple(values)) for values in curves)


def _place(x: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """The knot at or below `x` (never the last), and how far `x` is on the way to the next, 0 to 1."""
    position = ((x + 1.0) * (0.5 * (knots - 1))).clamp(0.0, knots - 1.0)
    index = position.long().clamp(max=knots - 2)
    return index, position - index


def _sums(index: NDArray[np.int64], weights: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(index, weights, minlength=size), np.float64)
