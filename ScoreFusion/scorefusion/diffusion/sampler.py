"""The sampling loop, and the three rules for one step of it.

`sample` serves every method and every solver: networks and fusion hide behind `denoise`, measurements behind `project`,
and a solver is one small function in `SOLVERS`. All arithmetic of the levels is done in float64 on the CPU and reaches
the tensors as plain numbers, so the state keeps the dtype and device of `x_t`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.errors import RequestError
from scorefusion.transfer import to_device

Solver = Literal["ddim", "ddpm", "dpmpp"]
Draw = Callable[[int], Tensor]


def sample(
    denoise: Callable[[Tensor, int, int], Tensor],
    x_t: Tensor,
    schedule: NoiseSchedule,
    *,
    timesteps: Sequence[int],
    solver: Solver = "ddim",
    project: Callable[[Tensor], Tensor] | None = None,
    clamp: float | None = None,
    eta: float = 0.0,
    generator: torch.Generator | Draw | None = None,
    on_step: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Denoise `x_t` from `timesteps[0]` down to clean data.

    Args:
        denoise: `denoise(x_t, t, step)`, what the networks predict at timestep t (kind: `schedule.prediction`).
        x_t: `(B, ...)`, state at `timesteps[0]`: pure noise, or `schedule.add_noise(estimate, noise, timesteps[0])`.
        schedule: Noise levels, and what a prediction means.
        timesteps: Strictly falling, from `schedule.timesteps`. After the last one comes alpha_bar = 1.
        solver: "ddim", "ddpm" (ancestral, as in the paper but for the spacing) or "dpmpp" (DPM-Solver++ 2M).
        project: Replaces in x0 what a measurement already fixes. The next step starts from the projected x0.
        clamp: Limits x0 to [-clamp, clamp] before the projection. None = no limit.
        eta: Share of fresh noise in "ddim": 0 deterministic, 1 like "ddpm".
        generator: Source of fresh noise: a generator, or `draw(step)` returning noise like `x_t`. Needed only where
            noise is drawn. The global generator is never used.
        on_step: `on_step(step, num_steps, x0)` after step 0, 1, ...; whatever it raises ends the run (`Cancelled`).

    Returns:
        The last x0, `(B, ...)`: clamped and projected, with nothing added after.
    """
    take_step = _find_solver(solver, eta)
    draw = _noise_source(generator, x_t)
    levels = _levels_of(timesteps, schedule)
    num_steps = len(levels)
    previous: Step | None = None

    for step, t in enumerate(timesteps):
        x0 = schedule.to_x0(x_t, denoise(x_t, t, step), t)
        if clamp is not None:
            x0 = x0.clamp(-clamp, clamp)
        if project is not None:
            x0 = project(x0)
        if step + 1 < num_steps:
            now = Step(step, x0, levels[step], levels[step + 1], eta)
            x_t = take_step(x_t, now, previous, draw)
            previous = now
        if on_step is not None:
            on_step(step, num_steps, x0)
    return x0


@dataclass(frozen=True, eq=False)
class Step:
    """One step as a solver sees it: from level `alpha_bar` to the cleaner `alpha_bar_next`."""

    index: int
    x0: Tensor  # (B, ...), clamped and projected
    alpha_bar: float
    alpha_bar_next: float
    eta: float


# Solvers: the state at `now.alpha_bar_next`, from the state at `now.alpha_bar` and its x0. `previous` is the step
# before, None at first. All of them take the noise from x_t and the projected x0, never from the raw prediction: noise
# that belongs to an unprojected x0 would carry its error into the next state. The last step, to alpha_bar = 1, is x0
# itself under each rule (first order for DPM-Solver++), so it is not computed.


def ddim_step(x_t: Tensor, now: Step, previous: Step | None, draw: Draw) -> Tensor:
    """Song et al. 2021, eq. 12 and 16."""
    a, a_next = now.alpha_bar, now.alpha_bar_next
    variance = now.eta**2 * _posterior_variance(a, a_next)
    noise = (x_t - math.sqrt(a) * now.x0) / math.sqrt(1 - a)
    x_next = math.sqrt(a_next) * now.x0 + math.sqrt(1 - a_next - variance) * noise
    return x_next + math.sqrt(variance) * draw(now.index) if now.eta else x_next


def ddpm_step(x_t: Tensor, now: Step, previous: Step | None, draw: Draw) -> Tensor:
    """Ho et al. 2020, eq. 6 and 7, between the respaced levels, with the fixed small variance."""
    a, a_next = now.alpha_bar, now.alpha_bar_next
    kept = a / a_next  # 1 - beta of the respaced step
    mean = (math.sqrt(a_next) * (1 - kept) * now.x0 + math.sqrt(kept) * (1 - a_next) * x_t) / (1 - a)
    return mean + math.sqrt(_posterior_variance(a, a_next)) * draw(now.index)


def dpmpp_step(x_t: Tensor, now: Step, previous: Step | None, draw: Draw) -> Tensor:
    """Lu et al. 2022, algorithm 2 (DPM-Solver++ 2M): x0 is extrapolated over the half log-SNR; first order at first."""
    a, a_next = now.alpha_bar, now.alpha_bar_next
    h = _half_log_snr(a_next) - _half_log_snr(a)
    x0 = now.x0
    if previous is not None:
        h_previous = _half_log_snr(a) - _half_log_snr(previous.alpha_bar)
        x0 = x0 + (h / (2 * h_previous)) * (x0 - previous.x0)
    return math.sqrt((1 - a_next) / (1 - a)) * x_t - math.sqrt(a_next) * math.expm1(-h) * x0


SOLVERS: dict[str, Callable[[Tensor, Step, Step | None, Draw], Tensor]] = {
    "ddim": ddim_step,
    "ddpm": ddpm_step,
    "dpmpp": dpmpp_step,
}


def _posterior_variance(a: float, a_next: float) -> float:
    """Variance of x at `a_next` given x0 and x at `a`: the fixed small variance of DDPM."""
    return (1 - a_next) / (1 - a) * (1 - a / a_next)


def _half_log_snr(alpha_bar: float) -> float:
    """lambda in the DPM-Solver papers."""
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def _find_solver(solver: str, eta: float) -> Callable[[Tensor, Step, Step | None, Draw], Tensor]:
    if solver not in SOLVERS:
        msg = f"Unknown solver '{solver}'; choose one of {', '.join(SOLVERS)}."
        raise RequestError(msg)
    if not 0 <= eta <= 1 or (eta and solver != "ddim"):
        msg = f"eta is {eta} with solver '{solver}'; it must be 0 to 1, and only 'ddim' takes anything but 0."
        raise RequestError(msg)
    return SOLVERS[solver]


def _levels_of(timesteps: Sequence[int], schedule: NoiseSchedule) -> list[float]:
    """The alpha_bar of each timestep."""
    falling = all(t > t_next for t, t_next in zip(timesteps, timesteps[1:], strict=False))
    if not timesteps or not falling or not 0 <= timesteps[-1] <= timesteps[0] < schedule.num_train_timesteps:
        msg = f"Timesteps must fall strictly within {schedule.num_train_timesteps - 1} to 0; got {list(timesteps)}."
        raise RequestError(msg)
    return [float(schedule.alpha_bar[t]) for t in timesteps]


def _noise_source(generator: torch.Generator | Draw | None, x_t: Tensor) -> Draw:
    if callable(generator):
        return lambda step: to_device(generator(step), x_t.device, x_t.dtype)
    if generator is None:
        return _refuse_to_draw
    # Drawn where the generator lives: a CPU generator gives the same noise whatever the device of x_t.
    return lambda step: to_device(
        torch.randn(x_t.shape, generator=generator, device=generator.device), x_t.device, x_t.dtype
    )


def _refuse_to_draw(step: int) -> Tensor:
    msg = "This solver draws fresh noise: pass generator=torch.Generator().manual_seed(seed), or a function of step."
    raise RequestError(msg)
