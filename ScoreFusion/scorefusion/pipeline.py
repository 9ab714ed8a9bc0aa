"""`translate()`: the one way in. Volumes (or files) of one person go in, the restored or translated volume comes out.

    read -> understand the request -> canonical axes -> one grid -> normalise -> crop -> sample -> project -> back again

Every choice that changes the result is in the provenance; every fallback is an event, too.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.store import find_bundle
from scorefusion.errors import ResultError
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Event, Reporter
from scorefusion.run.devices import inference_settings
from scorefusion.run.exam import bring_together
from scorefusion.run.inputs import Input, axis_number, check_records, read_inputs, read_stacks
from scorefusion.run.load_checked import load_checked
from scorefusion.run.prepare import prepare
from scorefusion.run.provenance import provenance_of
from scorefusion.run.request import Spacing
from scorefusion.run.sampling import choose_plan, memory_errors, sample_prepared, uncertainty_plan
from scorefusion.run.stacks import join, place_stacks, prepare_stacks


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
    plan = choose_plan(bundle, preset, steps, samples, uncertainty)
    volumes = read_inputs(inputs, bundle, frame)
    check_records(volumes, report)
    further = read_stacks(stacks, bundle)
    restoring = bundle.section["task"] == "super_resolution"
    placed, placements = bring_together(volumes, restoring, register, skip_unregistered, report)
    request = prepare(placed, bundle, spacing, thickness, axis_number(axis), report, even_slices)
    together = place_stacks(next(iter(placed.values())), further, register, report)
    requests = [request, *prepare_stacks(placed, together, bundle, spacing, report, even_slices)]

    with inference_settings(), memory_errors(device):
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
