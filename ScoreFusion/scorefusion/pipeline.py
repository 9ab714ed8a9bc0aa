"""`translate()`: the one way in. Volumes (or files) of one person go in, the restored or translated volume comes out.

    read -> understand the request -> canonical axes -> one grid -> normalise -> crop -> sample -> project -> back again

Every choice that changes the result is in the provenance; every fallback is an event, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import scorefusion
from scorefusion.acquisition import Acquisition
from scorefusion.bundle import Bundle, find_bundle
from scorefusion.domain import Understanding, check_domain, understand
from scorefusion.errors import GeometryError, OutOfMemory, RequestError
from scorefusion.fusion import FusionRule, VolumeRule
from scorefusion.grid import Box, Grid, Reorientation, foreground_box, overlap_fraction
from scorefusion.inputs import ModelInputs, acquisition_vector
from scorefusion.intensity import IntensityScale, fit_intensity_scale, foreground_mask
from scorefusion.model import Model, load_model
from scorefusion.progress import Event, Reporter
from scorefusion.restore import NoiseField, Restoration, SamplingPlan, base_image, restore
from scorefusion.runtime import (
    available_memory,
    inference_settings,
    is_out_of_memory,
    pick_device,
    pick_precision,
    plan_tile,
)
from scorefusion.unet import at
from scorefusion.volume import Volume, read_volume, resample

Input = Volume | str | os.PathLike[str]
MIN_OVERLAP = 0.5  # share of the base volume that another condition must cover
FOREGROUND_MARGIN_MM = 6.0
DEFAULT_UNCERTAINTY = {"steps": 4, "samples": 4, "solver": "ddim", "eta": 1.0}


@dataclass(frozen=True)
class Result:
    """What `translate` gives.

    Attributes:
        volume: the target, on the input's axes, in the units that the bundle declares.
        uncertainty: standard deviation over samples, same grid and units; None unless asked for.
        provenance: what was done, JSON-ready (BIDS `GeneratedBy`).
        quality: what can be said without a reference, JSON-ready.
    """

    volume: Volume
    uncertainty: Volume | None
    provenance: dict[str, Any]
    quality: dict[str, Any]


def translate(
    inputs: Input | Mapping[str, Input],
    model: str | os.PathLike[str] | Bundle = "brain-sr",
    *,
    spacing: float | tuple[float, float, float] | None = None,
    thickness: float | None = None,
    axis: int | str | None = None,
    preset: str = "fast",
    steps: int | None = None,
    samples: int | None = None,
    uncertainty: bool = False,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    rule: str | None = None,
    tile: int | tuple[int, int, int] | None = None,
    frame: int | None = None,
    on_event: Callable[[Event], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Result:
    """Sharpen a scan, or make another contrast of it.

    Args:
        inputs: a volume or a file; or a mapping from the model's condition names to them.
        model: name of an installed bundle, or a bundle's folder.
        spacing: target spacing in mm, one number or one an axis; None = the bundle's. Super-resolution only.
        thickness: slice thickness in mm; None = what the header tells, else the slice distance.
        axis: the axis that `thickness` is about: 0, 1, 2 or "i", "j", "k" of the input; None = the coarsest.
        preset: "fast", "balanced" or "best"; see the model's card for what each is for.
        steps, samples: override the preset's.
        uncertainty: also give the standard deviation over samples.
        seed: fixes the noise in the volume's own grid.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto", "float32", "bfloat16", "float16": inside the networks only.
        rule: fusion rule; None = the bundle's. "average", "alternating", "axial", ... are the published baselines; see
            `Model.choose_rule`.
        tile: voxels a side that the 3D network takes at once; None = as memory allows.
        frame: which frame of a 4D file.
        on_event: receives progress, log and warning events.
        cancelled: asked often; True ends the work with `Cancelled`.

    Raises:
        ScoreFusionError: something the caller can put right; the message says what.
        Cancelled: `cancelled` said so.

    Example:
        >>> result = translate("t1_5mm.nii.gz", "brain-sr", preset="balanced")      # doctest: +SKIP
        >>> write_volume(result.volume, "t1_1mm.nii.gz")                            # doctest: +SKIP
    """
    started = time.monotonic()
    report = Reporter(on_event, cancelled)
    bundle = find_bundle(
        model if isinstance(model, Bundle) else Path(model) if isinstance(model, os.PathLike) else model
    )
    plan = _plan(bundle, preset, steps, samples, uncertainty)
    volumes = _read_inputs(inputs, bundle, frame)
    request = _prepare(volumes, bundle, spacing, thickness, _axis_number(axis), report)

    chosen = pick_device(device, report.warning)
    dtype = pick_precision(precision, chosen)
    report.log(f"Model {bundle.id} {bundle.version} on {chosen} ({str(dtype).removeprefix('torch.')})")
    with inference_settings():
        try:
            loaded = load_model(bundle, chosen, dtype)
            fusion = loaded.choose_rule(rule)
            _choose_tiles(fusion, request, chosen, tile, report)
            run = _Run(loaded, fusion, request, seed, chosen, report)
            main, spread = run.sample(plan, uncertainty)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            msg = (
                f"{chosen} ran out of memory. Close other programs, give a smaller tile (tile=64), crop the volume "
                "around the head, or use device='cpu'."
            )
            raise OutOfMemory(msg) from error
        volume, quality = request.finish(main.mean)
        deviation = None if spread is None else request.finish_deviation(spread.deviation)
    if deviation is not None:
        quality["mean_uncertainty"] = request.mean_in_foreground(deviation)
    provenance = _provenance(bundle, volumes, request, plan, fusion, seed, chosen, dtype, report, started, preset)
    if rule is not None:
        provenance["RuleAsked"] = rule
    if spread is not None and spread is not main:
        provenance["Uncertainty"] = dataclasses.asdict(run.uncertainty_plan(plan))
    return Result(volume, deviation, provenance, quality)


# -- the request ---------------------------------------------------------------------------------------------------


def _plan(bundle: Bundle, preset: str, steps: int | None, samples: int | None, uncertainty: bool) -> SamplingPlan:
    presets = bundle.section["presets"]
    if preset not in presets:
        msg = f"Model '{bundle.id}' has no preset '{preset}'; choose one of {', '.join(presets)}."
        raise RequestError(msg)
    plan = SamplingPlan.from_preset(presets[preset])
    if steps is not None:
        plan = dataclasses.replace(plan, steps=steps)
    if samples is not None:
        plan = dataclasses.replace(plan, samples=samples)
    if bundle.volume_kind == "regression" and (uncertainty or max(plan.steps, plan.samples) > 1):
        msg = (
            f"Model '{bundle.id}' is a regression: it has one answer, without steps, samples or uncertainty. "
            "Ask for one step and no uncertainty, or choose a diffusion model."
        )
        raise RequestError(msg)
    return plan


def _axis_number(axis: int | str | None) -> int | None:
    if isinstance(axis, str):
        if axis.lower() not in ("i", "j", "k", "0", "1", "2"):
            msg = f"axis must be i, j or k (or 0, 1, 2), got '{axis}'."
            raise RequestError(msg)
        return "ijk012".index(axis.lower()) % 3
    return axis


def _read_inputs(inputs: Input | Mapping[str, Input], bundle: Bundle, frame: int | None) -> dict[str, Volume]:
    """Volumes by condition name, in the bundle's order."""
    conditions = bundle.section["conditions"]
    names = [condition["name"] for condition in conditions]
    if not isinstance(inputs, Mapping):
        inputs = {names[0]: inputs}
    unknown = sorted(set(inputs) - set(names))
    if unknown:
        msg = f"Model '{bundle.id}' has no input {', '.join(map(repr, unknown))}; its inputs are {', '.join(names)}."
        raise RequestError(msg)
    missing = [c["name"] for c in conditions if c["name"] not in inputs and not c.get("optional")]
    if missing or not inputs:
        wanted = missing or names
        msg = f"Model '{bundle.id}' needs the input {', '.join(wanted)}; give it as {wanted[0]}=FILE."
        raise RequestError(msg)
    volumes = {}
    for name in names:
        if name in inputs:
            given = inputs[name]
            volume = given if isinstance(given, Volume) else read_volume(given, frame=frame)
            if volume.data.shape[0] != 1:
                msg = f"{volume.name} has {volume.data.shape[0]} channels; one is expected. Choose one of them first."
                raise RequestError(msg)
            volume.check_voxels()
            volumes[name] = volume
    return volumes


@dataclass
class _Request:
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

    def finish(self, mean: Tensor) -> tuple[Volume, dict[str, Any]]:
        """Put the box back, make it agree with the measurement, return to the input's axes and units."""
        whole = self.base.clone()
        whole[at(self.box.slices)] = mean.to(whole)
        quality: dict[str, Any] = {}
        if self.acquisition is not None and self.measured is not None:
            whole = self.acquisition.project(whole, self.measured)
            error = self.acquisition.forward(whole) - self.measured
            half_range = 0.5 * (self.scale.high - self.scale.low)
            quality["measurement_residual_max"] = float(error.abs().max()) * half_range
            quality["measurement_residual_relative"] = float(error.abs().max()) / 2.0
        return self._volume(self.output_scale.denormalise(whole)), quality

    def finish_deviation(self, deviation: Tensor | None) -> Volume | None:
        """The same for a standard deviation: zero outside the box, scaled but not shifted."""
        if deviation is None:
            return None
        whole = torch.zeros_like(self.base)
        whole[at(self.box.slices)] = deviation.to(whole)
        return self._volume(whole * (0.5 * (self.output_scale.high - self.output_scale.low)))

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
        canonical = self.reorientation.apply(volume).data[0]
        mask = self.base[0, 0].numpy() > -0.9
        return float(canonical[mask].mean()) if mask.any() else 0.0

    def _volume(self, data: Tensor) -> Volume:
        name = self.section["target"]["name"]
        contrast = self.like.contrast if self.like and self.section["target"].get("same_contrast_as") else name
        canonical = Volume(data[0].numpy().astype(np.float32), self.target.affine, contrast=contrast)
        return self.reorientation.invert(canonical)


def _prepare(
    volumes: dict[str, Volume],
    bundle: Bundle,
    spacing: float | tuple[float, float, float] | None,
    thickness: float | None,
    axis: int | None,
    report: Reporter,
) -> _Request:
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
        for code, message in check_domain(section, volume, by_name[name], request if name == first else None):
            report.warning(f"outside-domain-{code}", message)
    if request is not None:
        if request.is_identity:
            finest = max(base.spacing)
            msg = (
                f"{base.name} already has voxels of {_mm(base.spacing)} mm, as fine as this model makes them. "
                f"Ask for a finer grid, for example spacing={finest / 2:.2g}, or choose another model."
            )
            raise RequestError(msg)
        report.log(f"{base.name}: {request.describe(base.grid)}")

    canonical, reorientation = base.canonical()
    scale = fit_intensity_scale(canonical.data)
    normalised = torch.from_numpy(np.ascontiguousarray(scale.normalise(canonical.data)))[None]  # (1, 1, i, j, k)
    mask = foreground_mask(canonical.data)
    margin = max(1, round(FOREGROUND_MARGIN_MM / min(canonical.spacing)))
    coarse_box = foreground_box(mask, margin)
    if request is None:
        state = _Request(section, reorientation, canonical.grid, coarse_box, _NO_INPUTS, normalised, scale)
    else:
        state = _measured_request(section, reorientation, request, canonical, normalised, coarse_box, scale)
    state.like = base
    state.inputs = _model_inputs(volumes, by_name, state, report)
    return state


def _measured_request(
    section: dict[str, Any],
    reorientation: Reorientation,
    request: Understanding,
    canonical: Volume,
    measured: Tensor,
    coarse_box: Box,
    scale: IntensityScale,
) -> _Request:
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
    return _Request(
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
    volumes: dict[str, Volume], conditions: dict[str, dict[str, Any]], state: _Request, report: Reporter
) -> ModelInputs:
    """All conditions on the box of the target grid; the first is the base, the others are resampled onto it."""
    channels, present = [], []
    window = state.target.crop(state.box)
    for number, name in enumerate(conditions):
        present.append(name in volumes)
        if name not in volumes:
            channels.append(torch.full((1, 1, *window.spatial_shape), -1.0))
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
        scale = fit_intensity_scale(volume.data)
        channels.append(torch.from_numpy(np.ascontiguousarray(scale.normalise(moved.data)))[None])
    vector = None if state.box_acquisition is None else acquisition_vector(state.box_acquisition)
    return ModelInputs(torch.cat(channels, dim=1), vector, tuple(present))


_NO_INPUTS = ModelInputs(torch.zeros(1, 1, 1, 1, 1))


# -- the run -------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """Networks, request and listener of one run."""

    model: Model
    rule: FusionRule
    request: _Request
    seed: int
    device: torch.device
    report: Reporter

    def sample(self, plan: SamplingPlan, uncertainty: bool) -> tuple[Restoration, Restoration | None]:
        """The result, and the run whose spread is the uncertainty (the same one where the plan has several samples)."""
        plans = [plan]
        if uncertainty and plan.samples < 2:
            plans.append(self.uncertainty_plan(plan))
        total = float(sum(p.samples * p.steps for p in plans))
        results = []
        done = 0
        for number, current in enumerate(plans):
            stage = "sampling" if number == 0 else "uncertainty"
            results.append(self._restore(current, stage, done, total))
            done += current.samples * current.steps
        if not uncertainty:
            return results[0], None
        return results[0], results[-1]

    def uncertainty_plan(self, plan: SamplingPlan) -> SamplingPlan:
        """The bundle's short sampling for spread: one evaluation alone has none."""
        return SamplingPlan(**{**DEFAULT_UNCERTAINTY, **self.model.section.get("uncertainty", {})})

    def _restore(self, plan: SamplingPlan, stage: str, done: int, total: float) -> Restoration:
        voxels = float(np.prod(self.request.box.shape))
        passes = self.rule.passes(self.request.inputs)
        state = {"evaluations": done, "voxels": 0.0}

        def advance(count: int) -> None:
            state["voxels"] += count
            inside = min(0.99, state["voxels"] / (passes * voxels))
            self.report.progress(stage, round(state["evaluations"] + inside, 3), total)

        def on_step(finished: int, _: int) -> None:
            state["evaluations"], state["voxels"] = done + finished, 0.0
            self.report.progress(stage, state["evaluations"], total)

        self.rule.ensemble.on_work = advance
        inputs = self.request.inputs
        moved = dataclasses.replace(
            inputs,
            conditions=inputs.conditions.to(self.device),
            acquisition=None if inputs.acquisition is None else inputs.acquisition.to(self.device),
        )
        measured = self.request.box_measured
        noise = NoiseField(self.request.target.spatial_shape, self.seed, self.request.box.slices)
        result = restore(
            self.rule,
            self.model.schedule,
            moved,
            plan,
            noise,
            self.request.box_acquisition,
            None if measured is None else measured.to(self.device),
            on_step,
        )
        return dataclasses.replace(
            result,
            mean=result.mean.cpu(),
            deviation=None if result.deviation is None else result.deviation.cpu(),
        )


def _choose_tiles(
    rule: FusionRule,
    request: _Request,
    device: torch.device,
    tile: int | tuple[int, int, int] | None,
    report: Reporter,
) -> None:
    """Let the 3D network work in tiles where the whole does not fit. Plane networks see few slices at once in any
    case."""
    if not isinstance(rule, VolumeRule):
        return
    config = rule.network.config
    shape = request.box.shape
    if tile is not None:
        rule.tile = (tile, tile, tile) if isinstance(tile, int) else tile
        report.warning("tiles", f"The 3D network works in tiles of {_mm(rule.tile)} voxels, as asked for.")
        return
    # Activations that live at once at the finest level of the network, by measurement on both named sizes.
    per_voxel = 10 * 4 * config.channels[0] / config.stem_factor**3 + 8 * config.in_channels
    whole = 4.0 * float(np.prod(shape)) * 20
    rule.tile = plan_tile(
        shape,
        per_voxel,
        available_memory(device),
        overlap=rule.halo,
        multiple=rule.size_multiple,
        fixed_bytes=int(whole),
    )
    if rule.tile is not None:
        report.warning("tiles", f"Memory is short: the 3D network works in tiles of {_mm(rule.tile)} voxels.")


# -- the record ----------------------------------------------------------------------------------------------------


def _provenance(
    bundle: Bundle,
    volumes: dict[str, Volume],
    request: _Request,
    plan: SamplingPlan,
    rule: FusionRule,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    report: Reporter,
    started: float,
    preset: str,
) -> dict[str, Any]:
    target = request.section["target"]["name"]
    understanding = request.understanding
    record: dict[str, Any] = {
        "Description": f"synthetic {target}, made by ScoreFusion; research use only, not for diagnosis",
        "GeneratedBy": [{"Name": "ScoreFusion", "Version": scorefusion.__version__}],
        "Synthetic": True,
        "Model": {
            "Id": bundle.id,
            "Version": bundle.version,
            "Sha256": bundle.hash,
            "Licence": request.section["licence"],
        },
        "Sources": {name: _source(volume) for name, volume in volumes.items()},
        "Preset": preset,
        "Sampling": dataclasses.asdict(plan),
        "Rule": type(rule).__name__,
        "Seed": seed,
        "Device": str(device),
        "Precision": str(dtype).removeprefix("torch."),
        "Torch": torch.__version__,
        "Platform": platform.platform(),
        "IntensityScale": request.scale.to_dict(),
        "Units": request.section["target"]["units"],
        "Warnings": report.warnings,
        "Seconds": round(time.monotonic() - started, 2),
    }
    if understanding is not None:
        record["Acquisition"] = {
            "Factors": list(understanding.factors),
            "ThickAxis": understanding.thick_axis,
            "SliceThickness": understanding.thickness,
            "Profile": request.section.get("slice_profile", "box"),
        }
    return record


def _source(volume: Volume) -> dict[str, Any]:
    path = Path(volume.source) if volume.source else None
    if path is not None and path.is_file():
        digest, what = hashlib.sha256(path.read_bytes()).hexdigest(), "file"
    else:
        digest, what = hashlib.sha256(np.ascontiguousarray(volume.data).tobytes()).hexdigest(), "voxels"
    return {
        "Name": path.name if path else None,
        "Sha256": digest,
        "Of": what,
        "Shape": list(volume.spatial_shape),
        "Spacing": [round(float(s), 6) for s in volume.spacing],
        "Orientation": volume.orientation,
    }


def _mm(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
