"""What brightness says of another contrast, voxel by voxel: the base image of a translation.

A map gives each normalised intensity of a condition, or each combination of intensities of several, the mean intensity
that the target has there. Networks that start from it need not learn what a table of a few numbers knows: they learn
what the surroundings of a voxel say.

The darkest fluid of a T1w is as dark as the background of a stripped brain, and the brightest tissue of a T2w. So the
background is told apart by its place first (`clear_background`) and has no part in a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scorefusion.imaging.foreground import filled, foreground_mask
from scorefusion.transfer import to_device

KNOTS = {1: 17, 2: 17, 3: 9, 4: 5}  # along each condition, by the number of conditions; 17 are an eighth apart
BACKGROUND, DARKEST = -0.99, -0.98  # what is not above the first is background; no tissue is below the second
#: Weight of the squared bend beside the squared error, by the number of conditions: it fills in where no voxel was
#: seen, which is most of a table of several.
SMOOTHNESS = {1: 1e-4, 2: 1e-2, 3: 1e-2, 4: 1e-2}
RIDGE = 1e-9


@dataclass(frozen=True)
class IntensityMap:
    """Linear between values at even distances over [-1, 1] along each condition; beyond the ends their values hold.

    Attributes:
        values: of the target, normalised, at the knots; the last condition's index runs fastest.
        conditions: how many there are.
    """

    values: tuple[float, ...]
    conditions: int = 1

    def __post_init__(self) -> None:
        if self.knots < 2 or self.knots**self.conditions != len(self.values):
            msg = f"a map of {self.conditions} conditions cannot have {len(self.values)} values"
            raise ValueError(msg)

    @property
    def knots(self) -> int:
        """Values along each condition."""
        return round(len(self.values) ** (1.0 / self.conditions))

    def __call__(self, *x: Tensor) -> Tensor:
        """The target's intensity where the conditions' are `x`, all of one shape, normalised.

        Background (up to `BACKGROUND`) of the first becomes -1 whatever the values are.
        """
        table = to_device(torch.tensor(self.values, dtype=x[0].dtype), x[0].device)
        total = torch.zeros_like(x[0])
        for index, share in _corners(x, self.knots):
            total += table[index] * share
        return total.masked_fill(x[0] <= BACKGROUND, -1.0)

    @classmethod
    def fit(cls, persons: Sequence[tuple[Sequence[Tensor], Tensor]], knots: int | None = None) -> IntensityMap:
        """Least squares, every person with the same weight.

        Args:
            persons: of each, voxels of the conditions and of the target, `(N,)` each, normalised, where the first
                condition is not background.
            knots: along each condition; None = `KNOTS`.

        Raises:
            ValueError: there are no persons.
        """
        if not persons:
            msg = "a map needs someone to be fitted to"
            raise ValueError(msg)
        conditions = len(persons[0][0])
        knots = KNOTS[conditions] if knots is None else knots
        size = knots**conditions
        matrix = SMOOTHNESS[conditions] * _bend(knots, conditions) + RIDGE * np.eye(size)
        vector = np.zeros(size)
        for sources, target in persons:
            wanted, count = target.double().numpy(), len(target)
            corners = [(i.numpy(), share.numpy()) for i, share in _corners([s.double() for s in sources], knots)]
            for first, weight in corners:
                vector += _sums(first, weight * wanted, size) / count
                for second, other in corners:
                    pairs = _sums(first * size + second, weight * other, size * size)
                    matrix += pairs.reshape(size, size) / count
        found = np.linalg.solve(matrix, vector)
        if conditions > 1:  # a table of several has corners far from all that was seen
            found = found.clip(*_range([target for _, target in persons]))
        return cls(tuple(round(float(value), 5) for value in found), conditions)


@dataclass(frozen=True)
class IntensityMaps:
    """Those of a model.

    Attributes:
        single: one a condition.
        joint: of all conditions at once, in their order; None where there is only one (or more than four).
    """

    single: tuple[IntensityMap, ...]
    joint: IntensityMap | None = None

    @cached_property
    def section(self) -> dict[str, Any]:
        """As a bundle and a run keep them."""
        kept: dict[str, Any] = {"base_curves": [list(each.values) for each in self.single]}
        return kept if self.joint is None else {**kept, "base_joint": list(self.joint.values)}


def read_maps(section: Mapping[str, Any]) -> IntensityMaps | None:
    """A bundle's maps; None where its base is no mapped condition."""
    curves: Sequence[Sequence[float]] | None = section.get("base_curves")
    if curves is None:
        return None
    joint: Sequence[float] | None = section.get("base_joint")
    single = tuple(IntensityMap(tuple(values)) for values in curves)
    return IntensityMaps(single, None if joint is None else IntensityMap(tuple(joint), len(single)))


def clear_background(x: Tensor) -> Tensor:
    """A condition with exactly -1 around the head and nothing below `DARKEST` in it.

    Args:
        x: `(I, J, K)` normalised, whole: what lies in holes of the foreground belongs to the head.
    """
    inside = torch.from_numpy(filled(foreground_mask((0.5 * (x[None].float().cpu() + 1.0)).numpy()))).to(x.device)
    return torch.where(inside, x.clamp(min=DARKEST), -1.0)


def _corners(x: Sequence[Tensor], knots: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The knots around each voxel, as index into the values, and the share of each; the shares sum to one."""
    places = [_place(each, knots) for each in x]
    for corner in product((0, 1), repeat=len(x)):
        index, share = torch.zeros_like(places[0][0]), torch.ones_like(x[0])
        for bit, (below, above) in zip(corner, places, strict=True):
            index = index * knots + below + bit
            share = share * (above if bit else 1.0 - above)
        yield index, share


def _place(x: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """The knot at or below `x` (never the last), and how far `x` is on the way to the next, 0 to 1."""
    position = ((x + 1.0) * (0.5 * (knots - 1))).clamp(0.0, knots - 1.0)
    index = position.long().clamp(max=knots - 2)
    return index, position - index


def _range(values: Sequence[Tensor]) -> tuple[float, float]:
    return min(float(each.min()) for each in values), max(float(each.max()) for each in values)


def _bend(knots: int, conditions: int) -> NDArray[np.float64]:
    """The quadratic form of the squared second differences along all conditions, `(knots^n, knots^n)`."""
    second = np.diff(np.eye(knots), n=2, axis=0)
    total = np.zeros((knots**conditions,) * 2)
    for axis in range(conditions):
        before, after = np.eye(knots**axis), np.eye(knots ** (conditions - axis - 1))
        total += np.kron(np.kron(before, second.T @ second), after)
    return total


def _sums(index: NDArray[np.int64], weights: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(index, weights, minlength=size), np.float64)
