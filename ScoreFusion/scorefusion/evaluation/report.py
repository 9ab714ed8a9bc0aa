"""A benchmark as Markdown for people, one HTML page with pictures, CSV for spreadsheets and JSON for programs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorefusion.evaluation.benchmark import Benchmark, Row, SubjectFacts, gains, mean_of, title, values_of
from scorefusion.evaluation.document import (
    Cell,
    Document,
    Section,
    Table,
    describe_range,
    markdown,
    mean_and_range,
    number,
    table,
)
from scorefusion.evaluation.html import write_page
from scorefusion.evaluation.lesion_table import lesion_section
from scorefusion.progress import jsonable

if TYPE_CHECKING:
    from rich.table import Table as TerminalTable

_RANGES = (
    "Intensities: the truth's robust range (0.5 to 99.5 percentile) becomes [0, 1], nothing is clipped; PSNR and SSIM "
    "use range 1. Whole volume = what the truth was cropped to before it was scanned. "
    "SSIM is 3D, uniform 7 x 7 x 7 window, as in scikit-image. "
    "Noise ceiling: PSNR of an estimate that knows the anatomy perfectly but not the truth's noise."
)
_FEW = "Means are over persons, with the smallest and the largest value; no significance is claimed from so few."
_DAGGER = "Figures marked † : the truth was interpolated along an axis that the setting coarsens, so they say little."
_APART = "Columns marked * are kept out of the mean: "
THROUGH_PLANE = "Slice-to-slice change beside the truth's (1 = as the truth, below = too smooth)"


def write_report(
    benchmark: Benchmark, folder: Path, stem: str = "evaluation", pictures: Sequence[Path] = ()
) -> dict[str, Path]:
    """Write `stem.md`, `.html`, `.csv` and `.json`; returns their paths by kind.

    Args:
        pictures: PNG files in `folder`, for the page.
    """
    content = {
        "caption": benchmark.caption,
        "settings": {setting.name: setting.description for setting in benchmark.settings},
        "subjects": [asdict(facts) for facts in benchmark.facts],
        "rows": [asdict(row) for row in benchmark.rows],
        "gains": [asdict(gain) for gain in gains(benchmark)],
    }
    return write_files(document(benchmark, pictures), [row.flat() for row in benchmark.rows], content, folder, stem)


def write_files(
    report: Document, rows: Sequence[Mapping[str, Any]], content: Mapping[str, Any], folder: Path, stem: str
) -> dict[str, Path]:
    """A report in its four forms.

    Args:
        report: for Markdown and HTML.
        rows: for CSV, all with the same keys.
        content: for JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"{stem}.{kind}" for kind in ("md", "html", "csv", "json")}
    paths["md"].write_text(markdown(report), encoding="utf-8")
    write_page(report, paths["html"])
    with paths["csv"].open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ["subject"])
        writer.writeheader()
        writer.writerows(rows)
    paths["json"].write_text(json.dumps(jsonable(dict(content)), indent=1, allow_nan=False), encoding="utf-8")
    return paths


def document(benchmark: Benchmark, pictures: Sequence[Path] = ()) -> Document:
    """The whole report."""
    sections: list[Section] = []
    for setting in benchmark.settings:
        facts = [f for f in benchmark.facts if f.setting == setting.name]
        rows = [row for row in benchmark.rows if row.setting == setting.name]
        tables = [
            _score_table("Brain: PSNR (dB) / SSIM", rows, facts, brain=True),
            _score_table("Whole volume: PSNR (dB) / SSIM", rows, facts, brain=False),
        ]
        if any(gain.setting == setting.name for gain in gains(benchmark)):
            tables.append(_gain_table(benchmark, facts))
        tables += [_through_plane_table(rows), _detail_table(rows)]
        if any(row.calibration for row in rows):
            tables.append(_calibration_table(rows))
        sections.append(Section(f"{setting.name}: {setting.description}", tuple(_notes(facts)), tuple(tables)))
        lesions = lesion_section(rows, facts, title, f"{setting.name}: what the model does to lesions")
        sections += [] if lesions is None else [lesions]
        rest = (_truth_table(facts), _row_table(rows))
        sections.append(Section(f"{setting.name}: truths, and every row", (), rest))
    if pictures:
        sections.append(Section("Pictures", ("Each has its own caption.",), (), tuple(pictures)))
    return Document("Evaluation", benchmark.caption, (_RANGES, _FEW), tuple(sections))


def _notes(facts: Sequence[SubjectFacts]) -> list[str]:
    notes = []
    if any(f.doubtful_axes for f in facts):
        notes.append(_DAGGER)
    apart = [f"{title(f)}, {f.apart}" for f in facts if f.apart]
    if apart:
        notes.append(_APART + "; ".join(apart) + ".")
    return notes


def _heading(facts: SubjectFacts) -> str:
    return f"{title(facts)}{'†' if facts.doubtful_axes else ''}{'*' if facts.apart else ''}"


def _methods(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by method label, in the order of the run."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.label, []).append(row)
    return grouped


def _score(row: Row, brain: bool) -> tuple[float, float]:
    return (row.scores.psnr_brain, row.scores.ssim_brain) if brain else (row.scores.psnr, row.scores.ssim)


def pair_cell(psnr: float, ssim: float, *, best: bool = False) -> Cell:
    """`PSNR / SSIM` of one volume."""
    return Cell("-") if math.isnan(psnr) else Cell(f"{psnr:.2f} / {ssim:.4f}", psnr, best)


def pair_range(psnr: Sequence[float], ssim: Sequence[float]) -> Cell:
    """`PSNR / SSIM`, each as its mean over persons with its range."""
    if not psnr:
        return Cell("-")
    texts = (describe_range(psnr, lambda v: f"{v:.2f}"), describe_range(ssim, lambda v: f"{v:.4f}"))
    return Cell(" / ".join(texts), sum(psnr) / len(psnr))


def _score_table(name: str, rows: Sequence[Row], facts: Sequence[SubjectFacts], *, brain: bool) -> Table:
    """Methods by subjects, then mean and range; the best PSNR of a column stands out."""
    names = [title(f) for f in facts]
    best = {name: max((_score(r, brain)[0] for r in rows if title(r) == name), default=math.nan) for name in names}
    lines: list[list[Cell | str]] = []
    for label, group in _methods(rows).items():
        by_name = {title(row): row for row in group}
        line: list[Cell | str] = [label]
        for subject in names:
            psnr, ssim = _score(by_name[subject], brain) if subject in by_name else (math.nan, math.nan)
            line.append(pair_cell(psnr, ssim, best=psnr == best[subject]))
        figures = [values_of(group, lambda row, i=i: _score(row, brain)[i]) for i in (0, 1)]  # type: ignore[misc]
        lines.append([*line, pair_range(figures[0], figures[1])])
    if brain:
        ceilings = [number(f.psnr_ceiling, ".1f") for f in facts]
        lines.append(["noise ceiling of the truth (dB)", *ceilings, ""])
    return table(name, ["method", *(_heading(f) for f in facts), "mean (range)"], lines)


def _gain_table(benchmark: Benchmark, facts: Sequence[SubjectFacts]) -> Table:
    found = [gain for gain in gains(benchmark) if gain.setting == facts[0].setting]
    names = [title(f) for f in facts]
    lines: list[list[Cell | str]] = [
        ["best classical method", *(found[0].best_classical.get(name, "-") for name in names), "", ""]
    ]
    apart = {title(f) for f in facts if f.apart}
    doubtful = {title(f) for f in facts if f.doubtful_axes}
    for gain in found:
        cells = [number(gain.per_subject.get(name, math.nan), "+.2f") for name in names]
        counted = {name: value for name, value in gain.per_subject.items() if name not in apart}
        real = [value for name, value in counted.items() if name not in doubtful]
        ranges = [mean_and_range(values, "+.2f") for values in (list(counted.values()), real)]
        lines.append([gain.label, *cells, *ranges])
    header = ["method", *(_heading(f) for f in facts), "mean (range)", "mean (range) without †"]
    return table("Gain over the best classical method of each volume (dB, brain)", header, lines)


def _through_plane_table(rows: Sequence[Row]) -> Table:
    lines: list[list[Cell | str]] = []
    for label, group in _methods(rows).items():
        figures = [values_of(group, lambda row, i=i: row.scores.through_plane[i]) for i in range(3)]  # type: ignore[misc]
        lines.append([label, *(mean_and_range(values, ".2f") for values in figures)])
    return table(THROUGH_PLANE, ["method", "along R", "along A", "along S"], lines)


def _detail_table(rows: Sequence[Row]) -> Table:
    header = [
        "method", "MAE brain", "MMD (paper)", "data residual", "seconds", "slice passes", "volume passes",
        "peak memory",
    ]  # fmt: skip
    lines: list[list[Cell | str]] = []
    for label, group in _methods(rows).items():
        lines.append(
            [
                label,
                mean_and_range(values_of(group, lambda row: row.scores.mae_brain), ".4f"),
                number(mean_of(group, lambda row: row.scores.mmd), ".4g"),
                number(mean_of(group, lambda row: row.scores.data_residual), ".1e"),
                number(mean_of(group, lambda row: row.cost.seconds), ".2f"),
                number(mean_of(group, lambda row: row.cost.slice_passes), ".0f"),
                number(mean_of(group, lambda row: row.cost.volume_passes), ".0f"),
                memory_cell(mean_of(group, lambda row: row.cost.peak_bytes)),
            ]
        )
    return table("Beyond PSNR, and cost (means)", header, lines)


def memory_cell(peak_bytes: float) -> Cell:
    """Peak memory in GiB."""
    return Cell("-") if math.isnan(peak_bytes) else Cell(f"{peak_bytes / 2**30:.2f} GiB", peak_bytes)


def _calibration_table(rows: Sequence[Row]) -> Table:
    header = ["volume, method", "errors within 1.96 deviations (95 % is right)", "rank correlation", "spread / error"]
    lines: list[list[Cell | str]] = []
    for row in rows:
        if row.calibration is not None:
            found = row.calibration
            figures = [
                number(found.coverage, ".1%"),
                number(found.correlation, ".3f"),
                number(found.spread_ratio, ".2f"),
            ]
            lines.append([f"{title(row)}, {row.label}", *figures])
    return table("Uncertainty against the actual error (brain)", header, lines)


def _truth_table(facts: Sequence[SubjectFacts]) -> Table:
    header = [
        "volume", "shape", "spacing (mm)", "noise (of range)", "ceiling (dB)", "high band R / A / S", "reading",
        "brain region",
    ]  # fmt: skip
    lines: list[list[Cell | str]] = []
    for f in facts:
        shares = " / ".join(f"{share:.4f}" for share in f.high_band_share)
        shape, spacing = " x ".join(map(str, f.shape)), " x ".join(f"{s:.3g}" for s in f.spacing_mm)
        region = f"{f.brain} ({f.brain_voxels} voxels)"
        figures = [number(f.noise, ".4f"), number(f.psnr_ceiling, ".1f")]
        lines.append([_heading(f), shape, spacing, *figures, shares, f.reading, region])
    return table("Truths", header, lines)


_ROW_COLUMNS: tuple[tuple[str, Callable[[Row], float], str], ...] = (
    ("PSNR brain", lambda row: row.scores.psnr_brain, ".2f"),
    ("SSIM brain", lambda row: row.scores.ssim_brain, ".4f"),
    ("MAE brain", lambda row: row.scores.mae_brain, ".4f"),
    ("PSNR", lambda row: row.scores.psnr, ".2f"),
    ("SSIM", lambda row: row.scores.ssim, ".4f"),
    ("MAE", lambda row: row.scores.mae, ".4f"),
    ("PSNR min-max (paper)", lambda row: row.scores.psnr_minmax, ".2f"),
    ("change R", lambda row: row.scores.through_plane[0], ".2f"),
    ("change A", lambda row: row.scores.through_plane[1], ".2f"),
    ("change S", lambda row: row.scores.through_plane[2], ".2f"),
    ("residual", lambda row: row.scores.data_residual, ".1e"),
    ("s", lambda row: row.cost.seconds, ".2f"),
)


def _row_table(rows: Sequence[Row]) -> Table:
    """One line per person and method."""
    lines: list[list[Cell | str]] = [
        [f"{title(row)}, {row.label}", *(number(value(row), form) for _, value, form in _ROW_COLUMNS)] for row in rows
    ]
    return table("Every row", ["volume, method", *(name for name, _, _ in _ROW_COLUMNS)], lines)


def terminal_table(benchmark: Benchmark, setting: str) -> TerminalTable:
    """The brain figures of one setting, for the terminal."""
    import rich.table

    rows = [row for row in benchmark.rows if row.setting == setting]
    facts = [f for f in benchmark.facts if f.setting == setting]
    names = [title(f) for f in facts]
    best = {name: max((r.scores.psnr_brain for r in rows if title(r) == name), default=math.nan) for name in names}
    description = next(s.description for s in benchmark.settings if s.name == setting)
    shown = rich.table.Table(title=f"{setting}: PSNR (dB) / SSIM in the brain", caption=description)
    shown.add_column("method")
    for f in facts:
        shown.add_column(_heading(f), justify="right")
    for name in ("mean", "seconds", "peak"):
        shown.add_column(name, justify="right")
    for label, group in _methods(rows).items():
        by_name = {title(row): row for row in group}
        cells: list[Any] = []
        for name in names:
            row = by_name[name]
            text = pair_cell(row.scores.psnr_brain, row.scores.ssim_brain).text
            cells.append(f"[bold]{text}[/bold]" if row.scores.psnr_brain == best[name] else text)
        psnr, ssim = (mean_of(group, lambda r, i=i: _score(r, True)[i]) for i in (0, 1))  # type: ignore[misc]
        seconds = mean_of(group, lambda r: r.cost.seconds)
        peak = mean_of(group, lambda r: r.cost.peak_bytes) / 2**30
        cost = [f"{seconds:.1f}", f"{peak:.2f} GiB"] if group[0].apart is None or len(group) > 1 else ["-", "-"]
        shown.add_row(label, *cells, pair_cell(psnr, ssim).text, *cost)
    shown.add_row("noise ceiling (dB)", *(f"{f.psnr_ceiling:.1f}" for f in facts), "", "", "")
    return shown
