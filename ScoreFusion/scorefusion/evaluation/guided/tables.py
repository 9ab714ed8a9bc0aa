"""What `scorefusion evaluate guided` writes and says: a line for each person, contrast and acquisition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from scorefusion.evaluation.guided.spots import HOW
from scorefusion.evaluation.report import Cell, Report, Section, Table, content_of, mean_and_range, number, write_report
from scorefusion.evaluation.rows import Benchmark, Gain, Row, gains

Line = list[Cell | str]
Place = tuple[str, str]  # title and setting
_CLASSICAL = "best classical"
_WHO = "person, contrast, acquisition"
_ABOUT = (
    "Only axes along which the truth has real detail are made coarse. Models run as users run them, by `translate`. "
    "PSNR and SSIM as in the tables of `scorefusion evaluate`: in the brain, range of the truth. "
    "Means are over lines, with the smallest and the largest; no significance is claimed from so few."
)


def write_guided(benchmark: Benchmark, painted: Sequence[Row], folder: Path) -> list[Path]:
    """`guided.md`, `.html`, `.csv` (rows of methods, then of spots) and `.json`."""
    sections = [Section("Guides", [*_refusals(benchmark), *sentences(benchmark, painted)], tables(benchmark))]
    if painted:
        sections.append(Section("Painted lesions", [HOW], [spot_table(painted), _every_spot(painted)]))
    scans = [f"{name}: {description}." for name, description in benchmark.settings.items()]
    report = Report("Guided super-resolution", benchmark.caption, [_ABOUT, *scans], sections)
    content = content_of(benchmark) | {"spots": [row.flat() for row in painted]}
    return write_report(report, [row.flat() for row in (*benchmark.rows, *painted)], content, folder, "guided")


def tables(benchmark: Benchmark) -> list[Table]:
    """Scores, gains over the best classical method, differences from the model alone, and cost."""
    rows = benchmark.rows
    ours = list(dict.fromkeys(row.label for row in rows if row.family == "model"))
    over = {(place, gain.label): value for gain, place, value in _over_classical(rows)}
    scores: dict[tuple[Place, str], Row] = {(_place(row), row.label): row for row in rows}
    for place in _places(rows):
        best = max((r for r in rows if _place(r) == place and r.family != "model"), key=lambda r: r["psnr_brain"])
        scores[place, _CLASSICAL] = best

    def cell(place: Place, label: str) -> Cell | str:
        row = scores.get((place, label))
        return "-" if row is None else Cell(f"{row['psnr_brain']:.2f} / {row['ssim_brain']:.4f}", row["psnr_brain"])

    def cost(place: Place, label: str) -> Cell | str:
        row = scores.get((place, label))
        if row is None:
            return "-"
        return Cell(f"{row['seconds']:.1f} s, {number(row['peak_bytes'], 'GiB').text}", row["seconds"])

    def moved(place: Place, label: str) -> Cell | str:
        row = scores.get((place, label))
        if row is None or "moved_mm" not in row.figures:
            return "-"
        return Cell(f"{row['moved_mm']:.2f} mm, {row['turned_degrees']:.2f} degrees", row["moved_mm"])

    columns = [_CLASSICAL, *ours]
    lines: list[Line] = [[_name(p), *(cell(p, label) for label in columns)] for p in _places(rows)]
    spent: list[Line] = [[_name(p), *(cost(p, label) for label in columns)] for p in _places(rows)]
    registered = list(dict.fromkeys(row.label for row in rows if "moved_mm" in row.figures))
    found: list[Line] = [[_name(p), *(moved(p, label) for label in registered)] for p in _places(rows)]
    motions = [Table("What registration moved the guide by", [_WHO, *registered], found)] if registered else []
    return [
        Table("Brain: PSNR (dB) / SSIM", [_WHO, *columns], lines),
        _differences("Over the best classical method of each volume (dB, brain)", rows, ours, over),
        _differences("Over the same model alone (dB, brain)", rows, *_over_alone(rows)),
        *motions,
        Table("Seconds and peak memory", [_WHO, *columns], spent),
    ]


def spot_table(painted: Sequence[Row]) -> Table:
    """Mean and worst of the spots of each line, and over all."""
    header = [_WHO, "spots", "leaked: mean", "worst", "kept: mean", "worst"]
    header += ["cubic keeps: mean", "worst"]
    groups = {_name(place): [row for row in painted if _place(row) == place] for place in _places(painted)}
    lines: list[Line] = []
    for name, group in {**groups, "all": list(painted)}.items():
        line: Line = [name, str(len(group))]
        for figure, worst, form in (("leaked", _largest, "+.1%"), ("kept", min, ".1%"), ("kept_cubic", min, ".1%")):
            values = [row[figure] for row in group]
            line += [mean_and_range(values, form, ranged=False), number(worst(values), form)]
        lines.append(line)
    return Table("Lesions painted into the guide alone, and into the truth alone", header, lines)


def sentences(benchmark: Benchmark, painted: Sequence[Row]) -> list[str]:
    """What it comes to: each way over the model alone, and the spots."""
    ours, over = _over_alone(benchmark.rows)
    said = []
    for label in ours:
        gained = mean_and_range([value for (_, way), value in over.items() if way == label], "+.2f")
        said.append(f"{label}: {gained.text} dB over the same model alone")
    if painted:
        *_, (_, count, leak, most, kept, least, cubic, _) = spot_table(painted).cells()
        said.append(
            f"Painted lesions ({count.text}): {leak.text} leaked from the T1w (at worst {most.text}); of those in the "
            f"truth alone {kept.text} were kept (at worst {least.text}), cubic keeps {cubic.text}"
        )
    return said


def _differences(title: str, rows: Sequence[Row], labels: Sequence[str], of: dict[tuple[Place, str], float]) -> Table:
    lines: list[Line] = [
        [_name(place), *(number(of.get((place, label), math.nan), "+.2f") for label in labels)]
        for place in _places(rows)
    ]
    lines.append(["mean (range)", *(mean_and_range([v for (_, a), v in of.items() if a == b], "+.2f") for b in labels)])
    return Table(title, [_WHO, *labels], lines)


def _over_classical(rows: Sequence[Row]) -> list[tuple[Gain, Place, float]]:
    return [
        (gain, (title, gain.setting), value)
        for gain in gains(rows, "psnr_brain")
        for title, value in gain.per_subject.items()
    ]


def _over_alone(rows: Sequence[Row]) -> tuple[list[str], dict[tuple[Place, str], float]]:
    """Labels of the ways beside guides, and their distance from the model alone by place and label."""
    alone = {(_place(r), r.method.rpartition(":")[0]): r["psnr_brain"] for r in rows if r.method.endswith(":none")}
    guided = [row for row in rows if row.family == "model" and not row.method.endswith(":none")]
    over = {
        (_place(row), row.label): row["psnr_brain"] - alone[key]
        for row in guided
        if (key := (_place(row), row.method.rpartition(":")[0])) in alone
    }
    return list(dict.fromkeys(row.label for row in guided)), over


def _refusals(benchmark: Benchmark) -> list[str]:
    return [
        f"{fact['title']}, {fact['setting']}: {label} was refused: {why}"
        for fact in benchmark.facts
        for label, why in fact["refused"].items()
    ]


def _every_spot(painted: Sequence[Row]) -> Table:
    figures = {"radius (mm)": ("radius_mm", ".1f"), "strength": ("strength", "+.0%"), "leaked": ("leaked", "+.1%")}
    figures |= {"kept": ("kept", ".1%"), "cubic keeps": ("kept_cubic", ".1%")}
    lines: list[Line] = [
        [
            f"{_name(_place(row))}, spot {row.method.rpartition('-')[2]}",
            *(number(row[n], f) for n, f in figures.values()),
        ]
        for row in painted
    ]
    return Table("Every spot", ["person, contrast, acquisition, spot", *figures], lines)


def _largest(values: Sequence[float]) -> float:
    return max(values, key=abs)


def _place(row: Row) -> Place:
    return row.title, row.setting


def _places(rows: Sequence[Row]) -> list[Place]:
    return list(dict.fromkeys(map(_place, rows)))


def _name(place: Place) -> str:
    return ", ".join(place)
