"""Translation without networks: the bar that a model must pass.

All of them see one voxel at a time, so they can tell tissues apart by brightness only. What they know of the target
they learn from the training persons, each with the same number of voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scorefusion.evaluation.rows import Made, Method
from scorefusion.evaluation.translation.pairs import Pair, to_unit

VOXELS = 40_000  # taken from each training person, evenly over the region that is scored
QUANTILES = 1001  # steps of a histogram's quantile function
TRUSTED = (0.001, 0.999)  # shares of the training voxels beyond which a polynomial is not trusted


@dataclass(frozen=True, eq=False)
class Samples:
    """Voxels of one training person: sources `(N, C)` and target `(N,)`, each in its own range [0, 1], float64."""

    sources: NDArray[np.float64]
    target: NDArray[np.float64]


def draw_samples(pair: Pair, inputs: Sequence[str], count: int = VOXELS) -> Samples:
    """Voxels of the scored region of these inputs, evenly spaced; always the same ones."""
    inside = torch.nonzero(pair.brain.mask.reshape(-1)).flatten()
    picked = inside[torch.linspace(0, len(inside) - 1, min(count, len(inside))).round().long()]
    sources = torch.stack([to_unit(pair.sources[name]).reshape(-1)[picked] for name in inputs], dim=1)
    return Samples(sources.double().numpy(), pair.truth.reshape(-1)[picked].double().numpy())


def source_itself() -> Method:
    """Nothing is done: how alike are the two contrasts?"""
    return Method("source", "the source itself", "baseline", lambda pair: Made(_first(pair)))


def fitted_baselines(samples: Sequence[Samples], inputs: Sequence[str]) -> list[Method]:
    """Linear and polynomial regression on intensities, and histogram matching, learned from `samples` (none: none)."""
    if not samples:
        return []
    return [
        Method("linear", "linear regression on intensities", "baseline", regression(samples, inputs, 1)),
        Method("polynomial", "polynomial regression on intensities (degree 3)", "baseline",
               regression(samples, inputs, 3)),
        Method("histogram", "histogram matching", "baseline", matching(samples)),
    ]  # fmt: skip


def _first(pair: Pair) -> Tensor:
    return to_unit(next(iter(pair.sources.values())))


def regression(samples: Sequence[Samples], inputs: Sequence[str], degree: int) -> Callable[[Pair], Made]:
    """Least squares on all monomials of the sources up to a degree; background stays background."""
    sources, target = (np.concatenate([getattr(each, name) for each in samples]) for name in ("sources", "target"))
    low, high = np.quantile(sources, TRUSTED, axis=0)
    weights, *_ = np.linalg.lstsq(_monomials(sources, degree), target, rcond=None)

    def apply(pair: Pair) -> Made:
        given = np.stack([to_unit(pair.sources[name]).double().numpy().ravel() for name in inputs], axis=1)
        if degree > 1:  # held at the ends of what training covered
            given = given.clip(low, high)
        mapped = torch.from_numpy(_monomials(given, degree) @ weights).reshape(pair.truth.shape)
        return Made((mapped * pair.foreground()).float())

    return apply


def _monomials(sources: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """`(N, M)`: one column for each product of up to `degree` sources, the constant first."""
    chosen = [c for n in range(degree + 1) for c in combinations_with_replacement(range(sources.shape[1]), n)]
    return np.stack([np.prod(sources[:, list(each)], axis=1) for each in chosen], axis=1)


def matching(samples: Sequence[Samples]) -> Callable[[Pair], Made]:
    """Give the base the mean histogram of the targets (the mean of the persons' quantile functions) in the scored
    region; the order of brightness stays, and background stays background."""
    steps = np.linspace(0.0, 1.0, QUANTILES)
    wanted = np.mean([np.quantile(each.target, steps) for each in samples], axis=0)

    def match(pair: Pair) -> Made:
        source = _first(pair).double()
        own = np.quantile(source[pair.brain.mask].numpy(), steps)
        return Made((torch.from_numpy(np.interp(source.numpy(), own, wanted)) * pair.foreground()).float())

    return match
