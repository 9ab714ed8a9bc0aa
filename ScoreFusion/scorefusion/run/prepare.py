"""From the volumes that a user gives to what the networks see, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefusion.bundle.folder import Bundle
from scorefusion.errors import GeometryError, OutOfMemory, RequestError, VolumeError
from scorefusion.fusion.base import base_image
from scorefusion.fusion.inputs import ModelInputs, acquisition_vector
from scorefusion.fusion.tiling import at
from scorefusion.imaging.acquisition import Acquisition
from scorefusion.imaging.foreground import filled, foreground_box, foreground_mask
from scorefusion.imaging.grid import Box, Grid, Reorientation, overlap_fraction
from scorefusion.imaging.intensity import IntensityScale, fit_intensity_scale
from scorefusion.imaging.intensity_map import clear_background, read_maps
from scorefusion.imaging.slices import SliceGains, slice_gains
from scorefusion.imaging.volume import Volume, resample
from scorefusion.progress import Reporter
from scorefusion.run.domain import check_domain
from scorefusion.run.memory import available_memory
from scorefusion.run.request import Spacing, Understanding, understand
from scorefusion.wording import mm, readable

THICK = 1.5  # distance of slices over the voxels in plane, from which a scan was measured slice by slice
MIN_OVERLAP = 0.5  # share of the base volume that another condition must cover
FOREGROUND_MARGIN_MM = 6.0
CONSTANT_BACKGROUND = 0.05  # share of voxels at exactly the background's value from which a volume counts as masked
ARRAYS = 10  # of the result's size that live at once, apart from the networks
ODD, HOPELESS = 100.0, 1e4  # distance of the farthest voxel, in ranges that hold 98 % of all
SAME_IMAGE = 0.9999  # correlation; T1 before and after contrast agent, the most alike of all, have less
_NO_INPUTS = ModelInputs(torch.zeros(1, 1, 1, 1, 1))


@dataclass
class Prepared:
    """One run's volumes on canonical axes, cropped and normalised, and the way back."""

    section: dict[str, Any]
    reorientation: Reorientation
    target: Grid  # canonical, whole
    box: Box  # the part of it that is worked on
    inputs: ModelInputs  # of the box
    base: Tensor  # (1, 1, I, J, K) whole target grid, normalised
    scale: IntensityScale  # of the base condition
    acquisition: Acquisition | None = None  # of the whole grid
    measured: Tensor | None = None
    box_acquisition: Acquisition | None = None
    box_measured: Tensor | None = None
    understanding: Understanding | None = None
    like: Volume | None = None
    slice_gains: SliceGains | None = None  # along a canonical axis, what was evened out; None = not looked for

    def finish(self, mean: Tensor) -> tuple[Volume, dict[str, Any]]:
        """Put the box back, make it agree with the measurement (if any), return to the input's axes and units."""
        whole = self.base.clone()
        whole[at(self.box.slices)] = mean.to(whole)
        quality: dict[str, Any] = {}
        if self.acquisition is not None and self.measured is not None:
            whole = self.acquisition.project(whole, self.measured)
            error = self.acquisition.forward(whole) - self.measured
            half_range = 0.5 * (self.scale.high - self.scale.low)
            quality["measurement_residual_max"] = float(error.abs().max()) * half_range
            quality["measurement_residual_relative"] = float(error.abs().max()) / 2.0
        else:
            whole = as_magnitude(whole, self.base)
        return self.volume_of(self.output_scale.denormalise(whole)), quality

    def finish_deviation(self, deviation: Tensor | None) -> Volume | None:
        """The same for a standard deviation: zero outside the box, scaled but not shifted."""
        if deviation is None:
            return None
        whole = torch.zeros_like(self.base)
        whole[at(self.box.slices)] = deviation.to(whole)
        return self.volume_of(whole * (0.5 * (self.output_scale.high - self.output_scale.low)))

    @property
    def output_scale(self) -> IntensityScale:
        """Input units where the contrast stays, else the bundle's declared range."""
        target = self.section["target"]
        if target.get("same_contrast_as") is not None or target.get("range") is None:
            return self.scale
        low, high = target["range"]
        return IntensityScale(float(low), float(high))

    def mean_in_foreground(self, volume: Volume) -> float:
        """Mean over the voxels with signal, in output units."""
        canonical = volume.reoriented(self.reorientation).data[0]
        mask = self.base[0, 0].numpy() > -0.9
        return float(canonical[mask].mean()) if mask.any() else 0.0

    def volume_of(self, data: Tensor) -> Volume:
        """`(1, 1, I, J, K)` of the whole target grid, in output units, on the input's axes."""
        name = self.section["target"]["name"]
        contrast = self.like.contrast if self.like and self.section["target"].get("same_contrast_as") else name
        canonical = Volume(data[0].numpy().astype(np.float32), self.target.affine, contrast=contrast)
        return canonical.reoriented(self.reorientation.inverse)


def as_magnitude(whole: Tensor, base: Tensor) -> Tensor:
    """A new contrast is a magnitude image, too: nothing is darker than background, and where the base condition has no
    signal at all around the head (outside a stripped brain) there is none.

    Args:
        whole: `(I, J, K)`, with any leading axes of size 1, normalised: background is -1.
        base: the first condition, same shape.
    """
    emptied = base == -1.0
    if float(emptied.float().mean()) > CONSTANT_BACKGROUND:
        head = filled((~emptied).cpu().numpy().reshape(base.shape[-3:]))  # fluid may be as dark as background
        whole = whole.masked_fill(torch.from_numpy(~head).to(whole.device).reshape(whole.shape), -1.0)
    return whole.clamp(min=-1.0)


def prepare(
    volumes: dict[str, Volume],
    bundle: Bundle,
    spacing: Spacing,
    thickness: float | None,
    axis: int | None,
    report: Reporter,
    even_slices: bool = True,
) -> Prepared:
    """Understand a request and bring its volumes to one canonical, cropped, normalised grid.

    Args:
        volumes: by condition name, in the bundle's order.
        bundle: the model.
        spacing, thickness: as of `translate`.
        axis: of the input, 0 to 2.
        report: receives what lies outside the model's domain.
        even_slices: even out what slices of a thick-slice scan differ in brightness.

    Raises:
        RequestError: nothing to restore, or options that belong to the other task.
        GeometryError: the volumes do not show the same head.
    """
    section = bundle.section
    by_name = {condition["name"]: condition for condition in section["conditions"]}
    first = next(iter(volumes))
    base = volumes[first]
    restoring = section["task"] == "super_resolution"
    if not restoring and (spacing is not None or thickness is not None):
        msg = f"Model '{bundle.id}' keeps the grid of its input; spacing and thickness are for super-resolution models."
        raise RequestError(msg)
    request = understand(base, section, spacing, thickness, axis) if restoring else None
    for name, volume in volumes.items():
        _check_outliers(volume, report)
        for code, message in check_domain(section, volume, by_name[name], request if name == first else None):
            report.warning(f"outside-domain-{code}", message)
    if request is not None:
        if request.is_identity:
            finest = max(base.spacing)
            msg = (
                f"{base.name} already has voxels of {mm(base.spacing)} mm, as fine as this model makes them. "
                f"Ask for a finer grid, for example spacing={finest / 2:.2g}, or choose another model."
            )
            raise RequestError(msg)
        report.log(f"{base.name}: {request.describe(base.grid)}")

    _check_room(base, base.grid if request is None else request.target)
    canonical, reorientation = base.canonical()
    scale = _fitted_scale(canonical, by_name[first])
    gains = _uneven_slices(canonical, reorientation, request, scale, report) if even_slices else None
    if gains is not None:
        canonical = gains.evened(canonical, scale.low)
    normalised = _normalised(canonical, scale, section)
    mask = foreground_mask(canonical.data)
    margin = max(1, round(FOREGROUND_MARGIN_MM / min(canonical.spacing)))
    coarse_box = foreground_box(mask, margin)
    if request is None:
        state = Prepared(section, reorientation, canonical.grid, coarse_box, _NO_INPUTS, normalised, scale)
    else:
        state = _measured_request(section, reorientation, request, canonical, normalised, coarse_box, scale)
    state.like, state.slice_gains = base, gains
    state.inputs = _model_inputs(volumes, by_name, state, report)
    state.inputs = replace(state.inputs, region=region_of(mask[coarse_box.slices], state.box_acquisition))
    return state


def _check_room(base: Volume, target: Grid) -> None:
    """Refuse a grid whose mere arrays do not fit into memory, before any is made."""
    needed, free = ARRAYS * 4 * int(np.prod(target.spatial_shape, dtype=object)), available_memory()
    if needed > free:
        size = " x ".join(str(n) for n in target.spatial_shape)
        msg = (
            f"The result of {base.name} would have {size} voxels and need about {readable(needed)} of memory; "
            f"{readable(free)} are free. Ask for a coarser spacing, crop the volume, or correct its spacing."
        )
        raise OutOfMemory(msg)


def _fitted_scale(volume: Volume, condition: dict[str, Any]) -> IntensityScale:
    """The intensity scale of a volume; errors name it."""
    try:
        scale = fit_intensity_scale(volume.data, median=condition.get("median"))
    except VolumeError as error:
        msg = f"{volume.name}: {error}"
        raise VolumeError(msg) from error
    return scale


def _uneven_slices(
    canonical: Volume,
    reorientation: Reorientation,
    request: Understanding | None,
    scale: IntensityScale,
    report: Reporter,
) -> SliceGains | None:
    """How the slices of a scan that was measured slice by slice differ in brightness; None where no axis is thick."""
    if request is None or request.thick_axis is None:
        return None
    axis = reorientation.axis_to_canonical(request.thick_axis)
    if canonical.spacing[axis] < THICK * max(s for a, s in enumerate(canonical.spacing) if a != axis):
        return None
    gains = slice_gains(canonical, axis, scale.low)
    if gains.found:
        report.log(
            f"{canonical.name}: slices differed by {gains.spread:.1%} in brightness (at most {gains.largest:.1%}); "
            "evened out."
        )
    return gains


def _check_outliers(volume: Volume, report: Reporter) -> None:
    """Refuse a volume with voxels out of all proportion to the others; warn of large ones."""
    least, low, high, most = (float(value) for value in np.percentile(volume.data, (0, 1, 99, 100)))
    if low == high:  # nearly all is background, and nobody knows what is in proportion
        return
    worst, distance = max((least, low - least), (most, most - high), key=lambda pair: pair[1])
    if distance > ODD * (high - low):
        what = f"{volume.name} has a voxel of {worst:g}, while most lie between {low:.4g} and {high:.4g}."
        fix = "Replace such voxels first, for example by the median of their neighbours."
        if distance > HOPELESS * (high - low):
            msg = f"{what} {fix}"
            raise VolumeError(msg)
        report.warning("outliers", f"{what} {fix}")


def _check_differs(channels: list[Tensor], present: list[bool], volumes: dict[str, Volume]) -> None:
    """Refuse an input that shows what an earlier one shows: one scan given as two contrasts."""
    given = [channel.flatten().double() for channel, here in zip(channels, present, strict=True) if here]
    for number, earlier in enumerate(given[:-1]):
        if float(torch.corrcoef(torch.stack([earlier, given[-1]]))[0, 1]) > SAME_IMAGE:
            said = [f"{volume.name} ({name})" for name, volume in volumes.items()]
            both = f"{said[number]} and {said[len(given) - 1]}"
            msg = f"{both} show the same image, but are given as two contrasts. Give each contrast its own scan."
            raise RequestError(msg)


def _normalised(volume: Volume, scale: IntensityScale, section: dict[str, Any]) -> Tensor:
    """`(1, 1, i, j, k)` a condition as the networks see it; where it is mapped, its background is told apart."""
    channel = torch.from_numpy(np.ascontiguousarray(scale.normalise(volume.data)))[None]
    return channel if read_maps(section) is None else clear_background(channel[0, 0])[None, None]


def _measured_request(
    section: dict[str, Any],
    reorientation: Reorientation,
    request: Understanding,
    canonical: Volume,
    measured: Tensor,
    coarse_box: Box,
    scale: IntensityScale,
) -> Prepared:
    """Super-resolution: the operator from the target grid to the measured one, for the whole and for the box."""
    target = reorientation.apply_to_grid(request.target)
    thick = None if request.thick_axis is None else reorientation.axis_to_canonical(request.thick_axis)
    profile = section.get("slice_profile", "box")
    acquisition = Acquisition.between(target, canonical.grid, request.thickness, thick, profile)
    base = base_image(acquisition, measured, section)
    fine_box = _refine(coarse_box, acquisition)
    box_acquisition = Acquisition.between(
        target.crop(fine_box), canonical.grid.crop(coarse_box), request.thickness, thick, profile
    )
    return Prepared(
        section,
        reorientation,
        target,
        fine_box,
        _NO_INPUTS,
        base,
        scale,
        acquisition,
        measured,
        box_acquisition,
        measured[at(coarse_box.slices)].contiguous(),
        request,
    )


def region_of(mask: np.ndarray, acquisition: Acquisition | None) -> np.ndarray:
    """Where the box of the target grid holds the head; fluid inside it belongs to it."""
    whole = filled(mask)
    if acquisition is None:
        return whole
    fine = acquisition.upsample(torch.from_numpy(whole.astype(np.float32))[None, None], "nearest")
    return (fine[0, 0] > 0.5).numpy()


def _refine(box: Box, acquisition: Acquisition) -> Box:
    """The smallest box of the full grid that holds a box of the measured grid."""
    start, stop = [], []
    for axis, sampling in enumerate(acquisition.axes):
        first, last = box.start[axis], box.stop[axis]
        if sampling is not None:
            first = int(np.floor(first * sampling.factor + sampling.offset + 1e-6))
            last = int(np.ceil(last * sampling.factor + sampling.offset - 1e-6))
        start.append(max(0, first))
        stop.append(min(acquisition.full_shape[axis], last))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _model_inputs(
    volumes: dict[str, Volume], conditions: dict[str, dict[str, Any]], state: Prepared, report: Reporter
) -> ModelInputs:
    """All conditions on the box of the target grid; the first is the base, the others are resampled onto it."""
    channels, present = [], []
    window = state.target.crop(state.box)
    for number, name in enumerate(conditions):
        present.append(name in volumes)
        if name not in volumes:
            channels.append(torch.full((1, 1, *window.spatial_shape), -1.0))
            if not state.section["inputs"]["presence_context"]:  # else the networks are told, and all of them work
                report.log(f"Optional input '{name}' is missing; the networks that need it are left out.")
            continue
        if not any(present[:-1]):
            channels.append(state.base[at(state.box.slices)])
            continue
        volume = volumes[name]
        covered = overlap_fraction(window, volume.grid)
        if covered < MIN_OVERLAP:
            base = next(iter(volumes.values()))
            msg = (
                f"{volume.name} (input {number + 1}, '{name}') covers only {covered:.0%} of {base.name}. "
                "Both must show the same head in the same scanner coordinates: check the files, "
                "or register one to the other first."
            )
            raise GeometryError(msg)
        moved = volume if volume.grid.is_close(window) else resample(volume, window, "linear")
        scale = _fitted_scale(volume, conditions[name])
        channels.append(_normalised(moved, scale, state.section))
        _check_differs(channels, present, volumes)
    vector = None if state.box_acquisition is None else acquisition_vector(state.box_acquisition)
    return ModelInputs(torch.cat(channels, dim=1), vector, tuple(present), maps=read_maps(state.section))
