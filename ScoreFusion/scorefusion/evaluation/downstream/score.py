"""What a restoration does to a segmentation: Dice of a segmenter on the truth, on the coarse scan and on each
restoration of it, and the share of the gap between cubic and truth that is closed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scorefusion.errors import RequestError
from scorefusion.evaluation.benchmark import MARGINS, Method, Subject, prepare
from scorefusion.evaluation.downstream.dice import dice, gap_share, mean
from scorefusion.evaluation.downstream.labels import TISSUES, masks_of, read_labels
from scorefusion.evaluation.downstream.segmenter import OVERLAP, Segmenter
from scorefusion.evaluation.meter import code_version, describe_machine
from scorefusion.evaluation.metrics import psnr
from scorefusion.evaluation.simulate import Setting
from scorefusion.evaluation.suites import Suite, SuiteCase
from scorefusion.progress import Reporter

Masks = dict[str, Tensor]

#: What a segmentation is compared with: the map that came with the data, and the segmenter's own result on the truth.
REFERENCES = ("map", "own")

#: Methods by key that always have a row, if they run: the coarse scan on the fine grid, and the lower end of the gap.
ALWAYS = ("nearest", "linear", "cubic")
TRUTH, CUBIC, BEST = "truth", "cubic", "best"


@dataclass(frozen=True)
class Row:
    """One method on one subject under one setting.

    Attributes:
        detail: which method "best classical" stands for.
        psnr_brain: dB, beside the segmentation; nan for the truth.
        scores: by reference, then by class: Dice. "map" is missing where there is no tissue map.
    """

    setting: str
    subject: str
    contrast: str | None
    apart: str | None
    method: str
    label: str
    detail: str
    psnr_brain: float
    scores: dict[str, dict[str, float]]

    @property
    def title(self) -> str:
        """Subject and contrast."""
        return f"{self.subject} {self.contrast.upper()}" if self.contrast else self.subject

    def dice(self, reference: str, name: str | None = None) -> float:
        """Of one class, or the mean of all; nan where there is no such reference."""
        scores = self.scores.get(reference, {})
        return mean(scores.values()) if name is None else scores.get(name, math.nan)


@dataclass
class Downstream:
    """All rows of a run, and what the caption must say."""

    caption: dict[str, str]
    settings: list[Setting]
    classes: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)

    @property
    def references(self) -> list[str]:
        """Those that any row was compared with."""
        return [name for name in REFERENCES if any(name in row.scores for row in self.rows)]

    def share(self, row: Row, reference: str, name: str | None = None) -> float:
        """Share of the gap between cubic and truth that this row closes, of the mean Dice or of one class's."""
        ends = {
            other.method: other.dice(reference, name)
            for other in self.rows
            if (other.setting, other.title) == (row.setting, row.title) and other.method in (CUBIC, TRUTH)
        }
        return gap_share(row.dice(reference, name), ends.get(CUBIC, math.nan), ends.get(TRUTH, math.nan))

    def mean_dice(self, setting: str, method: str, reference: str, name: str | None = None) -> float:
        """Over subjects that are not kept apart."""
        return mean(row.dice(reference, name) for row in self._counted(setting, method))

    def mean_share(self, setting: str, method: str, reference: str, name: str | None = None) -> float:
        """The gap and what is closed of it, both by the mean Dice of the subjects that are not kept apart."""
        value, cubic, truth = (self.mean_dice(setting, key, reference, name) for key in (method, CUBIC, TRUTH))
        return gap_share(value, cubic, truth)

    def flat(self) -> list[dict[str, Any]]:
        """For CSV."""
        names = ("setting", "subject", "contrast", "apart", "method", "label", "detail", "psnr_brain")
        lines = []
        for row in self.rows:
            line = {name: getattr(row, name) for name in names}
            for reference in REFERENCES:
                for name in (*self.classes, None):
                    suffix = f"{reference}_{name or 'mean'}"
                    line[f"dice_{suffix}"] = row.dice(reference, name)
                    line[f"gap_share_{suffix}"] = self.share(row, reference, name)
            lines.append(line)
        return lines

    def _counted(self, setting: str, method: str) -> list[Row]:
        return [row for row in self.rows if row.setting == setting and row.method == method and row.apart is None]


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
    reporter = reporter or Reporter()
    cases = _choose_cases(suite, segmenter, maps_only, reporter)
    result = Downstream(
        {
            "data": f"{suite.name} (split {suite.split}, SHA-256 {suite.data_hash})",
            **segmenter.notes,
            "windows": f"{' x '.join(map(str, segmenter.window))} voxels, {OVERLAP:.0%} overlap",
            "code": f"scorefusion {code_version()}",
            "machine": describe_machine(segmenter.device),
            "crop": f"each truth was cropped to its {crop} with {MARGINS[crop]} voxels of margin, then scanned",
            **(caption or {}),
        },
        list(settings),
        segmenter.classes,
    )
    total, done = len(settings) * len(cases) * (len(methods) + 1), 0
    for setting in settings:
        for case in cases:
            subject = prepare(case, setting, crop)
            scorer = _Scorer(subject, segmenter)
            result.rows.append(scorer.row(TRUTH, "truth", torch.from_numpy(subject.truth.data[0])))
            best: tuple[float, str, Tensor] | None = None
            for method in methods:
                reporter.progress(f"{setting.name} {case.title}", done, total)
                done += 1
                restored = method.restore(subject.scan, subject.truth).data.cpu().float()
                if method.family != "classical" or method.key in ALWAYS:
                    result.rows.append(scorer.row(method.key, method.label, restored))
                if method.family == "classical":
                    value = scorer.psnr(restored)
                    best = (value, method.label, restored) if best is None or value > best[0] else best
            if best is not None:
                place = 1 + max(number for number, row in enumerate(result.rows) if row.method in (*ALWAYS, TRUTH))
                row = scorer.row(BEST, "best classical method of each volume", best[2], best[1])
                result.rows.insert(place, row)
            done += 1
    return result


class _Scorer:
    """Segments volumes of one subject and compares them with its references."""

    def __init__(self, subject: Subject, segmenter: Segmenter) -> None:
        self.subject = subject
        self.segmenter = segmenter
        self.references = {"own": segmenter.segment(torch.from_numpy(subject.truth.data[0]))}
        tissue = _comparable_map(subject.case, segmenter)
        if tissue:
            labels = read_labels(subject.case.case.masks["tissue"], subject.truth.grid, len(TISSUES))
            self.references = {"map": masks_of(labels, TISSUES), **self.references}

    def psnr(self, data: Tensor) -> float:
        """In the brain, dB."""
        return psnr(self.subject.unit(data), self.subject.unit_truth, self.subject.brain.mask)

    def row(self, key: str, label: str, data: Tensor, detail: str = "") -> Row:
        """Segment `(I, J, K)` in scanner units and compare."""
        masks = self.references["own"] if key == TRUTH else self.segmenter.segment(data)
        case = self.subject.case
        return Row(
            self.subject.scan.setting.name,
            case.subject,
            case.contrast,
            case.apart,
            key,
            label,
            detail,
            math.nan if key == TRUTH else self.psnr(data),
            {name: _compare(masks, reference) for name, reference in self.references.items()},
        )


def _compare(masks: Masks, reference: Masks) -> dict[str, float]:
    return {name: dice(masks[name], reference[name]) for name in masks if name in reference}


def _comparable_map(case: SuiteCase, segmenter: Segmenter) -> bool:
    """Whether the case has a tissue map and the segmenter finds all of its classes."""
    return "tissue" in case.case.masks and set(TISSUES) <= set(segmenter.classes)


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
                reporter.warning(
                    "known-subject",
                    f"{case.title}: the segmenter was trained on this person, so all Dice against the map flatter it",
                )
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
