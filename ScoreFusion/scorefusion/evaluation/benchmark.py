"""One run, one table: every method restores every simulated scan of a suite and is scored against the truth in the
same way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from scorefusion.datasets.spectrum import AxisReading, read_axes
from scorefusion.errors import VolumeError
from scorefusion.evaluation.classical import CLASSICAL_METHODS, ClassicalMethod
from scorefusion.evaluation.lesions import (
    LesionContrast,
    LesionRegion,
    LesionScore,
    fluid_mask,
    lesion_contrast,
    lesion_region,
    read_lesion,
    score_lesion,
)
from scorefusion.evaluation.meter import Cost, Meter, code_version, describe_machine
from scorefusion.evaluation.metrics import Calibration, Scores, calibration, noise_sigma, psnr_ceiling, score_volume
from scorefusion.evaluation.regions import BrainRegion, brain_region
from scorefusion.evaluation.simulate import CoarseScan, Setting, simulate
from scorefusion.evaluation.suites import Suite, SuiteCase
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.foreground import foreground_box, foreground_mask
from scorefusion.imaging.intensity import IntensityScale, fit_intensity_scale
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Reporter

#: Voxels kept around what the truth is cropped to.
MARGINS = {"foreground": 4, "brain": 16}


@dataclass(frozen=True, eq=False)
class Restored:
    """What a method gives back, on the truth's grid, in scanner units: `(I, J, K)` float32."""

    data: Tensor
    uncertainty: Tensor | None = None


class Method(Protocol):
    """Anything that can be a row of the table."""

    @property
    def key(self) -> str:
        """Short name for CSV and `--methods`."""

    @property
    def label(self) -> str:
        """Name for people."""

    @property
    def family(self) -> str:
        """`classical` or `model`."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Networks whose calls are counted."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def restore(self, scan: CoarseScan, grid_of: Volume) -> Restored:
        """Restore a coarse scan on the grid of `grid_of`, whose voxels it must not look at."""


@dataclass(frozen=True)
class Classical:
    """A classical method as a row."""

    method: ClassicalMethod

    @property
    def key(self) -> str:
        return self.method.name

    @property
    def label(self) -> str:
        return self.method.label

    @property
    def family(self) -> str:
        return "classical"

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return ()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def restore(self, scan: CoarseScan, grid_of: Volume) -> Restored:
        measured = torch.from_numpy(scan.volume.data)[None]
        return Restored(self.method.restore(scan.acquisition, measured)[0, 0])


def classical_methods() -> list[Method]:
    """All baselines without learning."""
    return [Classical(method) for method in CLASSICAL_METHODS]


@dataclass(frozen=True, eq=False)
class Subject:
    """A truth ready for scoring under one setting, and what is known about it."""

    case: SuiteCase
    truth: Volume  # RAS+ order, cropped to the foreground
    scan: CoarseScan
    scale: IntensityScale  # of the truth: low..high becomes 0..1
    brain: BrainRegion
    reading: AxisReading  # of the whole truth, in RAS+ order
    noise: float  # standard deviation in the brain, of the truth's range
    ceiling: float  # dB
    lesion: LesionRegion | None = None  # where the case has a mask of lesions or of a tumour

    def unit(self, data: Tensor) -> Tensor:
        """Scanner units to the truth's range [0, 1]; nothing is clipped."""
        return (data - self.scale.low) / (self.scale.high - self.scale.low)

    @property
    def unit_truth(self) -> Tensor:
        """`(I, J, K)` in the truth's range."""
        return self.unit(torch.from_numpy(self.truth.data[0]))

    @property
    def doubtful_axes(self) -> tuple[int, ...]:
        """Axes that the setting coarsens although the truth has no detail along them: the score says little."""
        return tuple(axis for axis in self.scan.setting.coarsened_axes() if self.reading.interpolated[axis])


@dataclass(frozen=True)
class SubjectFacts:
    """`Subject` without its voxels, for the report."""

    setting: str
    subject: str
    contrast: str | None
    apart: str | None
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    intensity_range: tuple[float, float]
    brain_voxels: int
    brain: str
    noise: float
    psnr_ceiling: float
    high_band_share: tuple[float, float, float]
    reading: str
    doubtful_axes: str  # letters of R A S
    lesion: str | None = None  # "lesion" or "tumour", where there is a mask
    lesion_voxels: int = 0
    lesion_truth: LesionContrast | None = None


@dataclass(frozen=True)
class Row:
    """One method on one subject under one setting."""

    setting: str
    subject: str
    contrast: str | None
    apart: str | None
    doubtful_axes: str
    method: str
    label: str
    family: str
    scores: Scores
    cost: Cost
    calibration: Calibration | None = None  # where the method gave an uncertainty; in the brain
    lesion: LesionScore | None = None

    def flat(self) -> dict[str, Any]:
        """For CSV."""
        apart = ("scores", "cost", "calibration", "lesion")
        values = {key: value for key, value in asdict(self).items() if key not in apart}
        scores = asdict(self.scores)
        for axis, ratio in zip("ijk", scores.pop("through_plane"), strict=True):
            scores[f"through_plane_{axis}"] = ratio
        sure = {name.name: getattr(self.calibration, name.name, None) for name in fields(Calibration)}
        lesion = {f"lesion_{name.name}": getattr(self.lesion, name.name, None) for name in fields(LesionScore)}
        return {**values, **scores, **asdict(self.cost), **sure, **lesion}


@dataclass
class Benchmark:
    """All rows of a run, the facts about its subjects, and what the caption must say."""

    caption: dict[str, str]
    settings: list[Setting]
    facts: list[SubjectFacts] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


#: Called with each subject and its restorations by method key, for pictures.
Keep = Callable[[Subject, dict[str, Restored]], None]


def prepare(case: SuiteCase, setting: Setting, crop: str = "foreground") -> Subject:
    """Read a truth, bring it to RAS+ order, crop it, scan it coarsely and find its brain.

    Args:
        case: where the truth is.
        setting: how it is scanned.
        crop: what to keep: the "foreground" (a head with its neck), or the "brain" with more margin, which is faster.
    """
    volume, reorientation = read_volume(case.path, frame=case.frame).canonical()
    if volume.data.shape[0] != 1:
        msg = f"{volume.name} has {volume.data.shape[0]} channels; give one volume a case (key 'frame' for 4D files)"
        raise VolumeError(msg)
    mask = None
    if case.mask is not None:
        mask_volume = read_volume(case.mask)
        if not mask_volume.grid.is_close(volume.reoriented(reorientation.inverse).grid, tolerance_mm=0.01):
            msg = f"the mask {case.mask} is not on the grid of {case.path}; resample it onto that grid"
            raise VolumeError(msg)
        mask = mask_volume.reoriented(reorientation).data[0]
    brain = brain_region(volume, skull_stripped=case.skull_stripped, mask=mask)
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
    averaged = float(np.prod(scan.acquisition.widths))
    reading, ceiling = read_axes(volume.data[0]), psnr_ceiling(noise, averaged)
    return Subject(case, truth, scan, scale, region, reading, noise, ceiling, lesion)


def facts_of(subject: Subject) -> SubjectFacts:
    """What the report says about a subject."""
    lesion = subject.lesion
    return SubjectFacts(
        setting=subject.scan.setting.name,
        subject=subject.case.subject,
        contrast=subject.case.contrast,
        apart=subject.case.apart,
        shape=subject.truth.spatial_shape,
        spacing_mm=subject.truth.spacing,
        intensity_range=(subject.scale.low, subject.scale.high),
        brain_voxels=int(subject.brain.mask.sum()),
        brain=subject.brain.how,
        noise=subject.noise,
        psnr_ceiling=subject.ceiling,
        high_band_share=subject.reading.shares,
        reading=subject.reading.sentence,
        doubtful_axes="".join("RAS"[axis] for axis in subject.doubtful_axes),
        lesion=None if lesion is None else lesion.kind,
        lesion_voxels=0 if lesion is None else int(lesion.inside.sum()),
        lesion_truth=None if lesion is None else lesion_contrast(subject.unit_truth, lesion),
    )


def run_benchmark(
    suite: Suite,
    settings: Sequence[Setting],
    methods: Sequence[Method],
    *,
    caption: dict[str, str] | None = None,
    reporter: Reporter | None = None,
    keep: Keep | None = None,
    kept: Sequence[str] = (),
    crop: str = "foreground",
) -> Benchmark:
    """Restore and score.

    Args:
        suite: the truths.
        settings: how the scans are made coarse.
        methods: rows of the table, in order.
        caption: more facts for the caption (model, seed); a caption says what was done, on what, where.
        reporter: progress and cancellation.
        keep: receives each subject with the restorations named in `kept`.
        kept: method keys whose volumes `keep` wants.
        crop: see `prepare`.

    Returns:
        Rows in the order setting, subject, method.
    """
    reporter = reporter or Reporter()
    device = next((method.device for method in methods if method.family == "model"), torch.device("cpu"))
    result = Benchmark(
        {
            "data": f"{suite.name} (split {suite.split}, {len(suite.cases)} volumes, SHA-256 {suite.data_hash})",
            "code": f"scorefusion {code_version()}",
            "machine": describe_machine(device),
            "crop": f"each truth was cropped to its {crop} with {MARGINS[crop]} voxels of margin, then scanned",
            **(caption or {}),
        },
        list(settings),
    )
    total = len(settings) * len(suite.cases) * len(methods)
    for setting in settings:
        for case in suite.cases:
            reporter.progress(f"{setting.name} {case.title}", len(result.rows), total)
            subject = prepare(case, setting, crop)
            facts = facts_of(subject)
            result.facts.append(facts)
            if facts.doubtful_axes:
                reporter.warning(
                    "interpolated-axis",
                    f"{case.title}: the truth has no real detail along {', '.join(facts.doubtful_axes)}, which setting "
                    f"{setting.name} coarsens; its figures say little",
                )
            restorations: dict[str, Restored] = {}
            for method in methods:
                row = _score(subject, facts, method, restorations if method.key in kept else None)
                result.rows.append(row)
                reporter.progress(f"{setting.name} {case.title}", len(result.rows), total)
            if keep is not None:
                keep(subject, restorations)
    return result


def _score(subject: Subject, facts: SubjectFacts, method: Method, store: dict[str, Restored] | None) -> Row:
    """Restore and score; the volume is forgotten unless there is a `store`."""
    with Meter(method.modules, method.device) as meter:
        restored = method.restore(subject.scan, subject.truth)
    estimate = subject.unit(restored.data.cpu().float())
    if tuple(estimate.shape) != subject.truth.spatial_shape or not bool(torch.isfinite(estimate).all()):
        msg = f"method {method.key} gave shape {tuple(estimate.shape)} or non-finite voxels for {subject.case.title}"
        raise VolumeError(msg)
    truth, brain = subject.unit_truth, subject.brain.mask
    measured = subject.unit(torch.from_numpy(subject.scan.volume.data[0]))
    scores = score_volume(estimate, truth, brain, subject.scan.acquisition, measured)
    sure = None
    if restored.uncertainty is not None:
        deviation = restored.uncertainty.cpu().float() / (subject.scale.high - subject.scale.low)
        sure = calibration(estimate, truth, deviation, brain)
    lesion = None if subject.lesion is None else score_lesion(estimate, truth, subject.lesion, brain)
    if store is not None:
        store[method.key] = restored
    return Row(
        facts.setting, facts.subject, facts.contrast, facts.apart, facts.doubtful_axes,
        method.key, method.label, method.family, scores, meter.cost, sure, lesion,
    )  # fmt: skip


# -- what the table says
# ------------------------------------------------------------------------------------------------


class Counted(Protocol):
    """A row of any table: one method on one person."""

    @property
    def apart(self) -> str | None:
        """Why it stays out of the mean."""


AnyRow = TypeVar("AnyRow", bound=Counted)


def values_of(rows: Sequence[AnyRow], value: Callable[[AnyRow], float]) -> list[float]:
    """One value a person; those kept apart do not count."""
    return [value(row) for row in rows if row.apart is None]


def mean_of(rows: Sequence[AnyRow], value: Callable[[AnyRow], float]) -> float:
    """Mean over subjects; those kept apart do not count. nan if there is none."""
    values = values_of(rows, value)
    return float(np.mean(values)) if values else math.nan


@dataclass(frozen=True)
class Gain:
    """A model's distance (dB, brain) from the best classical method, which may differ from volume to volume."""

    setting: str
    method: str
    label: str
    per_subject: dict[str, float]
    best_classical: dict[str, str]
    mean: float  # over subjects not kept apart
    mean_real: float  # the same without subjects whose coarsened axes are interpolated; nan if none is left


def gains(benchmark: Benchmark) -> list[Gain]:
    """For each setting and model method, the gain over the best classical method of each volume."""
    found = []
    for setting in benchmark.settings:
        rows = [row for row in benchmark.rows if row.setting == setting.name]
        best: dict[str, Row] = {}
        for row in rows:
            name = title(row)
            if row.family == "classical" and (name not in best or row.scores.psnr_brain > best[name].scores.psnr_brain):
                best[name] = row
        for method in dict.fromkeys(row.method for row in rows if row.family == "model"):
            mine = [row for row in rows if row.method == method and title(row) in best]
            difference = {title(row): row.scores.psnr_brain - best[title(row)].scores.psnr_brain for row in mine}
            counted = [difference[title(row)] for row in mine if row.apart is None]
            real = [difference[title(row)] for row in mine if row.apart is None and not row.doubtful_axes]
            found.append(
                Gain(
                    setting.name,
                    method,
                    mine[0].label if mine else method,
                    difference,
                    {name: row.label for name, row in best.items()},
                    float(np.mean(counted)) if counted else math.nan,
                    float(np.mean(real)) if real else math.nan,
                )
            )
    return found


def title(row: Row | SubjectFacts) -> str:
    """Subject and contrast."""
    return f"{row.subject} {row.contrast.upper()}" if row.contrast else row.subject
