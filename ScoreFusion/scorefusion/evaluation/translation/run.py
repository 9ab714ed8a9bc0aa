"""One run, one table: every method translates every person of a suite and is scored in the same way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from scorefusion.errors import VolumeError
from scorefusion.evaluation.benchmark import values_of
from scorefusion.evaluation.lesions import LesionContrast, LesionScore, lesion_contrast, score_lesion
from scorefusion.evaluation.meter import Cost, Meter, code_version, describe_machine
from scorefusion.evaluation.metrics import linear_mmd, through_plane_ratio
from scorefusion.evaluation.slices import score_slices, scored_slices, slice_mmd
from scorefusion.evaluation.translation.direction import Direction
from scorefusion.evaluation.translation.methods import Translator
from scorefusion.evaluation.translation.pairs import Pair, read_pair
from scorefusion.evaluation.translation.suites import PairSuite
from scorefusion.progress import Reporter


@dataclass(frozen=True)
class PairScores:
    """All figures of one translation; the truth's robust range is [0, 1]."""

    psnr: float  # dB: mean of the slices', in the brain
    ssim: float  # 2D, likewise
    mae: float  # likewise
    mmd: float  # linear MMD of a set of one volume (the paper's): its summed squared error
    mmd_slices: float  # linear MMD with the volume's slices as the set
    through_plane: tuple[float, float, float]  # slice-to-slice change beside the truth's along i, j, k; nan for a slice


@dataclass(frozen=True)
class PairRow:
    """One method on one person."""

    subject: str
    apart: str | None
    method: str
    label: str
    family: str
    scores: PairScores
    cost: Cost
    lesion: LesionScore | None = None

    def flat(self) -> dict[str, Any]:
        """For CSV."""
        scores = asdict(self.scores)
        for axis, ratio in zip("ijk", scores.pop("through_plane"), strict=True):
            scores[f"through_plane_{axis}"] = ratio
        lesion = {f"lesion_{name.name}": getattr(self.lesion, name.name, None) for name in fields(LesionScore)}
        own = {key: getattr(self, key) for key in ("subject", "apart", "method", "label", "family")}
        return {**own, **scores, **asdict(self.cost), **lesion}


@dataclass(frozen=True)
class PairFacts:
    """What the report says about a person."""

    subject: str
    apart: str | None
    contrasts: tuple[str, ...]  # the sources', then the truth's
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axis: str  # letter of R A S; slices normal to it are scored
    why_axis: str
    slices: int
    brain: str
    brain_voxels: int
    intensity_range: tuple[float, float]  # of the truth, scanner units
    teachers: tuple[str, ...]  # persons that the baselines learned from
    models: tuple[str, ...]
    lesion: str | None = None
    lesion_voxels: int = 0
    lesion_truth: LesionContrast | None = None


@dataclass
class TranslationBenchmark:
    """All rows of a run, the facts about its persons, and what the caption must say."""

    direction: str
    caption: dict[str, str]
    facts: list[PairFacts] = field(default_factory=list)
    rows: list[PairRow] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """Who translates for one person."""

    methods: Sequence[Translator]
    teachers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


#: Called with each person, what the methods made by their keys, and their rows; for pictures.
Keep = Callable[[Pair, Mapping[str, Tensor], Sequence[PairRow]], None]


def run_translation(
    suite: PairSuite,
    direction: Direction,
    line_for: Callable[[Pair], Line],
    *,
    caption: Mapping[str, str] | None = None,
    device: torch.device | None = None,
    reporter: Reporter | None = None,
    keep: Keep | None = None,
) -> TranslationBenchmark:
    """Translate and score.

    Args:
        suite: the persons.
        direction: from which contrasts to which.
        line_for: the methods for a person. Most have the same for all; the folds of a leave-one-out run do not.
        caption: more facts for the caption (models, seed).
        device: where models run, for the caption.
        reporter: progress and cancellation.
        keep: receives each person's translations, which are forgotten otherwise.

    Returns:
        Rows in the order person, method.
    """
    reporter = reporter or Reporter()
    result = TranslationBenchmark(
        direction.title,
        {
            "direction": direction.title,
            "data": f"{suite.name} (split {suite.split}, cases: {len(suite.cases)}, "
            f"SHA-256 {suite.data_hash(direction)})",
            "code": f"scorefusion {code_version()}",
            "machine": describe_machine(device or "cpu"),
            **(caption or {}),
        },
    )
    for number, case in enumerate(suite.cases):
        reporter.progress(case.case_id, number, len(suite.cases))
        pair = read_pair(case, direction, suite.slice_axis)
        line = line_for(pair)
        result.facts.append(facts_of(pair, line))
        made: dict[str, Tensor] = {}
        rows = []
        for done, method in enumerate(line.methods):
            reporter.progress(case.case_id, number + done / len(line.methods), len(suite.cases))
            row, estimate = score(pair, method)
            rows.append(row)
            if keep is not None:
                made[method.key] = estimate
        result.rows += rows
        if keep is not None:
            keep(pair, made, rows)
    reporter.progress("scored", len(suite.cases), len(suite.cases))
    return result


def score(pair: Pair, method: Translator) -> tuple[PairRow, Tensor]:
    """Translate one person by one method; its figures, and the volume `(I, J, K)`."""
    with Meter(method.modules, method.device) as meter:
        estimate = method.translate(pair).cpu().float()
    truth, brain = pair.truth.float(), pair.brain.mask
    if estimate.shape != truth.shape or not bool(torch.isfinite(estimate).all()):
        msg = f"method {method.key} gave shape {tuple(estimate.shape)} or non-finite voxels for {pair.case.case_id}"
        raise VolumeError(msg)
    found = score_slices(estimate, truth, brain, pair.axis)
    scores = PairScores(
        found.psnr,
        found.ssim,
        found.mae,
        linear_mmd([estimate], [truth]),
        slice_mmd(estimate, truth, brain, pair.axis),
        (math.nan,) * 3 if pair.is_slice else through_plane_ratio(estimate, truth, brain),
    )
    lesion = None if pair.lesion is None else score_lesion(estimate, truth, pair.lesion, brain)
    name, apart = pair.case.case_id, pair.case.apart
    return PairRow(name, apart, method.key, method.label, method.family, scores, meter.cost, lesion), estimate


def facts_of(pair: Pair, line: Line) -> PairFacts:
    """A person without voxels."""
    lesion = pair.lesion
    return PairFacts(
        subject=pair.case.case_id,
        apart=pair.case.apart,
        contrasts=pair.contrasts,
        shape=pair.base.spatial_shape,
        spacing_mm=pair.base.spacing,
        axis="RAS"[pair.axis],
        why_axis=pair.why_axis,
        slices=len(scored_slices(pair.brain.mask, pair.axis)),
        brain=pair.brain.how,
        brain_voxels=int(pair.brain.mask.sum()),
        intensity_range=(pair.scale.low, pair.scale.high),
        teachers=line.teachers,
        models=line.models,
        lesion=None if lesion is None else lesion.kind,
        lesion_voxels=0 if lesion is None else int(lesion.inside.sum()),
        lesion_truth=None if lesion is None else lesion_contrast(pair.truth, lesion),
    )


@dataclass(frozen=True)
class PairGain:
    """A model's distance from the best baseline of each person, which may differ from person to person."""

    label: str
    psnr: dict[str, float]  # dB by subject, over the baseline of best PSNR
    ssim: dict[str, float]  # over the baseline of best SSIM
    better: int  # persons on whom SSIM is higher than any baseline's
    persons: int  # without those kept apart


def pair_gains(rows: Sequence[PairRow]) -> list[PairGain]:
    """For each model method, its gain over the best baseline of each person."""
    best: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row.family == "baseline":
            psnr, ssim = best.get(row.subject, (-math.inf, -math.inf))
            best[row.subject] = (max(psnr, row.scores.psnr), max(ssim, row.scores.ssim))
    gains = []
    for label in dict.fromkeys(row.label for row in rows if row.family == "model"):
        mine = [row for row in rows if row.label == label and row.subject in best]
        if not mine:
            continue
        counted = values_of(mine, lambda row: row.scores.ssim - best[row.subject][1])
        gains.append(
            PairGain(
                label,
                {row.subject: row.scores.psnr - best[row.subject][0] for row in mine},
                {row.subject: row.scores.ssim - best[row.subject][1] for row in mine},
                sum(gain > 0 for gain in counted),
                len(counted),
            )
        )
    return gains
