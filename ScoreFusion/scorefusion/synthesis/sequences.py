"""What a sequence makes of a tissue: signal equations, and the protocols that hospitals use.

Times in milliseconds, angles in degrees, proton density relative to water. All functions take arrays of any shape that
broadcast, and give the magnitude of the signal in the same units as the proton density.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


Kind = Literal["spin_echo", "inversion_recovery", "gradient_echo", "mprage"]

CONTRASTS = ("t1", "t1ce", "t2", "flair", "pd")
"""What can be asked for. "t1ce" is T1-weighted after a gadolinium contrast agent."""


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Parameters of some tissues; arrays of one shape. Times in ms, density relative to water."""

    t1: NDArray[np.float64]
    t2: NDArray[np.float64]
    t2_star: NDArray[np.float64]
    pd: NDArray[np.float64]


def spin_echo(t1: ArrayLike, t2: ArrayLike, pd: ArrayLike, *, tr: float, te: float) -> NDArray[np.float64]:
    """`PD (1 - exp(-TR/T1)) exp(-TE/T2)`: 90-180 degrees, TE much shorter than TR."""
    return np.asarray(pd) * (1.0 - np.exp(-tr / np.asarray(t1))) * np.exp(-te / np.asarray(t2))


def inversion_recovery(
    t1: ArrayLike, t2: ArrayLike, pd: ArrayLike, *, tr: float, te: float, ti: float
) -> NDArray[np.float64]:
    """`PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)`: a spin echo after an inversion pulse."""
    t1 = np.asarray(t1)
    return np.asarray(pd) * np.abs(1.0 - 2.0 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / np.asarray(t2))


def null_inversion_time(t1: float, tr: float) -> float:
    """The inversion time at which a tissue gives no signal: `T1 ln(2 / (1 + exp(-TR/T1)))`."""
    return float(t1 * np.log(2.0 / (1.0 + np.exp(-tr / t1))))


def gradient_echo(
    t1: ArrayLike, t2_star: ArrayLike, pd: ArrayLike, *, tr: float, te: float, flip: float
) -> NDArray[np.float64]:
    """Spoiled gradient echo in its steady state: `PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE/T2*)`."""
    angle, e1 = np.deg2rad(flip), np.exp(-tr / np.asarray(t1))
    steady = np.sin(angle) * (1.0 - e1) / (1.0 - np.cos(angle) * e1)
    return np.asarray(pd) * steady * np.exp(-te / np.asarray(t2_star))


def mprage(
    t1: ArrayLike,
    t2_star: ArrayLike,
    pd: ArrayLike,
    *,
    tr: float,  # from one inversion to the next
    te: float,
    ti: float,  # from the inversion to the middle of the train, where contrast is made
    flip: float,
    spacing: float,  # between two echoes of the train
    echoes: int,
) -> NDArray[np.float64]:
    """Inversion, a wait, a train of small-angle gradient echoes, a wait; in the steady state of that cycle.

    Between pulses magnetisation recovers with T1 towards 1. Within the train it tends with
    `1/T1* = 1/T1 - ln(cos a) / spacing` towards `T1*/T1` instead (Deichmann and Haase 1992). The cycle is a chain of
    linear maps `m -> m_inf + (m - m_inf) e`, so its fixed point is solved for.
    """
    t1 = np.asarray(t1, dtype=np.float64)
    angle = np.deg2rad(flip)
    driven = 1.0 / (1.0 / t1 - np.log(np.cos(angle)) / spacing)  # T1*
    level = driven / t1
    half = 0.5 * echoes * spacing
    before, after = max(ti - half, 0.0), max(tr - ti - half, 0.0)

    def recover(m: Any, duration: float) -> Any:
        return 1.0 + (m - 1.0) * np.exp(-duration / t1)

    def train(m: Any, duration: float) -> Any:
        return level + (m - level) * np.exp(-duration / driven)

    def cycle(m: Any) -> Any:
        return recover(train(recover(-m, before), 2.0 * half), after)

    offset = cycle(np.zeros_like(t1))
    start = offset / (1.0 - (cycle(np.ones_like(t1)) - offset))
    centre = train(recover(-start, before), half)
    return np.asarray(pd) * np.abs(centre) * np.sin(angle) * np.exp(-te / np.asarray(t2_star))


@dataclass(frozen=True)
class Protocol:
    """One sequence with its settings.

    Attributes:
        kind: the signal equation.
        field: tesla.
        tr, te, ti: repetition, echo and inversion time, ms; ti is 0 where there is no inversion.
        flip: degrees, of gradient echoes.
        spacing, echoes: of the train of `mprage`.
        fat: share of the signal of fat that is left: it is off resonance, and often saturated on purpose.
    """

    kind: Kind
    field: float
    tr: float
    te: float
    ti: float = 0.0
    flip: float = 90.0
    spacing: float = 0.0
    echoes: int = 0
    fat: float = 1.0

    def signal(self, tissue: Relaxation) -> NDArray[np.float64]:
        """The signal of each entry of `tissue`, in units of proton density."""
        t1, t2, t2_star, pd = tissue.t1, tissue.t2, tissue.t2_star, tissue.pd
        if self.kind == "spin_echo":
            return spin_echo(t1, t2, pd, tr=self.tr, te=self.te)
        if self.kind == "inversion_recovery":
            return inversion_recovery(t1, t2, pd, tr=self.tr, te=self.te, ti=self.ti)
        if self.kind == "gradient_echo":
            return gradient_echo(t1, t2_star, pd, tr=self.tr, te=self.te, flip=self.flip)
        train = {"ti": self.ti, "flip": self.flip, "spacing": self.spacing, "echoes": self.echoes}
        return mprage(t1, t2_star, pd, tr=self.tr, te=self.te, **train)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}


def draw_protocol(contrast: str, field: float, csf_t1: float, rng: np.random.Generator) -> Protocol:
    """Settings that a hospital might use for a contrast.

    Args:
        contrast: one of `CONTRASTS`.
        field: tesla.
        csf_t1: ms, of the fluid that FLAIR is to null.
        rng: where chance comes from.
    """
    uniform = rng.uniform
    saturated = rng.random() < {"t2": 0.2, "pd": 0.15, "flair": 0.6}.get(contrast, 0.35)
    fat = uniform(0.02, 0.2) if saturated else uniform(0.4, 0.9)
    if contrast == "t2":
        return Protocol("spin_echo", field, uniform(3000, 7000), uniform(75, 110), fat=fat)
    if contrast == "pd":
        return Protocol("spin_echo", field, uniform(2200, 5000), uniform(8, 30), fat=fat)
    if contrast == "flair":
        tr = uniform(7000, 11000)
        ti = null_inversion_time(csf_t1, tr) * uniform(0.94, 1.04)
        return Protocol("inversion_recovery", field, tr, uniform(90, 145), ti, fat=fat)
    kind = rng.choice(["mprage", "gradient_echo", "spin_echo"], p=[0.6, 0.25, 0.15])
    if kind == "mprage":
        tr, te, ti, flip = uniform(1900, 2500), uniform(2.2, 4), uniform(850, 1100), uniform(7, 12)
        return Protocol("mprage", field, tr, te, ti, flip, uniform(6.5, 9.5), int(uniform(128, 192)), fat)
    if kind == "gradient_echo":
        tr = uniform(8, 25)
        ernst = np.rad2deg(np.arccos(np.exp(-tr / 900.0)))  # of white matter; twice that weights by T1
        return Protocol("gradient_echo", field, tr, uniform(2, 6), flip=float(ernst) * uniform(1.6, 2.4), fat=fat)
    return Protocol("spin_echo", field, uniform(400, 700), uniform(8, 15), fat=fat)
