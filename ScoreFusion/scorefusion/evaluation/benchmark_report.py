"""What `scorefusion evaluate` writes and draws about restorations of simulated coarse scans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scorefusion.bundle.store import find_bundle
from scorefusion.evaluation.benchmark import Subject, classical_methods, learned_methods, run_benchmark
from scorefusion.evaluation.models import Settings, named
from scorefusion.evaluation.pictures import Comparison, Panel, draw_comparison
from scorefusion.evaluation.report import (
    ALONG,
    COST,
    FEW,
    THROUGH_PLANE,
    Cell,
    Report,
    Section,
    Table,
    apart_note,
    content_of,
    heading,
    lesion_sections,
    mean_and_range,
    mean_only,
    mean_table,
    number,
    picture_sections,
    row_table,
    score_table,
    write_report,
)
from scorefusion.evaluation.rows import Benchmark, Made, Method, Row, choose, gains
from scorefusion.evaluation.simulate import Setting
from scorefusion.evaluation.suites import Suite
from scorefusion.progress import Reporter

_RANGES = (
    "Intensities: the truth's robust range (0.5 to 99.5 percentile) becomes [0, 1], nothing is clipped; PSNR and SSIM "
    "use range 1. Whole volume = what the truth was cropped to before it was scanned. "
    "SSIM is 3D, uniform 7 x 7 x 7 window, as in scikit-image. "
    "Noise ceiling: PSNR of an estimate that knows the anatomy perfectly but not the truth's noise."
)
_DAGGER = "Figures marked † : the truth was interpolated along an axis that the setting coarsens, so they say little."
_BRAIN, _WHOLE = ("psnr_brain", "ssim_brain"), ("psnr", "ssim")
_BEYOND = (
    ("MMD (paper)", "mmd", ".4g"), ("data residual", "data_residual", ".1e"), *COST
)  # fmt: skip
_EVERY = (
    ("PSNR brain", "psnr_brain", ".2f"), ("SSIM brain", "ssim_brain", ".4f"), ("MAE brain", "mae_brain", ".4f"),
    ("PSNR", "psnr", ".2f"), ("SSIM", "ssim", ".4f"), ("MAE", "mae", ".4f"),
    ("PSNR min-max (paper)", "psnr_minmax", ".2f"), ("change R", "through_plane_i", ".2f"),
    ("change A", "through_plane_j", ".2f"), ("change S", "through_plane_k", ".2f"),
    ("residual", "data_residual", ".1e"), ("s", "seconds", ".2f"),
)  # fmt: skip


def write_benchmark(
    benchmark: Benchmark, folder: Path, stem: str = "evaluation", pictures: Sequence[Path] = ()
) -> list[Path]:
    """`stem.md`, `.html`, `.csv`, `.json`."""
    content = {**content_of(benchmark), "gains": [asdict(gain) for gain in gains(benchmark.rows, "psnr_brain")]}
    return write_report(document(benchmark, pictures), [r.flat() for r in benchmark.rows], content, folder, stem)


def document(benchmark: Benchmark, pictures: Sequence[Path] = ()) -> Report:
    """The whole report."""
    sections: list[Section] = []
    for name, description in benchmark.settings.items():
        facts, rows = _of(benchmark, name)
        brain = score_table("Brain: PSNR (dB) / SSIM", rows, facts, _BRAIN, "psnr_brain")
        ceiling: list[Cell | str] = [
            "noise ceiling of the truth (dB)",
            *(number(f["psnr_ceiling"], ".1f") for f in facts),
            "",
        ]
        tables = [
            Table(brain.title, brain.header, [*brain.rows, ceiling]),
            score_table("Whole volume: PSNR (dB) / SSIM", rows, facts, _WHOLE, "psnr"),
            *_gain_tables(rows, facts),
            mean_table(THROUGH_PLANE, rows, ALONG),
            _beyond(rows),
            *_calibration_tables(rows),
        ]
        notes = [*([_DAGGER] if any(f["doubtful_axes"] for f in facts) else []), *apart_note(facts)]
        sections.append(Section(f"{name}: {description}", notes, tables))
        sections += lesion_sections(rows, facts, f"{name}: what the model does to lesions")
        rest = [_truth_table(facts), row_table(rows, "volume", _EVERY)]
        sections.append(Section(f"{name}: truths, and every row", (), rest))
    return Report("Evaluation", benchmark.caption, (_RANGES, FEW), [*sections, *picture_sections(pictures)])


def terminal(benchmark: Benchmark) -> tuple[list[Table], list[str]]:
    """The brain tables with what the methods cost, and the gains in words."""
    tables = []
    for name, description in benchmark.settings.items():
        facts, rows = _of(benchmark, name)
        brain = score_table(f"{name}: PSNR (dB) / SSIM in the brain", rows, facts, _BRAIN, "psnr_brain")
        cost = mean_table("", rows, (("seconds", "seconds", ".1f"), ("peak", "peak_bytes", "GiB")), show=mean_only)
        lines = [[*line, *more[1:]] for line, more in zip(brain.rows, cost.rows, strict=True)]
        lines.append(["noise ceiling (dB)", *(number(f["psnr_ceiling"], ".1f") for f in facts), "", "", ""])
        tables.append(Table(brain.title, [*brain.header, "seconds", "peak"], lines, description))
    sentences = [
        f"{gain.setting}: {gain.label}: {gain.mean:+.2f} dB over the best classical method of each volume (mean, brain)"
        for gain in gains(benchmark.rows, "psnr_brain")
    ]
    return tables, sentences


def _of(benchmark: Benchmark, setting: str) -> tuple[list[dict[str, Any]], list[Row]]:
    facts = [f for f in benchmark.facts if f["setting"] == setting]
    return facts, [row for row in benchmark.rows if row.setting == setting]


def _gain_tables(rows: Sequence[Row], facts: Sequence[dict[str, Any]]) -> list[Table]:
    found = gains(rows, "psnr_brain")
    if not found:
        return []
    names = [f["title"] for f in facts]
    lines: list[list[Cell | str]] = [
        ["best classical method", *(found[0].best.get(name, "-") for name in names), "", ""]
    ]
    counted = [f["title"] for f in facts if not f["apart"]]
    real = [f["title"] for f in facts if not (f["apart"] or f["doubtful_axes"])]
    for gain in found:
        cells = [number(gain.per_subject.get(name, math.nan), "+.2f") for name in names]
        some = [[gain.per_subject[name] for name in those if name in gain.per_subject] for those in (counted, real)]
        lines.append([gain.label, *cells, *(mean_and_range(values, "+.2f") for values in some)])
    header = ["method", *map(heading, facts), "mean (range)", "mean (range) without †"]
    return [Table("Gain over the best classical method of each volume (dB, brain)", header, lines)]


def _beyond(rows: Sequence[Row]) -> Table:
    error, rest = (
        mean_table("", rows, [("MAE brain", "mae_brain", ".4f")]),
        mean_table("", rows, _BEYOND, show=mean_only),
    )
    lines = [[*first, *more[1:]] for first, more in zip(error.rows, rest.rows, strict=True)]
    return Table("Beyond PSNR, and cost (means)", [*error.header, *rest.header[1:]], lines)


def _calibration_tables(rows: Sequence[Row]) -> list[Table]:
    columns = (
        ("errors within 1.96 deviations (95 % is right)", "coverage", ".1%"),
        ("rank correlation", "correlation", ".3f"),
        ("spread / error", "spread_ratio", ".2f"),
    )
    sure = row_table([row for row in rows if "coverage" in row.figures], "volume", columns)
    return [Table("Uncertainty against the actual error (brain)", sure.header, sure.rows)] if sure.rows else []


def _truth_table(facts: Sequence[dict[str, Any]]) -> Table:
    header = ["volume", "shape", "spacing (mm)", "noise (of range)", "ceiling (dB)", "high band R / A / S", "reading",
              "brain region"]  # fmt: skip
    lines = []
    for f in facts:
        shape, spacing = " x ".join(map(str, f["shape"])), " x ".join(f"{s:.3g}" for s in f["spacing_mm"])
        shares = " / ".join(f"{share:.4f}" for share in f["high_band_share"])
        figures = [number(f["noise"], ".4f"), number(f["psnr_ceiling"], ".1f")]
        region = f"{f['brain']} ({f['brain_voxels']} voxels)"
        lines.append([heading(f), shape, spacing, *figures, shares, f["reading"], region])
    return Table("Truths", header, lines)


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


# -- pictures ----------------------------------------------------------------------------------------------------------


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
        self._baseline = next((key for key in ("cubic", "cubic+ibp", "linear") if key in keys), keys[0])
        rules = ("fusion+proj", "average+proj", "plane+proj")
        ours = [m.key for rule in rules for m in methods if m.rule == rule]
        self._ours = ours[0] if ours else ("cubic+ibp" if "cubic+ibp" in keys else keys[-1])
        # The method whose several samples give a deviation, if any was asked for.
        self._unsure = next((key for key in ours if "uncertainty" in key), ours[-1] if ours else self._ours)

    @property
    def wanted(self) -> list[str]:
        """Method keys whose volumes are needed."""
        return [self._baseline, self._ours, self._unsure]

    def __call__(self, subject: Subject, made: dict[str, Made], rows: list[Row]) -> None:
        by_key = {row.method: row for row in rows}
        ours, acquisition, setting = by_key[self._ours], subject.scan.acquisition, subject.scan.setting
        baseline = "cubic" if self._baseline.startswith("cubic") else self._baseline
        blocks = subject.unit(acquisition.upsample(subject.measured, "nearest")[0, 0])
        spacing = " x ".join(f"{value:.3g}" for value in subject.scan.volume.spacing)
        panels = [Panel("coarse scan", blocks.numpy(), f"{spacing} mm")]
        title = "ScoreFusion" if ours.family == "model" else ours.label.split(" (")[0]
        for name, key in ((baseline, self._baseline), (title, self._ours)):
            note = f"{by_key[key]['psnr_brain']:.2f} dB   SSIM {by_key[key]['ssim_brain']:.3f}"
            panels.append(Panel(name, subject.unit(made[key].data).numpy(), note, judged=True))
        deviation, unsure = made[self._unsure].deviation, None
        if deviation is not None:
            spread = deviation / (subject.scale.high - subject.scale.low)
            unsure = Panel("uncertainty", spread.numpy(), "one standard deviation")
        caption = (
            f"{setting.description}. {ours.label}. Figures are for the brain ({subject.brain.how}). Radiological view. "
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
            panels, truth, unsure, axis,
        )  # fmt: skip
        name = f"{subject.name}_{subject.contrast or 'image'}_{setting.name}.png".replace("@", "-")
        self.written.append(draw_comparison(comparison, self.folder / name))
