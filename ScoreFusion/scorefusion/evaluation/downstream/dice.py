"""Dice, and how much of what a coarse scan lost a method gives back."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

#: A gap between cubic and truth below this is no gap: a share of it would be noise.
SMALLEST_GAP = 0.005


def dice(found: Tensor, reference: Tensor) -> float:
    """Twice the overlap over the sum of the sizes, 0 to 1; nan where both are empty.

    Args:
        found: bool, any shape.
        reference: bool, the same shape.
    """
    if found.shape != reference.shape:
        msg = f"found {tuple(found.shape)} must match reference {tuple(reference.shape)}"
        raise ValueError(msg)
    sizes = int(found.sum()) + int(reference.sum())
    return 2.0 * int((found & reference).sum()) / sizes if sizes else math.nan


def mean(values: Iterable[float]) -> float:
    """Mean of what is known; nan if nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def gap_share(value: float, cubic: float, truth: float) -> float:
    """Share of the gap between cubic and truth that is closed: 0 as cubic, 1 as the truth, below 0 worse than cubic.

    nan where there is no gap to close (`SMALLEST_GAP`).
    """
    gap = truth - cubic
    return (value - cubic) / gap if gap >= SMALLEST_GAP else math.nan
