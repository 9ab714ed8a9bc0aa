"""`translate()`: the one way in. Volumes (or files) of one person go in, the restored or translated volume comes out.

    read -> understand the request -> canonical axes -> one grid -> normalise -> crop -> sample -> project -> back again

Every choice that changes the result is in the provenance; every fallback is an event, too.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorefusion.bundle.bounds import DEFAULT_UNCERTAINTY
from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import Model
from scorefusion.bundle.store import find_bundle
from scorefusion.diffusion.noise import NoiseField
from scorefusion.errors import OutOfMemory, RequestError, ResultError
from scorefusion.fusion.rules import FusionRule
from scorefusion.imaging.files import read_volume, sidecar_path
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Event, Reporter
from scorefusion.run.devices import inference_settings
from scorefusion.run.ends import Ends
from scorefusion.run.exam import bring_together
from scorefusion.run.load_checked import load_checked
from scorefusion.run.memory import is_out_of_memory
from scorefusion.run.pieces import choose_pieces, patient
from scorefusion.run.prepare import Prepared, prepare
from scorefusion.run.provenance import provenance_of
from scorefusion.run.record import contradiction
from scorefusion.run.request import SamplingPlan, Spacing
from scorefusion.run.restore import Restoration, restore
from scorefusion.run.stacks import join, place_stacks, prepare_stacks

Input = Volume | str | os.PathLike[str]


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
    stacks: Sequence[Input] = (),
    spacing: Spacing = None,
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
    even_slices: bool = True,
    register: bool = True,
    skip_unregistered: bool = False,
    on_event: Callable[[Event], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Result:
    """Sharpen a scan, or make another contrast of it.

    Args:
        inputs: a volume or a file; or a mapping from the model's condition names to them.
        model: name of an installed bundle, or a bundle's folder.
        stacks: further stacks of the scan to restore, of the same contrast in other directions or places: volumes or
            files on any grids. What all of them measured is given back. Super-resolution only.
        spacing: target spacing in mm, one number or one an axis; None = the bundle's; "in-plane" = slices as close as
            the voxels within them. Voxels finer than 1.25 times it stay. Super-resolution only.
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
        tile: voxels a side that the 3D network takes at once; None = as memory allows. The result is the same but for
            rounding; a network with group normalisation or attention takes no tiles.
        frame: which frame of a 4D file.
        even_slices: even out what slices of a thick-slice scan differ in brightness, before anything else; the evened
            scan is then what the result gives back. False keeps them as they were measured.
        register: move further inputs and stacks rigidly to lie on the first one; False trusts their headers. Inputs
            of a translation model that share one grid are trusted anyway.
        skip_unregistered: go on without a guide that cannot be registered, instead of an error.
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
    _check_records(volumes, report)
    further = _read_stacks(stacks, bundle)
    restoring = bundle.section["task"] == "super_resolution"
    placed, placements = bring_together(volumes, restoring, register, skip_unregistered, report)
    request = prepare(placed, bundle, spacing, thickness, _axis_number(axis), report, even_slices)
    together = place_stacks(next(iter(placed.values())), further, register, report)
    requests = [request, *prepare_stacks(placed, together, bundle, spacing, report, even_slices)]

    with inference_settings(), _memory_errors(device):
        loaded, chosen, dtype = load_checked(bundle, device, precision, report.warning)
        report.log(f"Model {bundle.id} {bundle.version} on {chosen} ({str(dtype).removeprefix('torch.')})")
        fusion = loaded.choose_rule(rule)
        results = []
        for number, each in enumerate(requests):
            report.begin_run(number, len(requests))
            results.append(sample_prepared(loaded, fusion, each, plan, seed, chosen, report, tile, uncertainty))
        main, spread = results[0]
        if further:
            volume, deviation, quality = join(requests, results, report)
        else:
            volume, quality = request.finish(main.mean)
            deviation = None if spread is None else request.finish_deviation(spread.deviation)
    for made in (volume, deviation):
        if made is not None and not np.isfinite(made.data).all():
            msg = (
                f"Model '{bundle.id}' made of {next(iter(volumes.values())).name} what is no image (NaN or infinite), "
                "so it is thrown away. Try precision='float32'; if that is no help, import the model again."
            )
            raise ResultError(msg)
    if deviation is not None:
        quality["mean_uncertainty"] = request.mean_in_foreground(deviation)
    provenance = provenance_of(bundle, volumes, request, plan, fusion, seed, chosen, dtype, report, started, preset)
    if placements:
        provenance["Registration"] = [placement.to_dict() for placement in placements]
    if further:
        provenance["Stacks"] = [{**a.to_dict(), **b} for a, b in zip(together, quality["stacks"], strict=True)]
    if rule is not None:
        provenance["RuleAsked"] = rule
    if spread is not None and spread is not main:
        provenance["Uncertainty"] = dataclasses.asdict(uncertainty_plan(bundle))
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
            volumes[name] = _read_input(inputs[name], frame)
    return volumes


def _read_input(given: Input, frame: int | None) -> Volume:
    volume = given if isinstance(given, Volume) else read_volume(given, frame=frame)
    if volume.data.shape[0] != 1:
        msg = f"{volume.name} has {volume.data.shape[0]} channels; one is expected. Choose one of them first."
        raise RequestError(msg)
    volume.check_voxels()
    return volume


def _read_stacks(stacks: Sequence[Input], bundle: Bundle) -> list[Volume]:
    if stacks and bundle.section["task"] != "super_resolution":
        msg = f"Model '{bundle.id}' translates one scan: further stacks are for super-resolution. Leave them out."
        raise RequestError(msg)
    if isinstance(stacks, (str, os.PathLike, Volume)):
        msg = "stacks is a list, also for one further stack: stacks=[FILE]."
        raise RequestError(msg)
    return [_read_input(given, None) for given in stacks]


def _check_records(volumes: Mapping[str, Volume], report: Reporter) -> None:
    """Say so if an input is one of our own results, but not the one that the record beside it tells of."""
    for volume in volumes.values():
        path = None if volume.source is None else Path(volume.source)
        if path is not None and path.is_file() and (problem := contradiction(path, sidecar_path(path))):
            report.warning("record-differs", problem)


# -- the run -------------------------------------------------------------------------------------------------------


def sample_prepared(
    model: Model,
    rule: FusionRule,
    request: Prepared,
    plan: SamplingPlan,
    seed: int,
    device: torch.device,
    report: Reporter,
    tile: int | tuple[int, int, int] | None = None,
    uncertainty: bool = False,
) -> tuple[Restoration, Restoration | None]:
    """Sample what was prepared, in tiles where memory asks for it: the one way to a result, for users and for tables.

    Returns:
        The result on the request's box, and the run whose spread is the uncertainty (None unless asked for).

    Raises:
        OutOfMemory: the device cannot hold the work.
    """
    with _memory_errors(device):
        choose_pieces(rule, Ends.of(request.inputs.region).extend(request.inputs), device, tile, report)
        return _Run(model, rule, request, seed, device, report).sample(plan, uncertainty)


@contextmanager
def _memory_errors(device: torch.device | str) -> Iterator[None]:
    """Words for what a device says when it is full."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        msg = (
            f"{device} ran out of memory, in smaller pieces, too. Close other programs, crop the volume around the "
            "head, use rule='average' (without the 3D network), or device='cpu'."
        )
        raise OutOfMemory(msg) from error


def uncertainty_plan(bundle: Bundle) -> SamplingPlan:
    """The bundle's short sampling for spread: one evaluation alone has none."""
    return SamplingPlan(**{**DEFAULT_UNCERTAINTY, **bundle.section.get("uncertainty", {})})


@dataclass
class _Run:
    """Networks, request and listener of one run."""

    model: Model
    rule: FusionRule
    request: Prepared
    seed: int
    device: torch.device
    report: Reporter

    def sample(self, plan: SamplingPlan, uncertainty: bool) -> tuple[Restoration, Restoration | None]:
        """The result, and the run whose spread is the uncertainty (the same one where the plan has several samples)."""
        plans = [plan]
        if uncertainty and plan.samples < 2:
            plans.append(uncertainty_plan(self.model.bundle))
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
            Ends.of(inputs.region).around(patient(self.rule, self.report), moved),
        )
        return dataclasses.replace(
            result,
            mean=result.mean.cpu(),
            deviation=None if result.deviation is None else result.deviation.cpu(),
        )
