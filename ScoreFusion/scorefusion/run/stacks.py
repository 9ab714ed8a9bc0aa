"""Several stacks of one contrast, each restored by itself, then made one image that agrees with all of them.

The networks have learned single acquisitions, so each stack is an ordinary run on its own axes. What the runs give is
averaged on the grid of the first stack and projected onto all measurements at once: what any stack has measured is
given back, and what none has is guessed several times over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from scorefusion.bundle.folder import Bundle
from scorefusion.errors import GeometryError, RequestError, VolumeError
from scorefusion.imaging.foreground import foreground_mask
from scorefusion.imaging.grid import Grid, nearest_world_axes, overlap_fraction, super_resolution_grid
from scorefusion.imaging.registration import Motion, constant_background, move
from scorefusion.imaging.stacks import Measurement, project
from scorefusion.imaging.volume import Volume, resample
from scorefusion.progress import Reporter
from scorefusion.run.exam import motion_between
from scorefusion.run.prepare import SAME_IMAGE, Prepared, prepare
from scorefusion.run.provenance import source_of
from scorefusion.run.request import Spacing
from scorefusion.run.restore import Restoration
from scorefusion.wording import mm

LEAST_OVERLAP = 0.25  # share of the smaller of two fields of view
LEAST_CORRELATION = 0.9
"""Of block means inside the head. Two stacks of one contrast have 0.98 or more, moved by 1 mm along each axis 0.94; T1w
before and after contrast agent, the most alike of other pairs, have 0.84."""
CONTRADICTION = 0.05
"""Root mean square difference of block means, in shares of the range. Two stacks of a still head have 0.03, with 3 %
noise too; moved by 1 mm along each axis 0.07."""
FEWEST_BLOCKS = 30
SAMPLES = 4  # a block's edge, for its mean
TRIM = 3.0  # standard deviations beyond which a block does not count in the fit of gain and offset
RIM_MM = 6.0  # over which a stack fades out towards the end of its field of view


@dataclass(frozen=True, eq=False)
class Match:
    """How a stack's intensities became those of the first: `gain * value + offset`.

    Attributes:
        correlation: of the means of blocks inside the head, as large as the thickest slice.
        difference: root mean square of what then still differs between them, in shares of the first stack's range.
    """

    gain: float = 1.0
    offset: float = 0.0
    correlation: float = 1.0
    difference: float = 0.0


@dataclass(frozen=True, eq=False)
class Stack:
    """One stack of the scan to restore.

    Attributes:
        given: as it was read.
        volume: the same voxels, moved onto the first stack and in its units; the first as it is.
        motion: how it was moved.
    """

    given: Volume
    volume: Volume
    motion: Motion
    match: Match

    def to_dict(self) -> dict[str, Any]:
        """For the provenance."""
        return {
            **source_of(self.given),
            "MovedMm": [round(value, 3) for value in self.motion.translation_mm],
            "TurnedDegrees": round(self.motion.rotation_degrees, 3),
            "MetricBefore": self.motion.metric_before,
            "MetricAfter": self.motion.metric_after,
            "Gain": self.match.gain,
            "Offset": self.match.offset,
            "Correlation": round(self.match.correlation, 4),
            "Difference": round(self.match.difference, 5),
        }


def place_stacks(first: Volume, further: Sequence[Volume], register: bool, report: Reporter) -> list[Stack]:
    """All stacks in the world and the units of the first; no voxel is interpolated.

    Args:
        first: one channel; stays as it is.
        further: one channel each, any grids.
        register: find each one's rigid motion; else the headers are right.
        report: told what was moved and how intensities were matched, and where stacks contradict each other.

    Raises:
        RequestError: a stack is no stack, the same scan again, or of another contrast.
        GeometryError: a stack shows another place.
    """
    _check_distinct([first, *further])
    stacks = [Stack(first, first, Motion.none(), Match())]
    for given in further:
        _check_stack(given)
        report.check_cancelled()
        motion = _motion(given, first, register)
        moved = motion.place(given)
        overlap = max(overlap_fraction(first.grid, moved.grid), overlap_fraction(moved.grid, first.grid))
        if overlap < LEAST_OVERLAP:
            msg = (
                f"{given.name} shares only {overlap:.0%} of its field of view with {first.name}. Stacks of one scan "
                "must show the same place in the same scanner coordinates: check the files, or leave this stack out."
            )
            raise GeometryError(msg)
        match = _match(first, moved)
        _check_match(given, first, match, register, report)
        data = (match.gain * moved.data + match.offset).astype(np.float32)
        # Its digests are those of the file as given.
        stacks.append(Stack(given, moved.with_data(data), motion, match))
        report.log(
            f"{given.name} was moved by {mm(motion.translation_mm)} mm and turned by {motion.rotation_degrees:.2g} "
            f"degrees onto {first.name}; its intensities were multiplied by {match.gain:.4g} and "
            f"{match.offset:+.4g} added (correlation {match.correlation:.3f}, difference {match.difference:.1%})."
        )
    return stacks


def prepare_stacks(
    volumes: dict[str, Volume],
    stacks: Sequence[Stack],
    bundle: Bundle,
    spacing: Spacing,
    report: Reporter,
    even_slices: bool = True,
) -> list[Prepared]:
    """One request for each stack but the first, with the guides of the first.

    Args:
        volumes: by condition name, the first stack's first.
        stacks: all of them, of `place_stacks`.
        bundle: the model.
        spacing: as asked for, along the axes of the first stack.
        report, even_slices: as of `prepare`.
    """
    name = next(iter(volumes))
    return [
        prepare(
            {**volumes, name: stack.volume},
            bundle,
            _spacing_along(stack.volume, stacks[0].volume, spacing),
            None,
            None,
            report,
            even_slices,
        )
        for stack in stacks[1:]
    ]


def _spacing_along(stack: Volume, first: Volume, spacing: Spacing) -> Spacing:
    """A spacing along the axes of the first stack, along those of another."""
    if not isinstance(spacing, tuple):
        return spacing
    cosines = np.eye(4)
    cosines[:3, :3] = (first.affine[:3, :3] / first.spacing).T @ stack.affine[:3, :3]
    i, j, k = nearest_world_axes(cosines)[0]
    return spacing[i], spacing[j], spacing[k]


def join(
    requests: Sequence[Prepared],
    results: Sequence[tuple[Restoration, Restoration | None]],
    report: Reporter,
) -> tuple[Volume, Volume | None, dict[str, Any]]:
    """One image of what each stack gave.

    Args:
        requests: one a stack, the first stack's first.
        results: of `sample_prepared`, in the same order.
        report: asked whether the run is cancelled.

    Returns:
        The image, its standard deviation (None unless the runs have one) and what `Result.quality` tells: all on the
        axes and in the units of the first stack. The deviation is the mean over the stacks' variances, no less for
        there being several: they guess by the same networks, so their errors are not independent.
    """
    first = requests[0]
    target, scale = first.target, first.scale
    mean = torch.zeros_like(first.base)
    variance = torch.zeros_like(first.base)
    total = torch.zeros_like(first.base)
    for number, (request, (main, spread)) in enumerate(zip(requests, results, strict=True)):
        report.check_cancelled()
        weight = _coverage(target, request.target)
        if number == 0:
            weight = weight.clamp(min=1e-3)  # it alone is everywhere
        restored = _onto(target, request.finish(main.mean)[0])
        mean += weight * scale.normalise(restored)
        deviation = None if spread is None else request.finish_deviation(spread.deviation)
        if deviation is not None:
            variance += weight * _onto(target, deviation, "linear").square()
        total += weight
    measurements = [_measurement(request, target, scale.normalise) for request in requests]
    whole = project(mean / total, measurements, pause=report.check_cancelled)
    half_range = 0.5 * (scale.high - scale.low)
    residuals = [measurement.residual(whole) for measurement in measurements]
    largest = max(most for _, most in residuals)
    quality: dict[str, Any] = {
        "measurement_residual_max": largest * half_range,
        "measurement_residual_relative": largest / 2.0,
        "stacks": [{"ResidualRms": rms * half_range, "ResidualMax": most * half_range} for rms, most in residuals],
    }
    image = first.volume_of(scale.denormalise(whole))
    return image, None if results[0][1] is None else first.volume_of((variance / total).sqrt()), quality


# -- the parts -----------------------------------------------------------------------------------------------------


def _motion(given: Volume, first: Volume, register: bool) -> Motion:
    if not register:
        return Motion.none()
    try:
        return motion_between(given, first)
    except VolumeError as error:
        msg = (
            f"{given.name} was not registered to {first.name}: {str(error).rstrip('.')}. Check that both show the same "
            "head, leave this stack out, or trust the headers (--no-register)."
        )
        raise GeometryError(msg) from error


def _check_stack(volume: Volume) -> None:
    if volume.data.shape[0] != 1 or min(volume.spatial_shape) < 2:
        shape = " x ".join(str(n) for n in (*volume.data.shape[:1], *volume.spatial_shape))
        msg = (
            f"{volume.name} is no stack of slices ({shape} channels and voxels): one channel and at least two voxels "
            "along each axis are expected. Give a 3D scan, or leave it out."
        )
        raise RequestError(msg)


def _check_distinct(volumes: Sequence[Volume]) -> None:
    """Refuse one scan given twice: what it says would count twice."""
    for one, other in combinations(volumes, 2):
        same = one.data.shape == other.data.shape and (
            np.array_equal(one.data, other.data)
            or (one.grid.is_close(other.grid) and np.corrcoef(one.data.ravel(), other.data.ravel())[0, 1] > SAME_IMAGE)
        )
        if same:
            msg = f"{one.name} and {other.name} are the same scan. Give each stack once."
            raise RequestError(msg)


def _match(first: Volume, other: Volume) -> Match:
    """Gain and offset that bring a stack to the first, by the means of blocks as large as the thickest slice: there
    both stacks show the same, whatever their directions."""
    edge = max(*first.spacing, *other.spacing, first.slice_thickness or 0.0, other.slice_thickness or 0.0)
    grid = super_resolution_grid(first.grid, edge / SAMPLES, keep_finer=False)
    ours, theirs = (_block_means(resample(volume, grid, "linear").data) for volume in (first, other))
    covered = resample(other.with_data(np.ones_like(other.data)), grid, "linear", fill=0.0).data
    head = foreground_mask(resample(first, grid, "linear").data[0])[None].astype(np.float32)
    counted = (_block_means(covered) > 0.99) & (_block_means(head) > 0.99)
    if counted.sum() < FEWEST_BLOCKS:
        msg = (
            f"{first.name} and {other.name} hardly share a part of the head, so their intensities cannot be "
            "compared. Check that both show the same place, or leave one out."
        )
        raise GeometryError(msg)
    x, y = theirs[counted].astype(np.float64), ours[counted].astype(np.float64)
    if min(x.std(), y.std()) == 0:
        return Match(correlation=0.0)
    black, ours_black = constant_background(other), constant_background(first)
    anchor = None if black is None or ours_black is None else (black, ours_black)
    gain, offset = _robust_line(x, y, anchor)
    spread = float(np.percentile(y, 99) - np.percentile(first.data, 1))
    difference = float(np.sqrt(np.mean((gain * x + offset - y) ** 2))) / max(spread, 1e-12)
    return Match(gain, offset, float(np.corrcoef(x, y)[0, 1]), difference)


def _robust_line(x: np.ndarray, y: np.ndarray, anchor: tuple[float, float] | None) -> tuple[float, float]:
    """Gain and offset of `y = gain x + offset`: the ratio of the spreads, since both have noise, without outliers.

    Args:
        x, y: `(N,)`.
        anchor: a point that the line goes through, such as both backgrounds; None = the middle.
    """
    keep = np.ones(x.shape, bool)
    gain, offset = 1.0, 0.0
    for _ in range(10):
        x0, y0 = (x[keep].mean(), y[keep].mean()) if anchor is None else anchor
        gain = float(np.sqrt(np.square(y[keep] - y0).sum() / np.square(x[keep] - x0).sum()))
        offset = float(y0 - gain * x0)
        error = np.abs(y - gain * x - offset)
        keep = error <= TRIM * 1.4826 * np.median(error) + 1e-9 * np.abs(y).max()
    return gain, offset


def _block_means(data: np.ndarray) -> np.ndarray:
    """`(1, I, J, K)` to the means of whole blocks of `SAMPLES` voxels a side."""
    return avg_pool3d(torch.from_numpy(data)[None], SAMPLES)[0].numpy()


def _check_match(given: Volume, first: Volume, match: Match, register: bool, report: Reporter) -> None:
    if match.correlation < LEAST_CORRELATION:
        hint = "" if register else " They were not registered: do so if the head has moved."
        msg = (
            f"{given.name} does not show what {first.name} shows: their correlation is {match.correlation:.2f}, and "
            f"stacks of one contrast have {LEAST_CORRELATION:g} or more. It has another contrast, or does not lie "
            f"where its header says.{hint} Leave it out, or give it as a guide if the model has an input for it."
        )
        raise RequestError(msg)
    if match.difference > CONTRADICTION:
        report.warning(
            "stacks-contradict",
            f"{given.name} contradicts {first.name} by {match.difference:.0%} of the intensity range where both show "
            "the same place. The result lies between them (least squares). Check the registration, and whether "
            "anything changed between the two scans.",
            difference=round(match.difference, 4),
        )


def _coverage(target: Grid, grid: Grid) -> Tensor:
    """`(1, 1, I, J, K)`: 0 outside a field of view, rising to 1 over `RIM_MM` inside it, where no end is near."""
    to_grid = np.linalg.inv(grid.affine) @ target.affine
    weight = torch.ones(1, 1, *target.spatial_shape)
    for axis in range(3):
        i, j, k = (
            torch.arange(size, dtype=torch.float64) * step
            for size, step in zip(target.spatial_shape, to_grid[axis, :3], strict=True)
        )
        place = i[:, None, None] + j[:, None] + k + float(to_grid[axis, 3])
        to_end = torch.minimum(place + 0.5, grid.spatial_shape[axis] - 0.5 - place) * grid.spacing[axis]
        weight *= (to_end / RIM_MM).clamp(0.0, 1.0).float()
    return weight


def _onto(target: Grid, volume: Volume, interpolation: str = "cubic") -> Tensor:
    """`(1, 1, I, J, K)` on the target grid."""
    canonical, _ = volume.canonical()
    moved = canonical if canonical.grid.is_close(target) else move(volume, Motion.none(), target, interpolation)
    return torch.from_numpy(moved.data)[None]


def _measurement(request: Prepared, target: Grid, normalise: Callable[[Any], Any]) -> Measurement:
    """What a request's scan says about the target grid, its slices evened as the request has them."""
    assert request.like is not None
    assert request.measured is not None
    assert request.understanding is not None
    understanding = request.understanding
    thick = understanding.thick_axis
    return Measurement.on(
        target,
        request.reorientation.apply_to_grid(request.like.grid),
        normalise(request.scale.denormalise(request.measured)),
        understanding.thickness,
        None if thick is None else request.reorientation.axis_to_canonical(thick),
        request.section.get("slice_profile", "box"),
    )
