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

#: Voxels taken from each training person, evenly over the region that is scored.
VOXELS = 40_000

#: Steps of a histogram's quantile function.
QUANTILES = 1001

#: Shares of the training voxels beyond which a polynomial is not trusted.
TRUSTED = (0.001, 0.999)


@dataclass(frozen=True, eq=False)
class Samples:
    """Voxels of one training person: sources `(N, C)` and target `(N,)`, each in its own range [0, 1], float64."""

    subject: str
    sources: NDArray[np.float64]
    target: NDArray[np.float64]


def draw_samples(pair: Pair, inputs: Sequence[str], count: int = VOXELS) -> Samples:
    """Voxels of the scored region, evenly spaced; always the same ones.

    Args:
        inputs: names of the sources to take.
    """
    inside = torch.nonzero(pair.brain.mask.reshape(-1)).flatten()
    picked = inside[torch.linspace(0, len(inside) - 1, min(count, len(inside))).round().long()]
    sources = torch.stack([to_unit(pair.sources[name]).reshape(-1)[picked] for name in inputs], dim=1)
    return Samples(pair.case.subject, sources.double().numpy(), pair.truth.reshape(-1)[picked].double().numpy())


def source_itself() -> Method:
    """Nothing is done: how alike are the two contrasts?"""
    return _method("source", "the source itself", lambda pair: to_unit(next(iter(pair.sources.values()))))


def fitted_baselines(samples: Sequence[Samples], inputs: Sequence[str]) -> list[Method]:
    """Linear and polynomial regression on intensities, and histogram matching, learned from `samples` (none: none)."""
    if not samples:
        return []
    linear, cubic = (Regression.fit(samples, degree) for degree in (1, 3))
    histogram = mean_quantiles([each.target for each in samples])
    words = "polynomial regression on intensities (degree 3)"
    return [
        _method("linear", "linear regression on intensities", lambda pair: linear.apply(pair, inputs)),
        _method("polynomial", words, lambda pair: cubic.apply(pair, inputs)),
        _method("histogram", "histogram matching", lambda pair: match_histogram(pair, histogram)),
    ]


def _method(key: str, label: str, translate: Callable[[Pair], Tensor]) -> Method:
    return Method(key, label, "baseline", lambda pair: Made(translate(pair)))


@dataclass(frozen=True, eq=False)
class Regression:
    """Least squares on all monomials of the sources up to a degree.

    Attributes:
        degree: 1 is an affine map.
        weights: one a monomial, in the order of `_monomials`.
        low, high: of each source, what training covered; beyond it a polynomial of higher degree is held.
    """

    degree: int
    weights: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def fit(cls, samples: Sequence[Samples], degree: int) -> Regression:
        """Fit to the voxels of all persons."""
        sources = np.concatenate([each.sources for each in samples])
        target = np.concatenate([each.target for each in samples])
        low, high = np.quantile(sources, TRUSTED, axis=0)
        weights, *_ = np.linalg.lstsq(_monomials(sources, degree), target, rcond=None)
        return cls(degree, weights, low, high)

    def apply(self, pair: Pair, inputs: Sequence[str]) -> Tensor:
        """`(I, J, K)`; background stays background."""
        sources = np.stack([to_unit(pair.sources[name]).double().numpy().ravel() for name in inputs], axis=1)
        if self.degree > 1:
            sources = sources.clip(self.low, self.high)
        mapped = torch.from_numpy(_monomials(sources, self.degree) @ self.weights).reshape(pair.truth.shape)
        return (mapped * pair.foreground()).float()


def _monomials(sources: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """`(N, M)`: one column for each product of up to `degree` sources, the constant first."""
    columns = [np.ones(len(sources))]
    for order in range(1, degree + 1):
        for chosen in combinations_with_replacement(range(sources.shape[1]), order):
            columns.append(np.prod(sources[:, list(chosen)], axis=1))
    return np.stack(columns, axis=1)


def mean_quantiles(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The quantile function of the mean histogram: the mean of the persons' quantile functions, `(QUANTILES,)`."""
    steps = np.linspace(0.0, 1.0, QUANTILES)
    mean: NDArray[np.float64] = np.mean([np.quantile(each, steps) for each in values], axis=0)
    return mean


def match_histogram(pair: Pair, target: NDArray[np.float64]) -> Tensor:
    """Give the base the histogram `target` in the scored region; order of brightness stays. Background stays."""
    source = to_unit(next(iter(pair.sources.values()))).double()
    own = np.quantile(source[pair.brain.mask].numpy(), np.linspace(0.0, 1.0, len(target)))
    mapped = torch.from_numpy(np.interp(source.numpy(), own, target))
    return (mapped * pair.foreground()).float()
