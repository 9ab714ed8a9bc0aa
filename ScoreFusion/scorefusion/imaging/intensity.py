"""Scanner units to [-1, 1] and back, and what in a volume is not air.

Pure arithmetic: a scale works on numpy arrays and torch tensors alike. Nothing is clipped, so the way back is exact.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from scorefusion.errors import VolumeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

from scorefusion.imaging.foreground import foreground_mask

ArrayT = TypeVar("ArrayT", bound=Any)
"""A numpy array or a torch tensor, any shape."""


@dataclass(frozen=True)
class IntensityScale:
    """How scanner units become [-1, 1]: `low` goes to -1, `high` to +1, values outside go further.

    Attributes:
        low: background level, in the units of the volume.
        high: bright tissue, in the units of the volume.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            msg = (
                f"The intensities cannot be scaled: the low level is {self.low:g} and the high level {self.high:g}, "
                "but low must be below high. Is the volume almost constant, or a mask?"
            )
            raise VolumeError(msg)

    def normalise(self, x: ArrayT) -> ArrayT:
        """Scanner units to [-1, 1]; the shape stays."""
        return (x - self.low) * (2.0 / (self.high - self.low)) - 1.0

    def denormalise(self, x: ArrayT) -> ArrayT:
        """[-1, 1] to scanner units; the shape stays."""
        return (x + 1.0) * (0.5 * (self.high - self.low)) + self.low

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> IntensityScale:
        """From JSON."""
        return cls(low=float(values["low"]), high=float(values["high"]))


def fit_intensity_scale(
    data: NDArray[np.float32],
    percentiles: tuple[float, float] = (0.5, 99.5),
    foreground: NDArray[np.bool_] | None = None,
    median: float | None = None,
) -> IntensityScale:
    """Find the scale of a volume: background near -1, bright tissue near +1, or the median of the foreground at a
    given level.

    Both levels leave the amount of air out of account, so the same head in a larger box has the same scale. The high
    level is a percentile of the foreground. The low level is the median of the background: exactly 0 in a
    skull-stripped volume. Without a background, or with tissue well below it (z-scored volumes), it is a percentile of
    the foreground.

    Args:
        data: `(I, J, K)` or `(C, I, J, K)`, scanner units, finite.
        percentiles: of the low and high level, 0 to 100.
        foreground: bool `(I, J, K)`; None finds it with `foreground_mask`.
        median: normalised level, above -1, of the foreground's median; None = the percentiles decide. In a brain
            without skull it says how bright tissue is; the bright end says how bright the brightest fluid, fat or
            lesion is, which differs between people.
    """
    mask = np.broadcast_to(foreground_mask(data) if foreground is None else foreground, data.shape)
    inside, outside = data[mask], data[~mask]
    if inside.size == 0:
        msg = "The foreground is empty, so the intensities cannot be scaled. Give a volume with an object in it."
        raise VolumeError(msg)
    low, high = (float(level) for level in np.percentile(inside, percentiles))
    if outside.size:
        background = float(np.median(outside))
        if low > background - 0.1 * (high - background):
            low = background
    if median is not None:
        high = low + (float(np.median(inside)) - low) * 2.0 / (median + 1.0)
    return IntensityScale(low, high)
