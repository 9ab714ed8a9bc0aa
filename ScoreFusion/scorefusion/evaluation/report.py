"""A benchmark as Markdown for people, CSV for spreadsheets and JSON for programs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorefusion.evaluation.benchmark import Benchmark, Row, SubjectFacts, gains, mean_of, title
from scorefusion.progress import jsonable

if TYPE_CHECKING:
    from rich.table import Table

_RANGES = (
    "Intensities: the truth's robust range (0.5 to 99.5 percentile) becomes [0, 1], nothing is clipped; PSNR and SSIM "
    "use range 1. Whole volume = what the truth was cropped to before it was scanned. "
    "SSIM is 3D, uniform 7 x 7 x 7 window, as in scikit-image. "
    "Noise ceiling: PSNR of an estimate that knows the anatomy perfectly but not the truth's noise."
)
_DAGGER = "Figures marked † : the truth was interpolated along an axis that the setting coarsens, so they say little."
_APART = "Columns marked * are kept out of the mean: "


def write_report(benchmark: Benchmark, folder: Path, stem: str = "evaluation") -> dict[str, Path]:
    """Write `stem.md`, `.csv` and `.json`; returns their paths by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"{stem}.{kind}" for kind in ("md", "csv", "json")}
    paths["md"].write_text(markdown(benchmark), encoding="utf-8")
    with paths["csv"].open("w", newline="", encoding="utf-8") as stream:
        rows = [row.flat() for row in benchmark.rows]
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ["setting"])
        writer.writeheader()
        writer.writerows(rows)
    content = {
        "caption": benchmark.caption,
        "settings": {setting.name: setting.description for setting in benchmark.settings},
        "subjects": [asdict(facts) for facts in benchmark.facts],
        "rows": [asdict(row) for row in benchmark.rows],
        "gains": [asdict(gain) for gain in gains(benchmark)],
    }
    paths["json"].write_text(json.dumps(jsonable(content), indent=1, allow_nan=False), encoding="utf-8")
    return paths


def markdown(benchmark: Benchmark) -> str:
    """The whole report."""
    parts = ["# Evaluation", *(f"- {key}: {value}" for key, value in benchmark.caption.items()), "", _RANGES]
    for setting in benchmark.settings:
        facts = [f for f in benchmark.facts if f.setting == setting.name]
        rows = [row for row in benchmark.rows if row.setting == setting.name]
        parts += ["", f"## {setting.name}: {setting.description}", *_notes(facts)]
        parts += ["", "### Brain: PSNR (dB) / SSIM", "", _score_table(rows, facts, brain=True)]
        parts += ["", "### Whole volume: PSNR (dB) / SSIM", "", _score_table(rows, facts, brain=False)]
        mine = [gain for gain in gains(benchmark) if gain.setting == setting.name]
        if mine:
            parts += [
                "",
                "### Gain over the best classical method of each volume (dB, brain)",
                "",
                _gain_table(benchmark, facts),
            ]
        parts += ["", "### Beyond PSNR, and cost (means)", "", _detail_table(rows)]
        if any(row.calibration for row in rows):
            parts += ["", "### Uncertainty against the actual error (brain)", "", _calibration_table(rows)]
        parts += ["", "### Truths", "", _truth_table(facts)]
        parts += ["", "### Every row", "", _row_table(rows)]
    return "\n".join(parts) + "\n"


def _notes(facts: Sequence[SubjectFacts]) -> list[str]:
    notes = []
    if any(f.doubtful_axes for f in facts):
        notes += ["", _DAGGER]
    apart = [f"{title(f)}, {f.apart}" for f in facts if f.apart]
    if apart:
        notes += ["", _APART + "; ".join(apart) + "."]
    return notes


def _heading(facts: SubjectFacts) -> str:
    return f"{title(facts)}{'†' if facts.doubtful_axes else ''}{'*' if facts.apart else ''}"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown, first column left, the others right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *lines])


def _methods(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by method label, in the order of the run."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.label, []).append(row)
    return grouped


def _score(row: Row, brain: bool) -> tuple[float, float]:
    return (row.scores.psnr_brain, row.scores.ssim_brain) if brain else (row.scores.psnr, row.scores.ssim)


def _pair(psnr: float, ssim: float, mark: str = "") -> str:
    return "-" if math.isnan(psnr) else f"{mark}{psnr:.2f} / {ssim:.4f}{mark}"


def _score_table(rows: Sequence[Row], facts: Sequence[SubjectFacts], *, brain: bool) -> str:
    """Methods by subjects, then the mean; the best PSNR of a column is bold."""
    names = [title(f) for f in facts]
    best = {name: max((_score(r, brain)[0] for r in rows if title(r) == name), default=math.nan) for name in names}
    lines = []
    for label, group in _methods(rows).items():
        by_name = {title(row): row for row in group}
        cells = []
        for name in names:
            psnr, ssim = _score(by_name[name], brain) if name in by_name else (math.nan, math.nan)
            cells.append(_pair(psnr, ssim, "**" if psnr == best[name] else ""))
        means = [mean_of(group, lambda row, i=i: _score(row, brain)[i]) for i in (0, 1)]  # type: ignore[misc]
        lines.append([label, *cells, _pair(means[0], means[1])])
    if brain:
        ceilings = [f"{f.psnr_ceiling:.1f}" for f in facts]
        lines.append(["*noise ceiling of the truth (dB)*", *ceilings, ""])
    return _table(["method", *(_heading(f) for f in facts), "mean"], lines)


def _gain_table(benchmark: Benchmark, facts: Sequence[SubjectFacts]) -> str:
    found = [gain for gain in gains(benchmark) if gain.setting == facts[0].setting]
    names = [title(f) for f in facts]
    lines = [["best classical method", *(found[0].best_classical.get(name, "-") for name in names), "", ""]]
    for gain in found:
        cells = [f"{gain.per_subject[name]:+.2f}" if name in gain.per_subject else "-" for name in names]
        means = ["-" if math.isnan(m) else f"{m:+.2f}" for m in (gain.mean, gain.mean_real)]
        lines.append([gain.label, *cells, *means])
    return _table(["method", *(_heading(f) for f in facts), "mean", "mean without †"], lines)


def _detail_table(rows: Sequence[Row]) -> str:
    header = [
        "method", "MAE brain", "slice-to-slice change i / j / k (1 = as truth)", "MMD (paper)", "data residual",
        "seconds", "slice passes", "volume passes", "peak memory",
    ]  # fmt: skip
    lines = []
    for label, group in _methods(rows).items():
        through = [mean_of(group, lambda row, i=i: row.scores.through_plane[i]) for i in range(3)]  # type: ignore[misc]
        lines.append(
            [
                label,
                f"{mean_of(group, lambda row: row.scores.mae_brain):.4f}",
                " / ".join(f"{value:.2f}" for value in through),
                f"{mean_of(group, lambda row: row.scores.mmd):.4g}",
                f"{mean_of(group, lambda row: row.scores.data_residual):.1e}",
                f"{mean_of(group, lambda row: row.cost.seconds):.2f}",
                f"{mean_of(group, lambda row: row.cost.slice_passes):.0f}",
                f"{mean_of(group, lambda row: row.cost.volume_passes):.0f}",
                f"{mean_of(group, lambda row: row.cost.peak_bytes) / 2**30:.2f} GiB",
            ]
        )
    return _table(header, lines)


def _calibration_table(rows: Sequence[Row]) -> str:
    header = ["volume, method", "errors within 1.96 deviations (95 % is right)", "rank correlation", "spread / error"]
    lines = []
    for row in rows:
        if row.calibration is not None:
            found = row.calibration
            figures = [f"{found.coverage:.1%}", f"{found.correlation:.3f}", f"{found.spread_ratio:.2f}"]
            lines.append([f"{title(row)}, {row.label}", *figures])
    return _table(header, lines)


def _truth_table(facts: Sequence[SubjectFacts]) -> str:
    header = [
        "volume",
        "shape",
        "spacing (mm)",
        "noise (of range)",
        "ceiling (dB)",
        "high band R / A / S",
        "reading",
        "brain region",
    ]
    lines = []
    for f in facts:
        shares = " / ".join(f"{share:.4f}" for share in f.high_band_share)
        shape, spacing = " x ".join(map(str, f.shape)), " x ".join(f"{s:.3g}" for s in f.spacing_mm)
        region = f"{f.brain} ({f.brain_voxels} voxels)"
        lines.append(
            [_heading(f), shape, spacing, f"{f.noise:.4f}", f"{f.psnr_ceiling:.1f}", shares, f.reading, region]
        )
    return _table(header, lines)


_ROW_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("PSNR brain", lambda row: f"{row.scores.psnr_brain:.2f}"),
    ("SSIM brain", lambda row: f"{row.scores.ssim_brain:.4f}"),
    ("MAE brain", lambda row: f"{row.scores.mae_brain:.4f}"),
    ("PSNR", lambda row: f"{row.scores.psnr:.2f}"),
    ("SSIM", lambda row: f"{row.scores.ssim:.4f}"),
    ("MAE", lambda row: f"{row.scores.mae:.4f}"),
    ("PSNR min-max (paper)", lambda row: f"{row.scores.psnr_minmax:.2f}"),
    ("i / j / k", lambda row: " / ".join(f"{value:.2f}" for value in row.scores.through_plane)),
    ("residual", lambda row: f"{row.scores.data_residual:.1e}"),
    ("s", lambda row: f"{row.cost.seconds:.2f}"),
)


def _row_table(rows: Sequence[Row]) -> str:
    """One line per person and method."""
    lines = [[f"{title(row)}, {row.label}", *(show(row) for _, show in _ROW_COLUMNS)] for row in rows]
    return _table(["volume, method", *(name for name, _ in _ROW_COLUMNS)], lines)


def terminal_table(benchmark: Benchmark, setting: str) -> Table:
    """The brain figures of one setting, for the terminal."""
    from rich.table import Table

    rows = [row for row in benchmark.rows if row.setting == setting]
    facts = [f for f in benchmark.facts if f.setting == setting]
    names = [title(f) for f in facts]
    best = {name: max((r.scores.psnr_brain for r in rows if title(r) == name), default=math.nan) for name in names}
    description = next(s.description for s in benchmark.settings if s.name == setting)
    table = Table(title=f"{setting}: PSNR (dB) / SSIM in the brain", caption=description)
    table.add_column("method")
    for f in facts:
        table.add_column(_heading(f), justify="right")
    for name in ("mean", "seconds", "peak"):
        table.add_column(name, justify="right")
    for label, group in _methods(rows).items():
        by_name = {title(row): row for row in group}
        cells: list[Any] = []
        for name in names:
            row = by_name[name]
            text = _pair(row.scores.psnr_brain, row.scores.ssim_brain)
            cells.append(f"[bold]{text}[/bold]" if row.scores.psnr_brain == best[name] else text)
        psnr, ssim = (mean_of(group, lambda r, i=i: _score(r, True)[i]) for i in (0, 1))  # type: ignore[misc]
        seconds = mean_of(group, lambda r: r.cost.seconds)
        peak = mean_of(group, lambda r: r.cost.peak_bytes) / 2**30
        cost = [f"{seconds:.1f}", f"{peak:.2f} GiB"] if group[0].apart is None or len(group) > 1 else ["-", "-"]
        table.add_row(label, *cells, _pair(psnr, ssim), *cost)
    table.add_row("noise ceiling (dB)", *(f"{f.psnr_ceiling:.1f}" for f in facts), "", "", "")
    return table
