"""What `scorefusion evaluate` writes and says of a benchmark: tables with a line a method or a person."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from scorefusion.evaluation.lesions import HOW
from scorefusion.evaluation.metrics import LEAST_SHARE
from scorefusion.evaluation.regions import WHOLE_HEAD
from scorefusion.evaluation.report import Cell, Report, Section, Table, content_of, mean_and_range, number, write_report
from scorefusion.evaluation.rows import Benchmark, Gain, Row, by_label, gains


class Column(NamedTuple):
    """A figure of a table: its heading, its name in a row and its format."""

    heading: str
    figure: str
    form: str
    ranged: bool = True  # with the smallest and the largest value


Line = list[Cell | str]
Facts = Sequence[Mapping[str, Any]]

_FEW = "Means are over persons, with the smallest and the largest value; no significance is claimed from so few."
_RESTORED = (
    "Intensities: the truth's robust range (0.5 to 99.5 percentile) becomes [0, 1], nothing is clipped; PSNR and SSIM "
    "use range 1. Whole volume = what the truth was cropped to before it was scanned. "
    "SSIM is 3D, uniform 7 x 7 x 7 window, as in scikit-image. "
    "Noise ceiling: PSNR of an estimate that knows the anatomy perfectly but not the truth's noise.",
    _FEW,
)
_TRANSLATED = (
    "Intensities: each contrast is scaled by itself, as the models say (above), the sources before they are given to "
    "a method, the truth to be compared with: its range becomes [0, 1]. A method gives the target in that range; "
    "nobody is told the truth's scanner units, and nothing is clipped.",
    "Scores are taken slice by slice inside the brain mask (of single slices: inside the head), and averaged over the "
    f"slices with at least {LEAST_SHARE:.0%} of the largest slice's area in it: PSNR with range 1; SSIM in 2D, uniform "
    "7 x 7 window, as in scikit-image; MAE. Which slices: see the table of persons.",
    "MMD (paper): linear MMD of one volume, its summed squared error. MMD of slices: linear MMD with the volume's "
    "slices as the set, in which errors that differ from slice to slice cancel. Both grow with the volume.",
    f"Nothing of the target was measured, so nothing is projected. {_FEW}",
)
_DAGGER = "Figures marked † : the truth was interpolated along an axis that the setting coarsens, so they say little."
_THROUGH_PLANE = "Slice-to-slice change beside the truth's (1 = as the truth, below = too smooth)"
_STACKED = (
    "Along the axis across the scored slices this says how well slices fit their neighbours; where the truth was "
    "interpolated along it, 1 is the smoothness of interpolation."
)
_BRAIN = ("psnr_brain", "ssim_brain")
_SCORES = ("psnr", "ssim")
_SECONDS = Column("s", "seconds", ".2f")
_ALONG = [Column(f"along {w}", f"through_plane_{a}", ".2f") for w, a in zip("RAS", "ijk", strict=True)]
_CHANGE = [column._replace(heading=column.heading.replace("along", "change")) for column in _ALONG]
_COST = [
    Column("seconds", "seconds", ".2f", False), Column("slice passes", "slice_passes", ".0f", False),
    Column("volume passes", "volume_passes", ".0f", False), Column("peak memory", "peak_bytes", "GiB", False),
]  # fmt: skip
_BRIEF_COST = [Column("seconds", "seconds", ".1f", False), Column("peak", "peak_bytes", "GiB", False)]
_BEYOND = [
    Column("MAE brain", "mae_brain", ".4f"), Column("MMD (paper)", "mmd", ".4g", False),
    Column("data residual", "data_residual", ".1e", False), *_COST,
]  # fmt: skip
_EVERY = [
    Column("PSNR brain", "psnr_brain", ".2f"), Column("SSIM brain", "ssim_brain", ".4f"),
    Column("MAE brain", "mae_brain", ".4f"), Column("PSNR", "psnr", ".2f"), Column("SSIM", "ssim", ".4f"),
    Column("MAE", "mae", ".4f"), Column("PSNR min-max (paper)", "psnr_minmax", ".2f"), *_CHANGE,
    Column("residual", "data_residual", ".1e"), _SECONDS,
]  # fmt: skip
_SURE = [
    Column("errors within 1.96 deviations (95 % is right)", "coverage", ".1%"),
    Column("rank correlation", "correlation", ".3f"), Column("spread / error", "spread_ratio", ".2f"),
]  # fmt: skip
_FIGURES = [
    Column("PSNR (dB)", "psnr", ".2f"), Column("SSIM", "ssim", ".4f"), Column("MAE", "mae", ".4f"),
    Column("MMD (paper)", "mmd", ".4g"), Column("MMD of slices", "mmd_slices", ".4g"),
]  # fmt: skip
_LESION = [
    Column("contrast (of the range)", "lesion_contrast", "+.3f"), Column("contrast kept", "lesion_kept", ".0%"),
    Column("CNR", "lesion_cnr", "+.2f"), Column("CNR, relative error", "lesion_cnr_error", "+.0%"),
    Column("MAE in the lesion", "lesion_mae", ".4f"),
    Column("MAE in the rest of the brain", "lesion_mae_elsewhere", ".4f"),
]  # fmt: skip


def write_benchmark(
    benchmark: Benchmark, folder: Path, stem: str = "evaluation", pictures: Sequence[Path] = ()
) -> list[Path]:
    """`stem.md`, `.html`, `.csv`, `.json`."""
    figures = ("psnr_brain",) if benchmark.settings else _SCORES
    content = content_of(benchmark) | {k: v for k, v in benchmark.caption.items() if k == "direction"}
    content["gains"] = [asdict(gain) for figure in figures for gain in gains(benchmark.rows, figure)]
    return write_report(document(benchmark, pictures), [r.flat() for r in benchmark.rows], content, folder, stem)


def document(benchmark: Benchmark, pictures: Sequence[Path] = ()) -> Report:
    """The whole report, of restorations under settings or of a translation."""
    drawn = [Section("Pictures", ["Each has its own caption."], (), pictures)] if pictures else []
    if benchmark.settings:
        parts = [part for name in benchmark.settings for part in _restored(benchmark, name)]
        return Report("Evaluation", benchmark.caption, _RESTORED, [*parts, *drawn])
    title = f"Translation: {benchmark.caption['direction']}"
    return Report(title, benchmark.caption, _TRANSLATED, [*_translated(benchmark), *drawn])


def terminal(benchmark: Benchmark) -> tuple[list[Table], list[str]]:
    """The main tables, and the gains and what became of lesions in words."""
    if not benchmark.settings:
        rows, facts = benchmark.rows, benchmark.facts
        title = f"{benchmark.caption['direction']}: PSNR (dB) / SSIM in the {_region(facts)}, slice by slice"
        said = [
            f"{gain.label}: {psnr.text} dB, SSIM {ssim.text} over the best baseline of each person"
            for gain, (psnr, ssim, _) in _gain_cells(benchmark)
        ]
        return [_score_table(title, rows, facts, _SCORES, "ssim")], [*said, *_lesion_sentences(rows)]
    tables = []
    for name, description in benchmark.settings.items():
        facts, rows = _of(benchmark, name)
        title = f"{name}: PSNR (dB) / SSIM in the brain"
        scores = _score_table(title, rows, facts, _BRAIN, "psnr_brain", _BRIEF_COST, description)
        tables.append(_with_ceiling(scores, "noise ceiling (dB)", facts))
    return tables, [
        f"{gain.setting}: {gain.label}: {gain.mean:+.2f} dB over the best classical method of each volume (mean, brain)"
        for gain in gains(benchmark.rows, "psnr_brain")
    ]


def _of(benchmark: Benchmark, setting: str) -> tuple[list[dict[str, Any]], list[Row]]:
    facts = [f for f in benchmark.facts if f["setting"] == setting]
    return facts, [row for row in benchmark.rows if row.setting == setting]


# -- super-resolution --------------------------------------------------------------------------------------------------


def _restored(benchmark: Benchmark, setting: str) -> list[Section]:
    facts, rows = _of(benchmark, setting)
    brain = _score_table("Brain: PSNR (dB) / SSIM", rows, facts, _BRAIN, "psnr_brain")
    tables = [
        _with_ceiling(brain, "noise ceiling of the truth (dB)", facts),
        _score_table("Whole volume: PSNR (dB) / SSIM", rows, facts, _SCORES, "psnr"),
        *_gain_tables(rows, facts),
        _mean_table(_THROUGH_PLANE, rows, _ALONG),
        _mean_table("Beyond PSNR, and cost (means)", rows, _BEYOND),
    ]
    if sure := [row for row in rows if "coverage" in row.figures]:
        tables.append(_row_table("Uncertainty against the actual error (brain)", sure, "volume", _SURE))
    every = _row_table("Every row", rows, "volume", _EVERY)
    notes = [*([_DAGGER] if any(f["doubtful_axes"] for f in facts) else []), *_apart_note(facts)]
    return [
        Section(f"{setting}: {benchmark.settings[setting]}", notes, tables),
        *_lesion_sections(rows, facts, f"{setting}: what the model does to lesions"),
        Section(f"{setting}: truths, and every row", (), [_truths(facts), every]),
    ]


def _with_ceiling(table: Table, label: str, facts: Facts) -> Table:
    """With the best PSNR that noise allows as the last line."""
    known: Line = [label, *(number(f["psnr_ceiling"], ".1f") for f in facts)]
    rest: Line = [""] * (len(table.header) - len(known))
    return replace(table, rows=[*table.rows, [*known, *rest]])


def _gain_tables(rows: Sequence[Row], facts: Facts) -> list[Table]:
    found = gains(rows, "psnr_brain")
    if not found:
        return []
    names = [f["title"] for f in facts]
    lines: list[Line] = [["best classical method", *(found[0].best.get(name, "-") for name in names), "", ""]]
    counted = [f["title"] for f in facts if not f["apart"]]
    real = [f["title"] for f in facts if not (f["apart"] or f["doubtful_axes"])]
    for gain in found:
        one, *some = ([gain.per_subject.get(name, math.nan) for name in chosen] for chosen in (names, counted, real))
        means = (mean_and_range(values, "+.2f") for values in some)
        lines.append([gain.label, *(number(value, "+.2f") for value in one), *means])
    header = ["method", *map(_heading, facts), "mean (range)", "mean (range) without †"]
    return [Table("Gain over the best classical method of each volume (dB, brain)", header, lines)]


def _truths(facts: Facts) -> Table:
    lines: list[Line] = []
    for f in facts:
        shares = " / ".join(f"{share:.4f}" for share in f["high_band_share"])
        noise = [number(f["noise"], ".4f"), number(f["psnr_ceiling"], ".1f")]
        lines.append([_heading(f), *_size(f), *noise, shares, f["reading"], _brain(f)])
    figures = ["noise (of range)", "ceiling (dB)", "high band R / A / S", "reading"]
    return Table("Truths", ["volume", "shape", "spacing (mm)", *figures, "brain region"], lines)


# -- translation -------------------------------------------------------------------------------------------------------


def _translated(benchmark: Benchmark) -> list[Section]:
    rows, facts = benchmark.rows, benchmark.facts
    tables = [
        _score_table("PSNR (dB) / SSIM; the best SSIM of a person stands out", rows, facts, _SCORES, "ssim"),
        _mean_table("Means over persons (range)", rows, _FIGURES),
    ]
    lines: list[Line] = [[gain.label, *cells] for gain, cells in _gain_cells(benchmark)]
    if lines:
        header = ["method", "PSNR (dB)", "SSIM", "persons with better SSIM"]
        tables.append(Table("Gain over the best baseline of each person (mean and range)", header, lines))
    if not any(f["single_slice"] for f in facts):
        tables.append(_mean_table(_THROUGH_PLANE, rows, _ALONG, _STACKED))
    tables.append(_mean_table("Cost (means)", rows, _COST))
    every = _row_table("Every row", rows, "person", [*_FIGURES, *_CHANGE, _SECONDS])
    return [
        Section(f"Scores in the {_region(facts)}, slice by slice", _apart_note(facts), tables),
        *_lesion_sections(rows, facts, "What the model does to lesions"),
        Section("Persons, and every row", (), [_persons(facts), every]),
    ]


def _gain_cells(benchmark: Benchmark) -> list[tuple[Gain, list[Cell]]]:
    """PSNR, SSIM and on how many persons SSIM is higher than any baseline's; without those kept apart."""
    apart = {f["title"] for f in benchmark.facts if f["apart"]}
    found = []
    for by_psnr, by_ssim in zip(gains(benchmark.rows, "psnr"), gains(benchmark.rows, "ssim"), strict=True):
        psnr, ssim = ([v for who, v in g.per_subject.items() if who not in apart] for g in (by_psnr, by_ssim))
        better = sum(value > 0 for value in ssim)
        counted = Cell(f"{better} of {len(ssim)}", better)
        found.append((by_psnr, [mean_and_range(psnr, "+.2f"), mean_and_range(ssim, "+.4f"), counted]))
    return found


def _region(facts: Facts) -> str:
    """Single slices of heads come without a brain mask."""
    return "head" if any(f["brain"].startswith(WHOLE_HEAD) for f in facts) else "brain"


def _persons(facts: Facts) -> Table:
    lines: list[Line] = []
    for f in facts:
        *given, target = (name.upper() for name in f["contrasts"])
        slices = f"{f['slices']} normal to {f['axis']} ({f['why_axis']})"
        extent = "{:.4g} to {:.4g}".format(*f["intensity_range"])
        who = [", ".join(f["teachers"]) or "nobody", ", ".join(f["models"])]
        lines.append([_heading(f), f"{' + '.join(given)} to {target}", *_size(f), slices, _brain(f), extent, *who])
    header = ["person", "contrasts", "shape", "spacing (mm)", "scored slices", "brain region", "truth's range"]
    return Table("Persons", [*header, "baselines learned from", "model"], lines)


# -- tables that both have ---------------------------------------------------------------------------------------------


def _heading(facts: Mapping[str, Any]) -> str:
    """A person's name, with † for a truth that says little and * for one kept out of the mean."""
    return f"{facts['title']}{'†' if facts.get('doubtful_axes') else ''}{'*' if facts['apart'] else ''}"


def _size(facts: Mapping[str, Any]) -> list[str]:
    return [" x ".join(map(str, facts["shape"])), " x ".join(f"{side:.3g}" for side in facts["spacing_mm"])]


def _brain(facts: Mapping[str, Any]) -> str:
    return f"{facts['brain']} ({facts['brain_voxels']} voxels)"


def _apart_note(facts: Facts) -> list[str]:
    """Whose columns are kept out of the mean, and why."""
    apart = "; ".join(f"{f['title']}, {f['apart']}" for f in facts if f["apart"])
    return [f"Columns marked * are kept out of the mean: {apart}."] if apart else []


def _means(group: Iterable[Row], columns: Iterable[Column]) -> list[Cell]:
    """One cell a column; persons kept apart do not count."""
    counted = [row for row in group if row.apart is None]
    return [mean_and_range([row[c.figure] for row in counted], c.form, ranged=c.ranged) for c in columns]


def _score_table(
    title: str,
    rows: Sequence[Row],
    facts: Facts,
    figures: tuple[str, str],
    best_by: str,
    more: Sequence[Column] = (),
    note: str = "",
) -> Table:
    """Methods by persons: PSNR and SSIM, then mean and range; the best of a column stands out."""
    tops = {f["title"]: max((r[best_by] for r in rows if r.title == f["title"]), default=math.nan) for f in facts}
    lines: list[Line] = []
    for label, group in by_label(rows).items():
        own = {row.title: row for row in group}
        line: Line = [label]
        for name, top in tops.items():
            psnr, ssim = (own[name][figure] if name in own else math.nan for figure in figures)
            best = name in own and own[name][best_by] == top
            line.append("-" if math.isnan(psnr) else Cell(f"{psnr:.2f} / {ssim:.4f}", psnr, best))
        mean, other, *rest = _means(group, [Column("", figures[0], ".2f"), Column("", figures[1], ".4f"), *more])
        lines.append([*line, mean if mean.value is None else Cell(f"{mean.text} / {other.text}", mean.value), *rest])
    header = ["method", *map(_heading, facts), "mean (range)", *(column.heading for column in more)]
    return Table(title, header, lines, note)


def _mean_table(title: str, rows: Sequence[Row], columns: Sequence[Column], note: str = "") -> Table:
    """Methods by figures, over persons."""
    lines: list[Line] = [[label, *_means(group, columns)] for label, group in by_label(rows).items()]
    return Table(title, ["method", *(column.heading for column in columns)], lines, note)


def _row_table(title: str, rows: Sequence[Row], who: str, columns: Sequence[Column]) -> Table:
    """One line per person and method."""
    lines: list[Line] = [
        [f"{row.title}, {row.label}", *(number(row[c.figure], c.form) for c in columns)] for row in rows
    ]
    return Table(title, [f"{who}, method", *(column.heading for column in columns)], lines)


def _lesion_sections(rows: Sequence[Row], facts: Facts, title: str) -> list[Section]:
    """Every method's lesions beside the truth's; none where no case has a mask."""
    lines: list[Line] = []
    for about in facts:
        if about["lesion"] is None:
            continue
        name, truth = about["title"], about["lesion_truth"]
        what = f"{name} ({about['lesion']}, {about['lesion_voxels']} voxels): truth"
        lines.append([what, number(truth["contrast"], "+.3f"), "", number(truth["cnr"], "+.2f"), "", "", ""])
        for row in rows:
            if row.title == name and "lesion_mae" in row.figures:
                figures = {**row.figures, "lesion_kept": 1.0 + row["lesion_contrast_error"]}
                lines.append([f"{name}: {row.label}", *(number(figures[c.figure], c.form) for c in _LESION)])
    if not lines:
        return []
    table = Table("Lesions", ["volume: image", *(column.heading for column in _LESION)], lines)
    return [Section(title, [HOW, *_lesion_sentences(rows)], [table])]


def _lesion_sentences(rows: Sequence[Row]) -> list[str]:
    """One sentence a model method: how much of the lesions' contrast is left, over persons."""
    sentences = []
    for label, group in by_label(row for row in rows if row.family == "model" and row.apart is None).items():
        known = [1.0 + row["lesion_contrast_error"] for row in group if "lesion_contrast_error" in row.figures]
        known = [value for value in known if not math.isnan(value)]
        if known:
            how = "keeps" if sum(known) >= 0 else "turns the contrast of lesions round:"
            persons = f"{len(known)} {'person' if len(known) == 1 else 'persons'}"
            share = mean_and_range(known, ".0%").text
            sentences.append(f"{label} {how} {share} of the lesions' contrast in the truth ({persons}).")
    return sentences
