"""A translation benchmark as Markdown, HTML, CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scorefusion.evaluation.benchmark import mean_of, values_of
from scorefusion.evaluation.document import Cell, Document, Section, Table, mean_and_range, number, table
from scorefusion.evaluation.lesion_table import lesion_section
from scorefusion.evaluation.report import THROUGH_PLANE, memory_cell, pair_cell, pair_range, write_files
from scorefusion.evaluation.slices import LEAST_SHARE
from scorefusion.evaluation.translation.pairs import WHOLE_HEAD
from scorefusion.evaluation.translation.run import PairFacts, PairRow, TranslationBenchmark, pair_gains

if TYPE_CHECKING:
    import rich.table

_HOW = (
    "Intensities: each contrast is scaled by itself, as the models say (above), the sources before they are given to "
    "a method, the truth to be compared with: its range becomes [0, 1]. A method gives the target in that range; "
    "nobody is told the truth's scanner units, and nothing is clipped.",
    "Scores are taken slice by slice inside the brain mask (of single slices: inside the head), and averaged over the "
    f"slices with at least {LEAST_SHARE:.0%} of the largest slice's area in it: PSNR with range 1; SSIM in 2D, uniform "
    "7 x 7 window, as in scikit-image; MAE. Which slices: see the table of persons.",
    "MMD (paper): linear MMD of one volume, its summed squared error. MMD of slices: linear MMD with the volume's "
    "slices as the set, in which errors that differ from slice to slice cancel. Both grow with the volume.",
    "Nothing of the target was measured, so nothing is projected. Means are over persons, with the smallest and the "
    "largest value; no significance is claimed from so few.",
)
_APART = "Columns marked * are kept out of the mean: "
_STACKED = (
    "Along the axis across the scored slices this says how well slices fit their neighbours; where the truth was "
    "interpolated along it, 1 is the smoothness of interpolation."
)


def write_translation_report(
    benchmark: TranslationBenchmark, folder: Path, stem: str = "translation", pictures: Sequence[Path] = ()
) -> dict[str, Path]:
    """Write `stem.md`, `.html`, `.csv` and `.json`; returns their paths by kind."""
    content = {
        "direction": benchmark.direction,
        "caption": benchmark.caption,
        "subjects": [asdict(facts) for facts in benchmark.facts],
        "rows": [asdict(row) for row in benchmark.rows],
        "gains": [asdict(gain) for gain in pair_gains(benchmark.rows)],
    }
    rows = [row.flat() for row in benchmark.rows]
    return write_files(translation_document(benchmark, pictures), rows, content, folder, stem)


def translation_document(benchmark: TranslationBenchmark, pictures: Sequence[Path] = ()) -> Document:
    """The whole report."""
    rows, facts = benchmark.rows, benchmark.facts
    tables = [_score_table(rows, facts), _mean_table(rows)]
    if pair_gains(rows):
        tables.append(_gain_table(rows, facts))
    if all("single slice" not in f.why_axis for f in facts):
        tables.append(_through_plane_table(rows))
    tables.append(_cost_table(rows))
    apart = [f"{f.subject}, {f.apart}" for f in facts if f.apart]
    notes = (f"{_APART}{'; '.join(apart)}.",) if apart else ()
    sections = [Section(f"Scores in the {_region(facts)}, slice by slice", notes, tuple(tables))]
    lesions = lesion_section(rows, facts, lambda about: about.subject, "What the model does to lesions")
    sections += [] if lesions is None else [lesions]
    sections.append(Section("Persons, and every row", (), (_person_table(facts), _row_table(rows))))
    if pictures:
        sections.append(Section("Pictures", ("Each has its own caption.",), (), tuple(pictures)))
    return Document(f"Translation: {benchmark.direction}", benchmark.caption, _HOW, tuple(sections))


def _region(facts: Sequence[PairFacts]) -> str:
    """Single slices of heads come without a brain mask."""
    return "head" if any(f.brain.startswith(WHOLE_HEAD) for f in facts) else "brain"


def _heading(facts: PairFacts) -> str:
    return f"{facts.subject}{'*' if facts.apart else ''}"


def _methods(rows: Sequence[PairRow]) -> dict[str, list[PairRow]]:
    """Rows by label, in the order of the run."""
    grouped: dict[str, list[PairRow]] = {}
    for row in rows:
        grouped.setdefault(row.label, []).append(row)
    return grouped


def _score_table(rows: Sequence[PairRow], facts: Sequence[PairFacts]) -> Table:
    best = {f.subject: max(row.scores.ssim for row in rows if row.subject == f.subject) for f in facts}
    lines: list[list[Cell | str]] = []
    for label, group in _methods(rows).items():
        own = {row.subject: row.scores for row in group}
        line: list[Cell | str] = [label]
        for name, top in best.items():
            line.append(pair_cell(own[name].psnr, own[name].ssim, best=own[name].ssim == top) if name in own else "-")
        figures = (values_of(group, lambda row: row.scores.psnr), values_of(group, lambda row: row.scores.ssim))
        lines.append([*line, pair_range(*figures)])
    header = ["method", *(_heading(f) for f in facts), "mean (range)"]
    return table("PSNR (dB) / SSIM; the best SSIM of a person stands out", header, lines)


_FIGURES: tuple[tuple[str, Callable[[PairRow], float], str], ...] = (
    ("PSNR (dB)", lambda row: row.scores.psnr, ".2f"),
    ("SSIM", lambda row: row.scores.ssim, ".4f"),
    ("MAE", lambda row: row.scores.mae, ".4f"),
    ("MMD (paper)", lambda row: row.scores.mmd, ".4g"),
    ("MMD of slices", lambda row: row.scores.mmd_slices, ".4g"),
)


def _mean_table(rows: Sequence[PairRow]) -> Table:
    lines: list[list[Cell | str]] = [
        [label, *(mean_and_range(values_of(group, value), form) for _, value, form in _FIGURES)]
        for label, group in _methods(rows).items()
    ]
    return table("Means over persons (range)", ["method", *(name for name, _, _ in _FIGURES)], lines)


def _gain_table(rows: Sequence[PairRow], facts: Sequence[PairFacts]) -> Table:
    apart = {f.subject for f in facts if f.apart}
    lines: list[list[Cell | str]] = []
    for gain in pair_gains(rows):
        psnr, ssim = ([v for name, v in values.items() if name not in apart] for values in (gain.psnr, gain.ssim))
        better = Cell(f"{gain.better} of {gain.persons}", gain.better)
        lines.append([gain.label, mean_and_range(psnr, "+.2f"), mean_and_range(ssim, "+.4f"), better])
    header = ["method", "PSNR (dB)", "SSIM", "persons with better SSIM"]
    return table("Gain over the best baseline of each person (mean and range)", header, lines)


def _through_plane_table(rows: Sequence[PairRow]) -> Table:
    lines: list[list[Cell | str]] = []
    for label, group in _methods(rows).items():
        figures = [values_of(group, lambda row, i=i: row.scores.through_plane[i]) for i in range(3)]  # type: ignore[misc]
        lines.append([label, *(mean_and_range(values, ".2f") for values in figures)])
    return table(THROUGH_PLANE, ["method", "along R", "along A", "along S"], lines, _STACKED)


def _cost_table(rows: Sequence[PairRow]) -> Table:
    lines: list[list[Cell | str]] = []
    for label, group in _methods(rows).items():
        lines.append(
            [
                label,
                number(mean_of(group, lambda row: row.cost.seconds), ".2f"),
                number(mean_of(group, lambda row: row.cost.slice_passes), ".0f"),
                number(mean_of(group, lambda row: row.cost.volume_passes), ".0f"),
                memory_cell(mean_of(group, lambda row: row.cost.peak_bytes)),
            ]
        )
    return table("Cost (means)", ["method", "seconds", "slice passes", "volume passes", "peak memory"], lines)


def _person_table(facts: Sequence[PairFacts]) -> Table:
    header = ["person", "contrasts", "shape", "spacing (mm)", "scored slices", "brain region", "truth's range",
              "baselines learned from", "model"]  # fmt: skip
    lines: list[list[Cell | str]] = []
    for f in facts:
        contrasts = f"{' + '.join(name.upper() for name in f.contrasts[:-1])} to {f.contrasts[-1].upper()}"
        shape, spacing = " x ".join(map(str, f.shape)), " x ".join(f"{s:.3g}" for s in f.spacing_mm)
        slices = f"{f.slices} normal to {f.axis} ({f.why_axis})"
        region = f"{f.brain} ({f.brain_voxels} voxels)"
        extent = f"{f.intensity_range[0]:.4g} to {f.intensity_range[1]:.4g}"
        teachers = ", ".join(f.teachers) or "nobody"
        lines.append([_heading(f), contrasts, shape, spacing, slices, region, extent, teachers, ", ".join(f.models)])
    return table("Persons", header, lines)


def _row_table(rows: Sequence[PairRow]) -> Table:
    axes = tuple(
        (f"change {letter}", lambda row, i=i: row.scores.through_plane[i], ".2f") for i, letter in enumerate("RAS")
    )
    columns: tuple[tuple[str, Callable[[PairRow], float], str], ...] = (
        *_FIGURES, *axes, ("s", lambda row: row.cost.seconds, ".2f"),
    )  # fmt: skip
    lines: list[list[Cell | str]] = [
        [f"{row.subject}, {row.label}", *(number(value(row), form) for _, value, form in columns)] for row in rows
    ]
    return table("Every row", ["person, method", *(name for name, _, _ in columns)], lines)


def gain_lines(benchmark: TranslationBenchmark) -> list[str]:
    """The gains in words, for the terminal."""
    apart = {f.subject for f in benchmark.facts if f.apart}
    lines = []
    for gain in pair_gains(benchmark.rows):
        psnr, ssim = ([v for name, v in values.items() if name not in apart] for values in (gain.psnr, gain.ssim))
        decibels, likeness = mean_and_range(psnr, "+.2f").text, mean_and_range(ssim, "+.4f").text
        lines.append(f"{gain.label}: {decibels} dB, SSIM {likeness} over the best baseline of each person")
    return lines


def translation_terminal_table(benchmark: TranslationBenchmark) -> rich.table.Table:
    """The first table, for the terminal."""
    import rich.table
    from rich.text import Text

    each = _score_table(benchmark.rows, benchmark.facts)
    shown = rich.table.Table(
        title=f"{benchmark.direction}: PSNR (dB) / SSIM in the {_region(benchmark.facts)}, slice by slice"
    )
    for position, name in enumerate(each.header):
        shown.add_column(name, justify="left" if position == 0 else "right")
    for row in each.rows:
        shown.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
    return shown
