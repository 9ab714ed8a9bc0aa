"""Sampling on tensors: noise in the volume's own grid, the projection onto the measurement, one or several samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefusion.diffusion.noise import NoiseField
from scorefusion.diffusion.sampler import sample
from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.errors import RequestError
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.fusion.rules import FusionRule
from scorefusion.imaging.acquisition import Acquisition
from scorefusion.run.request import SamplingPlan


@dataclass(frozen=True)
class Restoration:
    """Result on the inputs' grid, in normalised units.

    Attributes:
        mean: `(1, 1, I, J, K)`.
        deviation: `(1, 1, I, J, K)` standard deviation over samples; None for a single one.
        evaluations: calls of the fusion rule.
    """

    mean: Tensor
    deviation: Tensor | None
    evaluations: int


def restore(
    rule: FusionRule,
    schedule: NoiseSchedule,
    inputs: ModelInputs,
    plan: SamplingPlan,
    noise: NoiseField,
    acquisition: Acquisition | None = None,
    measured: Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
    evaluate: Callable[[Tensor, ModelInputs, Tensor, int], Tensor] | None = None,
) -> Restoration:
    """Sample the target.

    Args:
        rule: the fusion rule.
        schedule: of the networks.
        inputs: conditions on the target grid, `(1, C, I, J, K)`.
        plan: steps, solver, samples.
        noise: where the randomness comes from.
        acquisition, measured: what was measured, `(1, 1, i, j, k)` normalised like the base; None = nothing is known
            exactly (translation), so nothing is projected.
        on_step: told (evaluations done, evaluations in all); may raise Cancelled.
        evaluate: calls the rule, for example `run.pieces.patient`; None = the rule itself.
    """
    if plan.samples < 1 or plan.steps < 1:
        msg = f"samples and steps must be 1 or more, got {plan.samples} and {plan.steps}."
        raise RequestError(msg)
    gain = rule.layout.residual_gain
    device = inputs.conditions.device
    timesteps = schedule.timesteps(plan.steps, start=plan.start)
    project = None
    if acquisition is not None and measured is not None:
        project = residual_projection(acquisition, measured, inputs.base, gain)
    total = plan.samples * plan.steps
    mean = torch.zeros_like(inputs.base)
    spread = torch.zeros_like(inputs.base)
    for index in range(plan.samples):

        def denoise(x_t: Tensor, t: int, step: int) -> Tensor:
            level = torch.full((x_t.shape[0],), float(schedule.alpha_bar[t]), device=device)
            return (evaluate or rule)(x_t, inputs, level, step)

        def report(step: int, num_steps: int, x0: Tensor, index: int = index) -> None:
            if on_step is not None:
                on_step(index * num_steps + step + 1, total)

        def fresh(step: int, index: int = index) -> Tensor:
            return noise.draw(index, step, device)

        start = noise.draw(index, -1, device)
        if timesteps[0] < schedule.num_train_timesteps - 1:
            start = schedule.add_noise(torch.zeros_like(start), start, timesteps[0])
        residual = sample(
            denoise,
            start,
            schedule,
            timesteps=timesteps,
            solver=plan.solver,  # type: ignore[arg-type]
            project=project,
            clamp=gain,  # |target - base| / 2 <= 1 for images in [-1, 1]
            eta=plan.eta,
            generator=fresh,
            on_step=report,
        )
        image = inputs.base + (2.0 / gain) * residual
        # Welford's update: mean and spread without keeping the samples.
        change = image - mean
        mean = mean + change / (index + 1)
        spread = spread + change * (image - mean)
    deviation = (spread / (plan.samples - 1)).sqrt() if plan.samples > 1 else None
    return Restoration(mean, deviation, total)


def residual_projection(
    acquisition: Acquisition, measured: Tensor, base: Tensor, gain: float
) -> Callable[[Tensor], Tensor]:
    """The projection of an image, `x + A^+(y - A x)`, written for its scaled residual."""
    missing = (0.5 * gain) * (measured - acquisition.forward(base))

    def project(residual: Tensor) -> Tensor:
        return residual + acquisition.pseudo_inverse(missing - acquisition.forward(residual))

    return project
