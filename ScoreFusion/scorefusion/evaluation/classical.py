"""Restoration without learning: the bar that a model must pass. Each method also gets the projection, as the model
does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from scorefusion.imaging.acquisition import Acquisition

#: Rounds of iterative back-projection in the tables.
BACK_PROJECTION_ROUNDS = 20


@dataclass(frozen=True)
class ClassicalMethod:
    """A name for tables and a function from the measurement `(B, C, i, j, k)` to the full grid `(B, C, I, J, K)`."""

    name: str
    label: str
    restore: Callable[[Acquisition, Tensor], Tensor]


def _interpolate(kind: str) -> Callable[[Acquisition, Tensor], Tensor]:
    return lambda acquisition, measured: acquisition.upsample(measured, kind)  # type: ignore[arg-type]


def _interpolate_and_project(kind: str) -> Callable[[Acquisition, Tensor], Tensor]:
    return lambda acquisition, measured: acquisition.project(
        acquisition.upsample(measured, kind),  # type: ignore[arg-type]
        measured,
    )


def _back_project(acquisition: Acquisition, measured: Tensor) -> Tensor:
    return acquisition.back_project(measured, rounds=BACK_PROJECTION_ROUNDS, interpolation="cubic")


CLASSICAL_METHODS: tuple[ClassicalMethod, ...] = (
    ClassicalMethod("nearest", "nearest", _interpolate("nearest")),
    ClassicalMethod("linear", "trilinear", _interpolate("linear")),
    ClassicalMethod("cubic", "cubic B-spline", _interpolate("cubic")),
    ClassicalMethod("nearest+proj", "nearest + projection", _interpolate_and_project("nearest")),
    ClassicalMethod("linear+proj", "trilinear + projection", _interpolate_and_project("linear")),
    ClassicalMethod("cubic+proj", "cubic + projection", _interpolate_and_project("cubic")),
    ClassicalMethod("cubic+ibp", f"cubic + back-projection ({BACK_PROJECTION_ROUNDS} rounds)", _back_project),
)
