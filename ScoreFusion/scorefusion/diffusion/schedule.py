"""Noise levels: how much signal is left at timestep t, and what a network's prediction means there.

The forward process preserves variance: `x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise`, t = 0 the cleanest.
`NoiseSchedule` owns the table of alpha_bar and every conversion between x0, noise and v. It knows no images: tensors
may have any number of dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from scorefusion.errors import RequestError
from scorefusion.transfer import to_device

Kind = Literal["linear", "cosine"]
Prediction = Literal["noise", "v", "clean"]
Spacing = Literal["trailing", "leading", "linspace"]

# Dividing by sqrt(alpha_bar) turns a noise prediction into x0. The paper's schedule ends at alpha_bar = 6.6e-21, where
# that division multiplies float32 rounding by 1e10, more than half precision can hold. Below this floor x_t carries no
# signal that float32 could recover, so the factor stops growing there: at most 1e4.
ALPHA_BAR_FLOOR = 1e-8


@dataclass(frozen=True)
class NoiseSchedule:
    """Table of noise levels, plus the meaning of the network's output.

    Equal settings make equal schedules; the table is derived from them and is never part of a configuration.

    Args:
        kind: "linear" (Ho et al. 2020) or "cosine" (Nichol & Dhariwal 2021).
        num_train_timesteps: T, the number of levels in the table.
        prediction: What the networks return: "noise", "v" (Salimans & Ho 2022) or "clean" (x0 itself).
        beta_start: First beta, linear only.
        beta_end: Last beta, linear only. The paper's fusion uses 0.09.
    """

    kind: Kind
    num_train_timesteps: int = 1000
    prediction: Prediction = "noise"
    beta_start: float | None = None
    beta_end: float | None = None
    alpha_bar: np.ndarray = field(init=False, repr=False, compare=False)  # (T,) float64, signal power, falls with t

    def __post_init__(self) -> None:
        _check_choice("schedule kind", self.kind, get_args(Kind))
        _check_choice("prediction", self.prediction, get_args(Prediction))
        if self.num_train_timesteps < 1:
            msg = f"num_train_timesteps is {self.num_train_timesteps}; a schedule needs at least 1."
            raise RequestError(msg)
        if self.kind == "linear":
            betas = _linear_betas(self.num_train_timesteps, self.beta_start, self.beta_end)
        elif self.beta_start is None and self.beta_end is None:
            betas = _cosine_betas(self.num_train_timesteps)
        else:
            msg = "A cosine schedule has no beta_start or beta_end; remove them or use kind 'linear'."
            raise RequestError(msg)
        alpha_bar = np.cumprod(1.0 - betas)
        alpha_bar.flags.writeable = False  # shared by all users of this schedule
        object.__setattr__(self, "alpha_bar", alpha_bar)

    @classmethod
    def linear(
        cls,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.09,
        prediction: Prediction = "noise",
    ) -> NoiseSchedule:
        """Betas equally spaced; the defaults are the paper's."""
        return cls("linear", num_train_timesteps, prediction, beta_start, beta_end)

    @classmethod
    def cosine(cls, num_train_timesteps: int = 1000, prediction: Prediction = "noise") -> NoiseSchedule:
        """Signal falls as a squared cosine; betas are capped at 0.999."""
        return cls("cosine", num_train_timesteps, prediction)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NoiseSchedule:
        """The schedule of a bundle; inverse of `to_config`."""
        known = {f.name for f in fields(cls) if f.init}
        if unknown := sorted(set(config) - known):
            msg = f"Unknown schedule settings {unknown}; expected some of {sorted(known)}."
            raise RequestError(msg)
        if "kind" not in config:
            msg = f"A schedule needs its 'kind', one of {list(get_args(Kind))}; got only {sorted(config)}."
            raise RequestError(msg)
        return cls(**config)

    def to_config(self) -> dict[str, Any]:
        """Settings as a JSON-ready dict, without those that do not apply."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return {name: value for name, value in values.items() if value is not None}

    def with_prediction(self, prediction: Prediction) -> NoiseSchedule:
        """The same levels for a network that predicts something else."""
        return replace(self, prediction=prediction)

    # Levels

    def scales(self, t: int | Tensor, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """`sqrt(alpha_bar_t)` and `sqrt(1 - alpha_bar_t)`, ready to multiply `like`.

        Args:
            t: One timestep for the batch, or int64 `(B,)` on the CPU; 0 <= t < T.
            like: `(B, ...)`, gives number of dimensions, dtype and device.

        Returns:
            Two floats for an int; otherwise two tensors `(B, 1, ...)`. Roots are taken in float64.

        Raises:
            ValueError: t is outside of the table, or on a GPU, which would have to be waited for.
        """
        if isinstance(t, Tensor):
            if t.device.type != "cpu":
                msg = f"timesteps belong on the CPU, where the levels are looked up; these are on {t.device}"
                raise ValueError(msg)
            self._check_range(int(t.min()), int(t.max()))
            alpha_bar = self.alpha_bar[t.numpy()].reshape(-1, *[1] * (like.ndim - 1))
            roots = np.stack([np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)])
            signal, sigma = to_device(torch.from_numpy(roots), like.device, like.dtype)
            return signal, sigma
        self._check_range(t, t)
        return math.sqrt(self.alpha_bar[t]), math.sqrt(1.0 - self.alpha_bar[t])

    def _check_range(self, lowest: int, highest: int) -> None:
        """A negative index would quietly pick the noisiest levels."""
        if lowest < 0 or highest >= self.num_train_timesteps:
            msg = f"Timesteps {lowest} to {highest} asked for; the schedule has 0 to {self.num_train_timesteps - 1}."
            raise ValueError(msg)

    def timesteps(
        self,
        num_inference_steps: int,
        start: int | None = None,
        spacing: Spacing = "trailing",
    ) -> list[int]:
        """Timesteps to evaluate, noisiest first.

        Args:
            num_inference_steps: Network evaluations, 1 to `start + 1`.
            start: Noisiest timestep allowed, default T - 1. Below that the caller begins at
                `add_noise(estimate, noise, timesteps[0])` instead of pure noise.
            spacing: "trailing" contains `start`, ends one stride above 0; "leading" ends at 0, begins up to one stride
                below `start`; "linspace" contains both ends (the paper's respacing). After the last one sampling always
                goes to alpha_bar = 1.

        Returns:
            Strictly falling timesteps.
        """
        _check_choice("spacing", spacing, get_args(Spacing))
        start = self.num_train_timesteps - 1 if start is None else start
        if not 0 <= start < self.num_train_timesteps:
            msg = f"Sampling cannot start at timestep {start}; the schedule has 0 to {self.num_train_timesteps - 1}."
            raise RequestError(msg)
        if not 1 <= num_inference_steps <= start + 1:
            msg = f"{num_inference_steps} steps asked for; from timestep {start} there are 1 to {start + 1}."
            raise RequestError(msg)

        n, levels = num_inference_steps, start + 1
        if spacing == "trailing":
            return [int(t) - 1 for t in np.round(levels * np.arange(n, 0, -1) / n)]
        if spacing == "leading":
            return [k * (levels // n) for k in reversed(range(n))]
        return [int(t) for t in np.round(np.linspace(start, 0, n))]

    # Conversions. Tensors are `(B, ...)` of one shape, which is also returned; t is as in `scales`.

    def add_noise(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """Forward process: x_t."""
        signal, sigma = self.scales(t, x0)
        return signal * x0 + sigma * noise

    def from_x0_noise(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """What a perfect network returns: the training target."""
        if self.prediction == "noise":
            return noise
        if self.prediction == "clean":
            return x0
        signal, sigma = self.scales(t, x0)
        return signal * noise - sigma * x0

    def to_x0(self, x_t: Tensor, prediction: Tensor, t: int | Tensor) -> Tensor:
        """Estimate of the clean data; finite at every level (`ALPHA_BAR_FLOOR`)."""
        prediction = prediction.to(x_t.dtype)
        if self.prediction == "clean":
            return prediction
        signal, sigma = self.scales(t, x_t)
        if self.prediction == "v":
            return signal * x_t - sigma * prediction
        floor = math.sqrt(ALPHA_BAR_FLOOR)
        signal = signal.clamp_min(floor) if isinstance(signal, Tensor) else max(signal, floor)
        return (x_t - sigma * prediction) / signal

    def to_noise(self, x_t: Tensor, prediction: Tensor, t: int | Tensor) -> Tensor:
        """Estimate of the noise in x_t (the `score` of our vocabulary)."""
        prediction = prediction.to(x_t.dtype)
        if self.prediction == "noise":
            return prediction
        signal, sigma = self.scales(t, x_t)
        if self.prediction == "v":
            return sigma * x_t + signal * prediction
        return (x_t - signal * prediction) / sigma


def _linear_betas(num_train_timesteps: int, beta_start: float | None, beta_end: float | None) -> np.ndarray:
    if beta_start is None or beta_end is None or not 0 < beta_start <= beta_end < 1:
        msg = f"A linear schedule needs 0 < beta_start <= beta_end < 1; got {beta_start} and {beta_end}."
        raise RequestError(msg)
    return np.linspace(beta_start, beta_end, num_train_timesteps, dtype=np.float64)


def _cosine_betas(num_train_timesteps: int, offset: float = 0.008, cap: float = 0.999) -> np.ndarray:
    """Nichol & Dhariwal 2021, eq. 17: the offset keeps the first betas from vanishing, the cap alpha_bar above 0."""
    position = np.arange(num_train_timesteps + 1, dtype=np.float64) / num_train_timesteps
    signal_power = np.cos((position + offset) / (1 + offset) * math.pi / 2) ** 2
    return np.minimum(1 - signal_power[1:] / signal_power[:-1], cap)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        msg = f"Unknown {name} '{value}'; choose one of {', '.join(choices)}."
        raise RequestError(msg)
