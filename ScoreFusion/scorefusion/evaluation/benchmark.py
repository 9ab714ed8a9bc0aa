"""Super-resolution: every method restores every simulated scan of a suite, scored against the truth in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scorefusion.bundle.load import Model
from scorefusion.bundle.store import find_bundle
from scorefusion.datasets.spectrum import AxisReading, read_axes
from scorefusion.errors import RequestError
from scorefusion.evaluation.lesions import LesionRegion, fluid_mask, lesion_facts, lesion_figures, lesion_of
from scorefusion.evaluation.meter import code_version, describe_machine
from scorefusion.evaluation.metrics import calibration, noise_sigma, psnr_ceiling, score_volume
from scorefusion.evaluation.models import (
    AS_IT_IS,
    RuleRow,
    Settings,
    load,
    model_methods,
    named,
    prefixes,
    restoring_rows,
)
from scorefusion.evaluation.pictures import Comparison, Panel, draw_comparison, figures_of
from scorefusion.evaluation.regions import BrainRegion, brain_region
from scorefusion.evaluation.rows import Benchmark, Keep, Made, Method, Row, choose, run_all, title_of
from scorefusion.evaluation.simulate import CLASSICAL, CoarseScan, Setting, simulate
from scorefusion.evaluation.suites import Suite, SuiteCase, read_mask, read_one
from scorefusion.evaluation.tables import write_benchmark
from scorefusion.fusion.base import base_image
from scorefusion.fusion.inputs import ModelInputs, acquisition_vector
from scorefusion.imaging.foreground import foreground_box, foreground_mask
from scorefusion.imaging.grid import Box
from scorefusion.imaging.intensity import IntensityScale, fit_intensity_scale
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Reporter
from scorefusion.run.prepare import Prepared, region_of
from scorefusion.run.restore import Restoration

#: Voxels kept around what the truth is cropped to.
MARGINS = {"foreground": 4, "brain": 16}
#: Voxels a side of the smallest cube that is scored.
LEAST_SIDE = 16


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
        return self.case.case.apart

    @property
    def shape(self) -> tuple[int, ...]:
        return self.truth.spatial_shape

    @property
    def width(self) -> float:
        """Of the truth's range, scanner units."""
        return self.scale.high - self.scale.low

    def unit(self, data: Tensor) -> Tensor:
        """Scanner units to the truth's range [0, 1]; nothing is clipped."""
        return (data - self.scale.low) / self.width

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
        figures = asdict(score_volume(estimate, truth, brain, self.scan.acquisition, measured))
        if made.deviation is not None:
            figures |= asdict(calibration(estimate, truth, made.deviation / self.width, brain))
        return figures | lesion_figures(estimate, truth, self.lesion, brain)


def prepare(case: SuiteCase, setting: Setting, crop: str = "foreground") -> Subject:
    """Read a truth, bring it to RAS+ order, crop it, scan it coarsely and find its brain.

    Args:
        case: where the truth is.
        setting: how it is scanned.
        crop: what to keep: the "foreground" (a head with its neck), the "brain" with more margin, which is faster, or
            a number: a cube of so many voxels a side in the middle of the brain, for a quick look.
    """
    volume = read_one(case.path, case.case.frame)
    brain = brain_region(volume, skull_stripped=case.case.skull_stripped, mask=read_mask(case.case, volume))
    block = setting.block(volume.grid)
    if crop in MARGINS:
        keep = brain.mask.numpy() if crop == "brain" else foreground_mask(volume.data)
        box = foreground_box(keep, MARGINS[crop], block)
    else:
        box = _middle_of(brain.mask.numpy(), int(crop), block)
    truth = volume.crop(box)
    region = BrainRegion(brain.mask[box.slices].clone(), brain.how)
    fluid = partial(fluid_mask, torch.from_numpy(truth.data[0]), case.contrast, region.mask)
    lesion = lesion_of(case.case.masks, volume, region.mask, fluid, box.slices)
    scale = fit_intensity_scale(truth.data)
    scan = simulate(truth, setting)
    unit = (torch.from_numpy(truth.data[0]) - scale.low) / (scale.high - scale.low)
    noise = noise_sigma(unit, region.mask)
    ceiling = psnr_ceiling(noise, float(np.prod(scan.acquisition.widths)))
    return Subject(case, truth, scan, scale, region, read_axes(volume.data[0]), noise, ceiling, lesion)


def _middle_of(mask: NDArray[np.bool_], side: int, block: int) -> Box:
    """A cube of at least `side` voxels around the middle of a mask, in whole blocks, as far as the volume reaches."""
    inside = np.argwhere(mask)
    sides = [min(-(-side // block), size // block) * block for size in mask.shape]
    starts = [
        int(np.clip((a + b + 1 - wanted) // 2, 0, size - wanted))
        for a, b, wanted, size in zip(inside.min(axis=0), inside.max(axis=0), sides, mask.shape, strict=True)
    ]
    i, j, k = starts
    return Box((i, j, k), (i + sides[0], j + sides[1], k + sides[2]))


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
    region = region_of(foreground_mask(scan.volume.data), acquisition)
    inputs = ModelInputs(base, acquisition_vector(acquisition), region=region)
    return Prepared(model.section, AS_IT_IS, grid, whole, inputs, base, scale, *known, *known)


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
    keep: Keep[Subject] | None = None,
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
    check_crop(crop)
    reporter = reporter or Reporter()
    device = next((method.device for method in methods if method.family == "model"), torch.device("cpu"))
    facts = {
        "data": f"{suite.name} (split {suite.split}, {len(suite.cases)} volumes, SHA-256 {suite.data_hash})",
        "code": f"scorefusion {code_version()}",
        "machine": describe_machine(device),
        "crop": crop_words(crop),
        **(caption or {}),
    }
    benchmark = Benchmark(facts, {setting.name: setting.description for setting in settings})
    total = len(settings) * len(suite.cases) * len(methods)

    def subjects() -> Iterator[Subject]:
        for setting in settings:
            for case in suite.cases:
                reporter.progress(f"{setting.name} {case.title}", len(benchmark.rows), total)
                subject = prepare(case, setting, crop)
                if subject.doubtful_axes:
                    reporter.warning(
                        "interpolated-axis",
                        f"{case.title}: the truth has no real detail along {', '.join(subject.doubtful_axes)}, which "
                        f"setting {setting.name} coarsens; its figures say little",
                    )
                yield subject

    return run_all(benchmark, subjects(), lambda _: methods, total, reporter, keep, kept)


def check_crop(crop: str) -> None:
    """Raises RequestError where there is no such crop."""
    if crop not in MARGINS and not (crop.isdecimal() and int(crop) >= LEAST_SIDE):
        msg = f"--crop is {crop!r}; choose one of {', '.join(MARGINS)}, or a number of voxels from {LEAST_SIDE}"
        raise RequestError(msg)


def crop_words(crop: str) -> str:
    """For a caption."""
    if crop in MARGINS:
        return f"each truth was cropped to its {crop} with {MARGINS[crop]} voxels of margin, then scanned"
    return f"each truth was cropped to {crop} voxels a side in the middle of its brain, then scanned"


def evaluate(
    suite: Suite,
    settings: Sequence[str],
    models: Sequence[str],
    out: Path,
    how: Settings | None = None,
    *,
    methods: Sequence[str] = (),
    crop: str = "foreground",
    pictures: bool = True,
    reporter: Reporter | None = None,
) -> tuple[Benchmark, list[Path]]:
    """The command without its terminal. Returns the rows and the files written."""
    how = how or Settings()
    parsed = [Setting.parse(name) for name in settings]
    rows = choose([*classical_methods(), *learned_methods(models, how, reporter)], methods)
    gallery = Gallery(out, rows) if pictures else None
    caption = {"model": named([find_bundle(name) for name in models]), "seed": how.words}
    kept = gallery.wanted if gallery else ()
    benchmark = run_benchmark(
        suite, parsed, rows, caption=caption, reporter=reporter, keep=gallery, kept=kept, crop=crop
    )
    drawn = gallery.written if gallery else []
    return benchmark, [*write_benchmark(benchmark, out, pictures=drawn), *drawn]


class Gallery:
    """Draws one PNG for each subject and setting, as soon as its scores are known.

    Args:
        folder: where the PNGs go.
        methods: rows of the run; decides what is shown: the first of the main rules that ran, at its first plan.
    """

    def __init__(self, folder: Path, methods: Sequence[Method]) -> None:
        self.folder = folder
        self.written: list[Path] = []
        keys = [method.key for method in methods]
        baseline = next((key for key in ("cubic", "cubic+ibp", "linear") if key in keys), keys[0])
        rules = ("fusion+proj", "average+proj", "plane+proj")
        ours = [m.key for rule in rules for m in methods if m.rule == rule]
        shown = ours[0] if ours else ("cubic+ibp" if "cubic+ibp" in keys else keys[-1])
        # The method whose several samples give a deviation, if any was asked for.
        unsure = next((key for key in ours if "uncertainty" in key), ours[-1] if ours else shown)
        #: Method keys whose volumes are needed: the baseline, ours, and the one with a deviation.
        self.wanted = [baseline, shown, unsure]

    def __call__(self, subject: Subject, made: dict[str, Made], rows: list[Row]) -> None:
        by_key = {row.method: row for row in rows}
        below, ours, unsure = self.wanted
        acquisition, setting, label = subject.scan.acquisition, subject.scan.setting, by_key[ours].label
        baseline = "cubic" if below.startswith("cubic") else below
        blocks = subject.unit(acquisition.upsample(subject.measured, "nearest")[0, 0])
        spacing = " x ".join(f"{value:.3g}" for value in subject.scan.volume.spacing)
        panels = [Panel("coarse scan", blocks.numpy(), f"{spacing} mm")]
        title = "ScoreFusion" if by_key[ours].family == "model" else label.split(" (")[0]
        for name, key in ((baseline, below), (title, ours)):
            note = figures_of(by_key[key], "psnr_brain", "ssim_brain")
            panels.append(Panel(name, subject.unit(made[key].data).numpy(), note, judged=True))
        deviation, spread = made[unsure].deviation, None
        if deviation is not None:
            spread = Panel("uncertainty", (deviation / subject.width).numpy(), "one standard deviation")
        caption = (
            f"{setting.description}. {label}. Figures are for the brain ({subject.brain.how}). Radiological view. "
            f"Close-up: where {baseline} errs most in that slice. Restored volumes are synthetic: not for diagnosis."
        )
        if subject.doubtful_axes:
            letters = ", ".join(subject.doubtful_axes)
            caption += f" The truth itself was interpolated along {letters}: its figures say little."
        truth = Panel("truth", subject.unit_truth.numpy(), f"noise ceiling {subject.ceiling:.1f} dB")
        # Across thick slices the detail was lost in the planes that cut them: show one of those.
        axis = 1 if setting.kind == "thick" and setting.axis != 1 else 2
        comparison = Comparison(
            f"{subject.case.title}   {setting.name}", caption, subject.truth.spacing, subject.brain.mask.numpy(),
            panels, truth, spread, axis,
        )  # fmt: skip
        name = f"{subject.name}_{subject.contrast or 'image'}_{setting.name}.png".replace("@", "-")
        self.written.append(draw_comparison(comparison, self.folder / name))
