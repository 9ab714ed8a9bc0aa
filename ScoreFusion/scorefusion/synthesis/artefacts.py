"""What a scanner adds to the signal: shading, motion, coarse sampling, ringing and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefusion.imaging.acquisition import Acquisition
from scorefusion.synthesis.fields import random_field


def shade(
    signal: Tensor,
    strength: float,
    scale: float,
    generator: torch.Generator,
    shared: Tensor | None = None,
) -> Tensor:
    """A smooth shading in place: strong near one coil, weak far from it; its logarithm has mean 0.

    Args:
        signal: `(I, J, K)`, changed.
        strength: standard deviation of the logarithm of the factor; 0.1 shades by about 10 %.
        scale: voxels over which it changes.
        generator: on the device of `signal`.
        shared: `(I, J, K)` standard normal field that other images of the session have in common: two thirds of the
            variance.
    """
    field = random_field(signal.shape, scale, generator, signal.device)
    if shared is not None:
        field = field.mul_(0.6).add_(shared, alpha=0.8)
    return signal.mul_(field.sub_(field.mean()).mul_(strength).exp_())


def add_noise(signal: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Rician noise: the magnitude of `signal` `(I, J, K)` plus complex Gaussian noise of `sigma` in each part."""
    if sigma <= 0:
        return signal
    real = torch.randn(signal.shape, generator=generator, device=signal.device).mul_(sigma).add_(signal)
    imaginary = torch.randn(signal.shape, generator=generator, device=signal.device).mul_(sigma)
    return torch.hypot(real, imaginary)


def motion_ghosts(
    signal: Tensor, phase_axis: int, moved_axis: int, shifts: Sequence[float], lines: Sequence[Sequence[int]]
) -> Tensor:
    """Replace lines of k-space by those of the displaced head, and take the magnitude.

    A displacement is a linear phase, so no line changes its energy.

    Args:
        signal: `(I, J, K)`.
        phase_axis: the axis whose lines are acquired one after the other.
        moved_axis: the axis along which the head moved.
        shifts: voxels, one for each event.
        lines: k-space lines hit by each event, 0 is the centre, signs allowed.
    """
    size = signal.shape[phase_axis]
    spectrum = torch.fft.fft(signal, dim=phase_axis)
    for shift, hit in zip(shifts, lines, strict=True):
        if not hit:
            continue
        index = torch.tensor([line % size for line in hit], device=signal.device)
        picked = spectrum.index_select(phase_axis, index)
        if moved_axis == phase_axis:
            turns = torch.fft.fftfreq(size, device=signal.device)[index] * shift
            view = [1, 1, 1]
            view[phase_axis] = -1
            picked = picked * torch.polar(torch.ones_like(turns), -2 * torch.pi * turns).view(view)
        else:
            turns = torch.fft.fftfreq(signal.shape[moved_axis], device=signal.device) * shift
            view = [1, 1, 1]
            view[moved_axis] = -1
            phase = torch.polar(torch.ones_like(turns), -2 * torch.pi * turns).view(view)
            picked = torch.fft.ifft(torch.fft.fft(picked, dim=moved_axis) * phase, dim=moved_axis)
        spectrum.index_copy_(phase_axis, index, picked)
    return torch.fft.ifft(spectrum, dim=phase_axis).abs()


def draw_ghosts(signal: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
    """One to three jerks of the head, each of which spoils a few lines away from the centre of k-space."""
    phase_axis = int(rng.integers(3))
    moved_axis = int(rng.integers(3))
    half = signal.shape[phase_axis] // 2
    shifts, lines = [], []
    for _ in range(int(rng.integers(1, 4))):
        first = int(rng.integers(3, max(4, half // 2)))
        run = int(rng.integers(2, max(3, half // 4)))
        sign = int(rng.choice([-1, 1]))
        lines.append([sign * line for line in range(first, min(half, first + run))])
        shifts.append(float(rng.uniform(0.5, 3.0) * rng.choice([-1, 1])))
    facts = {"phase_axis": phase_axis, "moved_axis": moved_axis, "shifts": [round(shift, 2) for shift in shifts]}
    return motion_ghosts(signal, phase_axis, moved_axis, shifts, lines), facts


def draw_acquisition(shape: Sequence[int], rng: np.random.Generator) -> tuple[Acquisition, dict[str, Any]]:
    """A coarser scan of the same head: thick slices (three in four) or larger voxels."""
    if rng.random() < 0.75:
        axis = int(rng.choice(3, p=[0.25, 0.25, 0.5]))
        factor = float(rng.uniform(1.5, 5.0))
        gap = float(rng.uniform(0.8, 1.0))
        kept = {"axis": axis, "factor": round(factor, 2), "thickness": round(gap * factor, 2)}
        return Acquisition.thick_slices(shape, axis, factor, max(1.0, gap * factor)), kept
    factor = float(rng.uniform(1.2, 2.0))
    return Acquisition.isotropic(shape, factor, "gaussian"), {"axis": None, "factor": round(factor, 2)}
