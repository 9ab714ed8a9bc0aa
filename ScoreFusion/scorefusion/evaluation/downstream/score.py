"""What a restoration does to a segmentation: Dice of a segmenter on the truth, on the coarse scan and on each
restoration of it, and the share of the gap between cubic and truth that is closed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from scorefusion.errors import RequestError
from scorefusion.evaluation.benchmark import Subject, run_benchmark
from scorefusion.evaluation.downstream.labels import TISSUES, dice, masks_of, read_labels
from scorefusion.evaluation.downstream.segmenter import OVERLAP, Segmenter
from scorefusion.evaluation.report import Cell, Report, Section, Table, content_of, number, write_report
from scorefusion.evaluation.rows import Benchmark, Made, Method, Row, by_label, mean, values_of
from scorefusion.evaluation.simulate import Setting
from scorefusion.evaluation.suites import Suite, SuiteCase
from scorefusion.progress import Reporter

#: What a segmentation is compared with.
REFERENCES = {
    "map": "against the tissue map that came with the data",
    "own": "against the segmenter's own result on the truth",
}

#: Methods that always have a row: the coarse scan on the fine grid, and the lower end of the gap.
ALWAYS = ("nearest", "linear", "cubic")
TRUTH, CUBIC = "truth", "cubic"

#: A gap between cubic and truth below this is no gap: a share of it would be noise.
SMALLEST_GAP = 0.005


def gap_share(value: float, cubic: float, truth: float) -> float:
    """Share of the gap between cubic and truth that is closed: 0 as cubic, 1 as the truth, below 0 worse than cubic.

    nan where there is no gap to close (`SMALLEST_GAP`).
    """
    gap = truth - cubic
    return (value - cubic) / gap if gap >= SMALLEST_GAP else math.nan


def run_downstream(
    suite: Suite,
    settings: Sequence[Setting],
    methods: Sequence[Method],
    segmenter: Segmenter,
    *,
    caption: dict[str, str] | None = None,
    reporter: Reporter | None = None,
    crop: str = "foreground",
    maps_only: bool = True,
) -> Benchmark:
    """Segment the truth and every restoration of its simulated coarse scan, and compare.

    Args:
        suite: the truths; those with a tissue map under `masks` are compared with it.
        settings: how the scans are made coarse.
        methods: restorations; of the classical ones, `ALWAYS` have rows, and the best of all by PSNR in the brain.
        segmenter: sees each volume by itself, as it would in practice.
        caption, reporter, crop: see `run_benchmark`.
        maps_only: leave cases without a tissue map out; else they count for reference "own".

    Returns:
        Rows with Dice by reference and class (`dice_map_GM`) and over classes (`dice_map_mean`), and `gap_share_...`.
    """
    reporter = reporter or Reporter()
    suite = replace(suite, cases=tuple(_choose_cases(suite, segmenter, maps_only, reporter)))
    windows = f"{' x '.join(map(str, segmenter.window))} voxels, {OVERLAP:.0%} overlap"
    facts = {**segmenter.notes, "windows": windows, **(caption or {})}
    rows: list[Row] = []
    best: list[str] = []  # of each subject

    def keep(subject: Subject, made: dict[str, Made], found: list[Row]) -> None:
        classical = [row for row in found if row.family == "classical"]
        shown = [row for row in classical if row.method in ALWAYS]
        volumes = {key: volume.data for key, volume in made.items()}
        if classical:
            top = max(classical, key=lambda row: row["psnr_brain"])
            shown.append(replace(top, method="best", label="best classical method of each volume"))
            volumes["best"] = volumes[top.method]
        best.append(top.label if classical else "")
        shown += [row for row in found if row.family != "classical"]
        rows.extend(with_shares(_compare(subject, segmenter, shown, volumes)))

    result = run_benchmark(suite, settings, methods, caption=facts, reporter=reporter, keep=keep, crop=crop)
    facts_of = [{**about, "best_classical": label} for about, label in zip(result.facts, best, strict=True)]
    return replace(result, facts=facts_of, rows=rows)


def _compare(subject: Subject, segmenter: Segmenter, rows: list[Row], volumes: dict[str, Tensor]) -> list[Row]:
    """A row for the truth, then these; each with its Dice."""
    truth = segmenter.segment(torch.from_numpy(subject.truth.data[0]))
    references = {"own": truth}
    tissue = subject.case.case.masks.get("tissue")
    if tissue is not None and set(TISSUES) <= set(segmenter.classes):
        references["map"] = masks_of(read_labels(tissue, subject.truth.grid, len(TISSUES)), TISSUES)
    compared = []
    for row in [Row(subject.setting, subject.name, subject.contrast, subject.apart, TRUTH, "truth", "", {}), *rows]:
        masks, figures = truth if row.method == TRUTH else segmenter.segment(volumes[row.method]), dict(row.figures)
        for name, reference in references.items():
            found = {kind: dice(masks[kind], reference[kind]) for kind in masks if kind in reference}
            figures |= {f"dice_{name}_{kind}": value for kind, value in found.items()}
            figures[f"dice_{name}_mean"] = mean(found.values())
        compared.append(replace(row, figures=figures))
    return compared


def with_shares(rows: Sequence[Row]) -> list[Row]:
    """Rows of one person, each with the share of the gap that it closes beside each Dice."""
    ends, found = {row.method: row.figures for row in rows}, []
    for row in rows:
        shares = {}
        for name in (name for name in row.figures if name.startswith("dice")):
            cubic, truth = (ends.get(end, {}).get(name, math.nan) for end in (CUBIC, TRUTH))
            shares[f"gap_share{name.removeprefix('dice')}"] = gap_share(row[name], cubic, truth)
        found.append(replace(row, figures={**row.figures, **shares}))
    return found


def _choose_cases(suite: Suite, segmenter: Segmenter, maps_only: bool, reporter: Reporter) -> list[SuiteCase]:
    """Those that the segmenter can be asked about; each that is left out is named."""
    cases = []
    for case in suite.cases:
        if segmenter.contrast and case.contrast not in (None, segmenter.contrast):
            why = f"it is no {segmenter.contrast.upper()} volume, which the segmenter was trained on"
        else:
            why = "it has no tissue map" if maps_only and "tissue" not in case.case.masks else ""
        if why:
            reporter.warning("left-out", f"{case.title} is left out: {why}")
            continue
        cases.append(case)
        if case.case.subject in segmenter.training_subjects:
            said = "the segmenter was trained on this person, so all Dice against the map flatter it"
            reporter.warning("known-subject", f"{case.title}: {said}")
    if not cases:
        msg = (
            f"{suite.name} has no volume to segment. Cases need a tissue map of their own grid in the datalist "
            '("masks": {"tissue": "S01_tissue.nii.gz"}, 1 CSF, 2 GM, 3 WM), or use --without-maps to compare with the '
            "segmenter's own result on the truth only"
        )
        raise RequestError(msg)
    return cases


# -- the report --------------------------------------------------------------------------------------------------------

_MEANING = (
    "Dice is twice the overlap over the sum of the sizes; the mean is over classes. Each volume is normalised and "
    "segmented by itself, whole, background included. The share says how much of the gap between cubic and truth a "
    "method closes: 0 % as cubic, 100 % as the truth, below 0 % worse than cubic. Its mean is taken from mean Dice. "
    "No significance is claimed from so few people."
)
_LIMITS = (
    "A segmenter that was trained on sharp scans is asked about restored ones; another segmenter may answer otherwise. "
    "Against its own result on the truth, errors that the segmenter always makes do not count."
)


def write_downstream(result: Benchmark, folder: Path) -> list[Path]:
    """`downstream.md`, `.html`, `.csv` and `.json`."""
    rows = [row.flat() for row in result.rows]
    return write_report(document(result), rows, content_of(result), folder, "downstream")


def document(result: Benchmark) -> Report:
    """The whole report."""
    sections = []
    for setting, description in result.settings.items():
        rows = [row for row in result.rows if row.setting == setting]
        here = [about for about in result.facts if about["setting"] == setting and about["best_classical"]]
        best = [f"{about['title']}: {about['best_classical']}" for about in here]
        said = [f"Best classical method by PSNR in the brain: {'; '.join(sorted(best))}."] if best else []
        known = [name for name in REFERENCES if any(f"dice_{name}_mean" in row.figures for row in rows)]
        sections.append(Section(f"{setting}: {description}", said, [_table(rows, name) for name in known]))
    apart = dict.fromkeys(f"{row.title}, {row.apart}" for row in result.rows if row.apart)
    kept_out = [f"Kept out of the means: {'; '.join(apart)}."] if apart else []
    return Report("What it does to a segmentation", result.caption, (_MEANING, _LIMITS, *kept_out), sections)


def _table(rows: Sequence[Row], reference: str) -> Table:
    """Methods by persons, then the means over persons."""
    start, methods = f"dice_{reference}_", by_label(rows)
    names = list(dict.fromkeys(f.removeprefix(start) for row in rows for f in row.figures if f.startswith(start)))
    means = {label: [mean(values_of(group, start + name)) for name in names] for label, group in methods.items()}
    others = [means[label] for label in by_label(row for row in rows if row.method != TRUTH)]
    best = [
        max((value for value in column if not math.isnan(value)), default=None) for column in zip(*others, strict=True)
    ]
    ends = [mean(values_of((row for row in rows if row.method == end), f"{start}mean")) for end in (CUBIC, TRUTH)]
    people = dict.fromkeys(row.title for row in rows)
    header = ["method"]
    for person in people:
        header += [f"{person}: mean Dice ({' / '.join(names[:-1])})", "gap closed"]
    header += [*(f"{name}, mean" for name in names[:-1]), "Dice, mean", "gap closed, mean"]
    lines = []
    for label, group in methods.items():
        line: list[Cell | str] = [label]
        own = {row.title: row for row in group}
        for row in (own.get(person) for person in people):
            if row is None:
                line += ["-", "-"]
                continue
            classes = " / ".join(number(row[start + name], ".3f").text for name in names[:-1])
            dices = Cell(f"{row[f'{start}mean']:.4f} ({classes})", row[f"{start}mean"])
            line += [dices, number(row[f"gap_share_{reference}_mean"], ".0%")]
        marked = zip(means[label], best or [None] * len(names), strict=True)
        line += [number(value, ".4f", best=value == top and group[0].method != TRUTH) for value, top in marked]
        lines.append([*line, number(gap_share(means[label][-1], *ends), ".0%")])
    return Table(f"Dice {REFERENCES[reference]}", header, lines)
