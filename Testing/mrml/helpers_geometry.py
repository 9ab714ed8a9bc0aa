"""Random grids that would show any mistake with axes, signs and offsets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random rotation, float64 (3, 3), determinant +1."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q * np.array([-1.0, 1.0, 1.0])


def oblique_affine(rng: np.random.Generator) -> NDArray[np.float64]:
    """An oblique, anisotropic grid with permuted and flipped axes, far from the origin; float64 (4, 4)."""
    axes = rotation(rng)[:, rng.permutation(3)] * rng.choice([-1.0, 1.0], size=3)
    affine = np.eye(4)
    affine[:3, :3] = axes * rng.uniform(0.7, 6.0, size=3)
    affine[:3, 3] = rng.uniform(-200.0, 200.0, size=3)
    return affine


def rigid(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random rotation and shift, float64 (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(rng)
    matrix[:3, 3] = rng.uniform(-50.0, 50.0, size=3)
    return matrix


def blob(shape: tuple[int, int, int], centre: NDArray[np.float64], sigma: float = 1.4) -> NDArray[np.float32]:
    """A Gaussian blob, `(I, J, K)`, at a voxel index."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return np.exp(-((grid - centre) ** 2).sum(-1) / (2 * sigma**2)).astype(np.float32) * 1000


def centre_of_mass(data: NDArray[np.float32]) -> NDArray[np.float64]:
    """Voxel index of the centre of mass of an `(I, J, K)` volume."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in data.shape], indexing="ij"), axis=-1)
    weights = np.clip(data.astype(np.float64), 0, None)
    return (grid * weights[..., None]).sum((0, 1, 2)) / weights.sum()
