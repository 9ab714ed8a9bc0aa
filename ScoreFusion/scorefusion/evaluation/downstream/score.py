"""What a restoration does to a segmentation: Dice of a segmenter on the truth, on the coarse scan and on each
restoration of it, and the share of the gap between cubic and truth that is closed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefusion.errors import RequestError
from scorefusion.evaluation.benchmark import MARGINS, Subject, prepare
from scorefusion.evaluation.downstream.labels import TISSUES, masks_of, read_labels
from scorefusion.evaluation.downstream.segmenter import OVERLAP, Segmenter
from scorefusion.evaluation.meter import code_version, describe_machine
from scorefusion.evaluation.metrics import psnr
from scorefusion.evaluation.report import Cell, Report, Section, Table, content_of, number, write_report
from scorefusion.evaluation.rows import Benchmark, Method, Row, mean
from scorefusion.evaluation.simulate import Setting
from scorefusion.evaluation.suites import Suite, SuiteCase
from scorefusion.progress import Reporter

#: What a segmentation is compared with: the map that came with the data, and the segmenter's own result on the truth.
REFERENCES = {
    "map": "against the tissue map that came with the data",
    "own": "against the segmenter's own result on the truth",
}

#: Methods by key that always have a row, if they run: the coarse scan on the fine grid, and the lower end of the gap.
ALWAYS = ("nearest", "linear", "cubic")
TRUTH, CUBIC, BEST = "truth", "cubic", "best"

#: A gap between cubic and truth below this is no gap: a share of it would be noise.
SMALLEST_GAP = 0.005


def dice(found: Tensor, reference: Tensor) -> float:
    """Twice the overlap of two bool masks over the sum of their sizes, 0 to 1; nan where both are empty."""
    if found.shape != reference.shape:
        msg = f"found {tuple(found.shape)} must match reference {tuple(reference.shape)}"
        raise ValueError(msg)
    sizes = int(found.sum()) + int(reference.sum())
    return 2.0 * int((found & reference).sum()) / sizes if sizes else math.nan


def gap_share(value: float, cubic: float, truth: float) -> float:
    """Share of the gap between cubic and truth that is closed: 0 as cubic, 1 as the truth, below 0 worse than cubic.

    nan where there is no gap to close (`SMALLEST_GAP`).
    """
    gap = truth - cubic
    return (value - cubic) / gap if gap >= SMALLEST_GAP else math.nan


@dataclass
class Downstream(Benchmark):
    """Rows with Dice by reference and class (`dice_map_GM`) and over classes (`dice_map_mean`)."""

    classes: tuple[str, ...] = ()
    best: dict[tuple[str, str], str] = field(default_factory=dict)  # classical method, by setting and person

    @property
    def references(self) -> list[str]:
        """Those that any row was compared with."""
        return [name for name in REFERENCES if any(f"dice_{name}_mean" in row.figures for row in self.rows)]

    def share(self, row: Row, figure: str) -> float:
        """Share of the gap between cubic and truth that a row closes."""
        same = [other for other in self.rows if (other.setting, other.title) == (row.setting, row.title)]
        ends = {other.method: other[figure] for other in same}
        return gap_share(row[figure], ends.get(CUBIC, math.nan), ends.get(TRUTH, math.nan))

    def mean_dice(self, setting: str, method: str, figure: str) -> float:
        """Over subjects that are not kept apart."""
        rows = (row for row in self.rows if (row.setting, row.method) == (setting, method))
        return mean(row[figure] for row in rows if row.apart is None)

    def mean_share(self, setting: str, method: str, figure: str) -> float:
        """The gap and what is closed of it, both by the mean Dice of the subjects that are not kept apart."""
        value, cubic, truth = (self.mean_dice(setting, key, figure) for key in (method, CUBIC, TRUTH))
        return gap_share(value, cubic, truth)

    @property
    def labels(self) -> dict[str, str]:
        """Label by method, in the order of the run."""
        return {row.method: row.label for row in self.rows}

    def flat(self) -> list[dict[str, Any]]:
        """For CSV and JSON."""
        lines = []
        for row in self.rows:
            shares = {f"gap_share{f.removeprefix('dice')}": self.share(row, f) for f in row.figures if "dice" in f}
            detail = self.best.get((row.setting, row.title), "") if row.method == BEST else ""
            lines.append({**row.flat(), "detail": detail, **shares})
        return lines


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
) -> Downstream:
    """Segment the truth and every restoration of its simulated coarse scan, and compare.

    Args:
        suite: the truths; those with a tissue map under `masks` are compared with it.
        settings: how the scans are made coarse.
        methods: restorations; of the classical ones, `ALWAYS` have rows, and the best of all by PSNR in the brain.
        segmenter: sees each volume by itself, as it would in practice.
        caption: more facts for the caption.
        reporter: progress and cancellation.
        crop: see `benchmark.prepare`.
        maps_only: leave cases without a tissue map out; else they count for reference "own".
    """
    if crop not in MARGINS:
        msg = f"--crop is {crop!r}; choose one of {', '.join(MARGINS)}"
        raise RequestError(msg)
    reporter = reporter or Reporter()
    cases = _choose_cases(suite, segmenter, maps_only, reporter)
    facts = {
        "data": f"{suite.name} (split {suite.split}, SHA-256 {suite.data_hash})",
        **segmenter.notes,
        "windows": f"{' x '.join(map(str, segmenter.window))} voxels, {OVERLAP:.0%} overlap",
        "code": f"scorefusion {code_version()}",
        "machine": describe_machine(segmenter.device),
        "crop": f"each truth was cropped to its {crop} with {MARGINS[crop]} voxels of margin, then scanned",
        **(caption or {}),
    }
    result = Downstream(facts, {s.name: s.description for s in settings}, classes=segmenter.classes)
    total, done = len(settings) * len(cases) * len(methods), 0
    for setting in settings:
        for case in cases:
            subject = prepare(case, setting, crop)
            scorer = _Scorer(subject, segmenter)
            rows = [scorer.row(TRUTH, "truth", torch.from_numpy(subject.truth.data[0]))]
            rest: list[Row] = []
            best: tuple[float, str, Tensor] | None = None
            for method in methods:
                reporter.progress(f"{setting.name} {case.title}", done, total)
                done += 1
                restored = method.make(subject).data.cpu().float()
                classical = method.family == "classical"
                if not classical or method.key in ALWAYS:
                    (rows if classical else rest).append(scorer.row(method.key, method.label, restored))
                if classical:
                    value = scorer.psnr(restored)
                    best = (value, method.label, restored) if best is None or value > best[0] else best
            if best is not None:
                rows.append(scorer.row(BEST, "best classical method of each volume", best[2]))
                result.best[setting.name, case.title] = best[1]
            result.rows += [*rows, *rest]
    return result


class _Scorer:
    """Segments volumes of one subject and compares them with its references."""

    def __init__(self, subject: Subject, segmenter: Segmenter) -> None:
        self.subject, self.segmenter = subject, segmenter
        self.references = {"own": segmenter.segment(torch.from_numpy(subject.truth.data[0]))}
        tissue = subject.case.case.masks.get("tissue")
        if tissue is not None and set(TISSUES) <= set(segmenter.classes):
            labels = read_labels(tissue, subject.truth.grid, len(TISSUES))
            self.references = {"map": masks_of(labels, TISSUES), **self.references}

    def psnr(self, data: Tensor) -> float:
        """In the brain, dB."""
        return psnr(self.subject.unit(data), self.subject.unit_truth, self.subject.brain.mask)

    def row(self, key: str, label: str, data: Tensor) -> Row:
        """Segment `(I, J, K)` in scanner units and compare."""
        masks = self.references["own"] if key == TRUTH else self.segmenter.segment(data)
        figures = {} if key == TRUTH else {"psnr_brain": self.psnr(data)}
        for name, reference in self.references.items():
            found = {kind: dice(masks[kind], reference[kind]) for kind in masks if kind in reference}
            figures |= {f"dice_{name}_{kind}": value for kind, value in found.items()}
            figures[f"dice_{name}_mean"] = mean(found.values())
        s = self.subject
        return Row(s.setting, s.name, s.contrast, s.apart, key, label, "", figures)


def _choose_cases(suite: Suite, segmenter: Segmenter, maps_only: bool, reporter: Reporter) -> list[SuiteCase]:
    """Those that the segmenter can be asked about; each that is left out is named."""
    cases = []
    for case in suite.cases:
        if segmenter.contrast and case.contrast not in (None, segmenter.contrast):
            why = f"it is no {segmenter.contrast.upper()} volume, which the segmenter was trained on"
        elif maps_only and "tissue" not in case.case.masks:
            why = "it has no tissue map"
        else:
            cases.append(case)
            if case.case.subject in segmenter.training_subjects:
                said = "the segmenter was trained on this person, so all Dice against the map flatter it"
                reporter.warning("known-subject", f"{case.title}: {said}")
            continue
        reporter.warning("left-out", f"{case.title} is left out: {why}")
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


def write_downstream(result: Downstream, folder: Path) -> list[Path]:
    """`downstream.md`, `.html`, `.csv` and `.json`."""
    means = [
        {
            "setting": setting,
            "method": method,
            "reference": reference,
            "dice": result.mean_dice(setting, method, f"dice_{reference}_mean"),
            "gap_share": result.mean_share(setting, method, f"dice_{reference}_mean"),
        }
        for setting in result.settings
        for method in result.labels
        for reference in result.references
    ]
    rows = result.flat()
    content = {**content_of(result), "classes": result.classes, "rows": rows, "means": means}
    return write_report(document(result), rows, content, folder, "downstream")


def document(result: Downstream) -> Report:
    """The whole report."""
    sections = []
    for setting, description in result.settings.items():
        best = sorted(f"{title}: {label}" for (where, title), label in result.best.items() if where == setting)
        said = [f"Best classical method by PSNR in the brain: {'; '.join(best)}."] if best else []
        tables = [_table(result, setting, reference) for reference in result.references]
        sections.append(Section(f"{setting}: {description}", said, tables))
    apart = dict.fromkeys(f"{row.title}, {row.apart}" for row in result.rows if row.apart)
    kept_out = [f"Kept out of the means: {'; '.join(apart)}."] if apart else []
    return Report("What it does to a segmentation", result.caption, (_MEANING, _LIMITS, *kept_out), sections)


def sentences(result: Downstream) -> list[str]:
    """One line for each restoration and reference, for the terminal: how much of the gap it closes."""
    return [
        f"{setting}: {label}: closes {number(share, '.0%').text} of the gap in mean Dice {REFERENCES[reference]}"
        for setting in result.settings
        for method, label in result.labels.items()
        for reference in result.references
        if method not in (TRUTH, CUBIC)
        for share in [result.mean_share(setting, method, f"dice_{reference}_mean")]
    ]


def _table(result: Downstream, setting: str, reference: str) -> Table:
    """Methods by subjects, then the means over subjects."""
    rows = [row for row in result.rows if row.setting == setting]
    people = list(dict.fromkeys(row.title for row in rows))
    whole = f"dice_{reference}_mean"
    figures = [*(f"dice_{reference}_{name}" for name in result.classes), whole]
    header = ["method"]
    for person in people:
        header += [f"{person}: mean Dice ({' / '.join(result.classes)})", "gap closed"]
    header += [*(f"{name}, mean" for name in result.classes), "Dice, mean", "gap closed, mean"]
    means = {method: [result.mean_dice(setting, method, figure) for figure in figures] for method in result.labels}
    others = zip(*(values for method, values in means.items() if method != TRUTH), strict=True)
    best = [max((value for value in column if not math.isnan(value)), default=math.nan) for column in others]
    lines = []
    for method, label in result.labels.items():
        mine = {row.title: row for row in rows if row.method == method}
        line: list[Cell | str] = [label]
        for person in people:
            row = mine.get(person)
            if row is None:
                line += ["-", "-"]
                continue
            classes = " / ".join(number(row[figure], ".3f").text for figure in figures[:-1])
            line += [Cell(f"{row[whole]:.4f} ({classes})", row[whole]), number(result.share(row, whole), ".0%")]
        for value, top in zip(means[method], best or [math.nan] * len(figures), strict=True):
            line.append(number(value, ".4f", best=value == top and method != TRUTH))
        lines.append([*line, number(result.mean_share(setting, method, whole), ".0%")])
    return Table(f"Dice {REFERENCES[reference]}", header, lines)
