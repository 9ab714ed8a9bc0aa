"""Super-resolution: every method restores every simulated scan of a suite, scored against the truth in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefusion.bundle.load import Model
from scorefusion.bundle.store import find_bundle
from scorefusion.datasets.spectrum import AxisReading, read_axes
from scorefusion.errors import RequestError, VolumeError
from scorefusion.evaluation.lesions import (
    LesionRegion,
    fluid_mask,
    lesion_facts,
    lesion_figures,
    lesion_region,
    read_lesion,
)
from scorefusion.evaluation.meter import code_version, describe_machine
from scorefusion.evaluation.metrics import calibration, noise_sigma, psnr_ceiling, score_volume
from scorefusion.evaluation.models import RuleRow, Settings, load, model_methods, prefixes, restoring_rows
from scorefusion.evaluation.regions import BrainRegion, brain_region
from scorefusion.evaluation.rows import Benchmark, Loop, Made, Method, Row, title_of
from scorefusion.evaluation.simulate import CLASSICAL, CoarseScan, Setting, simulate
from scorefusion.evaluation.suites import Suite, SuiteCase, read_mask
from scorefusion.fusion.base import base_image
from scorefusion.fusion.inputs import ModelInputs, acquisition_vector
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.foreground import foreground_box, foreground_mask
from scorefusion.imaging.grid import Box, Reorientation
from scorefusion.imaging.intensity import IntensityScale, fit_intensity_scale
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Reporter
from scorefusion.run.prepare import Prepared
from scorefusion.run.restore import Restoration

#: Voxels kept around what the truth is cropped to.
MARGINS = {"foreground": 4, "brain": 16}

Keep = Callable[["Subject", dict[str, Made], list[Row]], None]


@dataclass(frozen=True, eq=False)
class Subject:
    """A truth ready for scoring under one setting. Methods give volumes on its grid, in scanner units."""

    case: SuiteCase
    truth: Volume  # RAS+ order, cropped to the foreground
    scan: CoarseScan
    scale: IntensityScale  # of the truth: low..high becomes 0..1
    brain: BrainRegion
    reading: AxisReading  # of the whole truth, in RAS+ order
    noise: float  # standard deviation in the brain, of the truth's range
    ceiling: float  # dB
    lesion: LesionRegion | None = None  # where the case has a mask of lesions or of a tumour

    @property
    def setting(self) -> str:
        return self.scan.setting.name

    @property
    def name(self) -> str:
        return self.case.subject

    @property
    def contrast(self) -> str | None:
        return self.case.contrast

    @property
    def apart(self) -> str | None:
        return self.case.apart

    @property
    def shape(self) -> tuple[int, ...]:
        return self.truth.spatial_shape

    def unit(self, data: Tensor) -> Tensor:
        """Scanner units to the truth's range [0, 1]; nothing is clipped."""
        return (data - self.scale.low) / (self.scale.high - self.scale.low)

    @property
    def unit_truth(self) -> Tensor:
        """`(I, J, K)` in the truth's range."""
        return self.unit(torch.from_numpy(self.truth.data[0]))

    @property
    def measured(self) -> Tensor:
        """`(1, 1, i, j, k)`, scanner units."""
        return torch.from_numpy(self.scan.volume.data)[None]

    @property
    def doubtful_axes(self) -> str:
        """Letters of axes that the setting coarsens although the truth has no detail along them: the score says
        little."""
        return "".join("RAS"[axis] for axis in self.scan.setting.coarsened_axes() if self.reading.interpolated[axis])

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {
            "setting": self.setting,
            "subject": self.name,
            "contrast": self.contrast,
            "title": title_of(self.name, self.contrast),
            "apart": self.apart,
            "shape": self.shape,
            "spacing_mm": self.truth.spacing,
            "intensity_range": (self.scale.low, self.scale.high),
            "brain_voxels": int(self.brain.mask.sum()),
            "brain": self.brain.how,
            "noise": self.noise,
            "psnr_ceiling": self.ceiling,
            "high_band_share": self.reading.shares,
            "reading": self.reading.sentence,
            "doubtful_axes": self.doubtful_axes,
            **lesion_facts(self.unit_truth, self.lesion),
        }

    def score(self, made: Made) -> dict[str, float]:
        """All figures, in the brain and in the whole volume."""
        estimate, truth, brain = self.unit(made.data), self.unit_truth, self.brain.mask
        measured = self.unit(self.measured[0, 0])
        figures = dict(vars(score_volume(estimate, truth, brain, self.scan.acquisition, measured)))
        if made.deviation is not None:
            deviation = made.deviation / (self.scale.high - self.scale.low)
            figures |= asdict(calibration(estimate, truth, deviation, brain))
        return figures | lesion_figures(estimate, truth, self.lesion, brain)


def prepare(case: SuiteCase, setting: Setting, crop: str = "foreground") -> Subject:
    """Read a truth, bring it to RAS+ order, crop it, scan it coarsely and find its brain.

    Args:
        case: where the truth is.
        setting: how it is scanned.
        crop: what to keep: the "foreground" (a head with its neck), or the "brain" with more margin, which is faster.
    """
    volume, _ = read_volume(case.path, frame=case.case.frame).canonical()
    if volume.data.shape[0] != 1:
        msg = f"{volume.name} has {volume.data.shape[0]} channels; give one volume a case (key 'frame' for 4D files)"
        raise VolumeError(msg)
    mask = read_mask(case.case, volume)
    brain = brain_region(volume, skull_stripped=case.case.skull_stripped, mask=mask)
    keep = brain.mask.numpy() if crop == "brain" else foreground_mask(volume.data)
    box = foreground_box(keep, MARGINS[crop], setting.block(volume.grid))
    truth = volume.crop(box)
    region = BrainRegion(brain.mask[box.slices].clone(), brain.how)
    marked = read_lesion(case.case.masks, volume)
    lesion = None
    if marked is not None:
        fluid = fluid_mask(torch.from_numpy(truth.data[0]), case.contrast, region.mask)
        lesion = lesion_region(marked[1][box.slices], region.mask, marked[0], fluid)
    scale = fit_intensity_scale(truth.data)
    scan = simulate(truth, setting)
    unit = (torch.from_numpy(truth.data[0]) - scale.low) / (scale.high - scale.low)
    noise = noise_sigma(unit, region.mask)
    ceiling = psnr_ceiling(noise, float(np.prod(scan.acquisition.widths)))
    return Subject(case, truth, scan, scale, region, read_axes(volume.data[0]), noise, ceiling, lesion)


# -- methods -----------------------------------------------------------------------------------------------------------


def classical_methods() -> list[Method]:
    """All baselines without learning."""

    def make(key: str, subject: Subject) -> Made:
        return Made(CLASSICAL[key][1](subject.scan.acquisition, subject.measured)[0, 0])

    return [Method(key, label, "classical", partial(make, key)) for key, (label, _) in CLASSICAL.items()]


def learned_methods(models: Sequence[str], settings: Settings, reporter: Reporter | None = None) -> list[Method]:
    """Every rule of every model; names or folders of super-resolution bundles."""
    bundles = [find_bundle(name) for name in models]
    methods = []
    for bundle, prefix in zip(bundles, prefixes(bundles), strict=True):
        if bundle.task != "super_resolution":
            msg = f"model {bundle.id!r} is a {bundle.task} model; this table is for super-resolution models"
            raise RequestError(msg)
        model = load(bundle, settings)
        rows = restoring_rows(model)
        methods += model_methods(model, rows, _request, _finish, settings, reporter or Reporter(), prefix)
    return methods


def _request(model: Model, row: RuleRow, subject: Subject) -> Prepared:
    """What `translate` would make of the scan: nothing but the scan and its operator is used, on the truth's grid."""
    scan, acquisition, grid = subject.scan, subject.scan.acquisition, subject.truth.grid
    scale = fit_intensity_scale(scan.volume.data)
    measured = torch.from_numpy(np.ascontiguousarray(scale.normalise(scan.volume.data)))[None]
    base = base_image(acquisition, measured, model.section)
    whole = Box((0, 0, 0), grid.spatial_shape)
    known = (acquisition, measured) if row.projected else (None, None)
    inputs = ModelInputs(base, acquisition_vector(acquisition))
    as_it_is = Reorientation((0, 1, 2), (False, False, False))
    return Prepared(model.section, as_it_is, grid, whole, inputs, base, scale, *known, *known)


def _finish(request: Prepared, result: Restoration) -> Made:
    half_range = 0.5 * (request.scale.high - request.scale.low)
    deviation = None if result.deviation is None else result.deviation[0, 0] * half_range
    return Made(request.scale.denormalise(result.mean[0, 0]), deviation)


# -- the run -----------------------------------------------------------------------------------------------------------


def run_benchmark(
    suite: Suite,
    settings: Sequence[Setting],
    methods: Sequence[Method],
    *,
    caption: dict[str, str] | None = None,
    reporter: Reporter | None = None,
    keep: Keep | None = None,
    kept: Sequence[str] | None = None,
    crop: str = "foreground",
) -> Benchmark:
    """Restore and score; rows in the order setting, subject, method.

    Args:
        suite: the truths.
        settings: how the scans are made coarse.
        methods: rows of the table, in order.
        caption: more facts for the caption (model, seed); a caption says what was done, on what, where.
        reporter: progress and cancellation.
        keep: receives each subject with what the methods named in `kept` made of it.
        kept: method keys; None = all.
        crop: see `prepare`.
    """
    if crop not in MARGINS:
        msg = f"--crop is {crop!r}; choose one of {', '.join(MARGINS)}"
        raise RequestError(msg)
    reporter = reporter or Reporter()
    device = next((method.device for method in methods if method.family == "model"), torch.device("cpu"))
    facts = {
        "data": f"{suite.name} (split {suite.split}, {len(suite.cases)} volumes, SHA-256 {suite.data_hash})",
        "code": f"scorefusion {code_version()}",
        "machine": describe_machine(device),
        "crop": f"each truth was cropped to its {crop} with {MARGINS[crop]} voxels of margin, then scanned",
        **(caption or {}),
    }
    result = Benchmark(facts, {setting.name: setting.description for setting in settings})
    total = len(settings) * len(suite.cases) * len(methods)
    loop: Loop[Subject] = Loop(result, lambda _: methods, total, reporter, keep, kept)
    for setting in settings:
        for case in suite.cases:
            reporter.progress(f"{setting.name} {case.title}", len(result.rows), total)
            subject = prepare(case, setting, crop)
            if subject.doubtful_axes:
                reporter.warning(
                    "interpolated-axis",
                    f"{case.title}: the truth has no real detail along {', '.join(subject.doubtful_axes)}, which "
                    f"setting {setting.name} coarsens; its figures say little",
                )
            loop.add(subject)
    return result
