"""The table about lesions, for super-resolution and for translation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from scorefusion.evaluation.document import Cell, Section, describe_range, number, table
from scorefusion.evaluation.lesions import RING, LesionContrast, LesionScore

HOW = (
    f"A lesion's contrast is its mean minus the mean of the ring around it ({RING[0]:g} to {RING[1]:g} voxels away, "
    "inside the brain, without fluid where T1w or FLAIR shows it as the darkest of three classes), in units of the "
    "truth's range; its contrast-to-noise ratio (CNR) is the same over the standard deviation in that image's ring. "
    "All lesions of a mask count as one. 100 % kept is as in the truth, 0 % is gone, "
    "below 0 % is turned round. A smooth image has a smooth ring, and so a high CNR: read the contrast beside it."
)


class LesionRow(Protocol):
    """What a row must have."""

    @property
    def label(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def apart(self) -> str | None: ...
    @property
    def lesion(self) -> LesionScore | None: ...


class LesionFacts(Protocol):
    """What is known of a subject."""

    @property
    def lesion(self) -> str | None: ...
    @property
    def lesion_voxels(self) -> int: ...
    @property
    def lesion_truth(self) -> LesionContrast | None: ...


Row = TypeVar("Row", bound=LesionRow)
Facts = TypeVar("Facts", bound=LesionFacts)


def lesion_section(
    rows: Sequence[Row], facts: Sequence[Facts], name: Callable[[Row | Facts], str], title: str
) -> Section | None:
    """Every method's lesions beside the truth's; None where no case has a mask.

    Args:
        rows, facts: of one setting.
        name: of the subject that a row or the facts are about.
        title: of the section.
    """
    lines: list[list[Cell | str]] = []
    for about in facts:
        if about.lesion_truth is None:
            continue
        truth = about.lesion_truth
        heading = f"{name(about)} ({about.lesion}, {about.lesion_voxels} voxels)"
        lines.append([f"{heading}: truth", number(truth.contrast, "+.3f"), "", number(truth.cnr, "+.2f"), "", "", ""])
        for row in rows:
            if name(row) == name(about) and row.lesion is not None:
                lines.append([f"{name(row)}: {row.label}", *_cells(row.lesion)])
    if not lines:
        return None
    header = [
        "volume: image", "contrast (of the range)", "contrast kept", "CNR", "CNR, relative error",
        "MAE in the lesion", "MAE in the rest of the brain",
    ]  # fmt: skip
    return Section(title, (HOW, *statements(rows)), (table("Lesions", header, lines),))


def statements(rows: Sequence[Row]) -> list[str]:
    """One sentence a model method: how much of the lesions' contrast is left, over subjects."""
    kept: dict[str, list[float]] = {}
    for row in rows:
        if row.family == "model" and row.apart is None and row.lesion is not None:
            kept.setdefault(row.label, []).append(1.0 + row.lesion.contrast_error)
    sentences = []
    for label, values in kept.items():
        known = [value for value in values if not math.isnan(value)]
        if known:
            share = describe_range(known, lambda value: f"{value:.0%}")
            how = "keeps" if sum(known) >= 0 else "turns the contrast of lesions round:"
            persons = f"{len(known)} {'person' if len(known) == 1 else 'persons'}"
            sentences.append(f"{label} {how} {share} of the lesions' contrast in the truth ({persons}).")
    return sentences


def _cells(score: LesionScore) -> list[Cell]:
    return [
        number(score.contrast, "+.3f"),
        number(1.0 + score.contrast_error, ".0%"),
        number(score.cnr, "+.2f"),
        number(score.cnr_error, "+.0%"),
        number(score.mae, ".4f"),
        number(score.mae_elsewhere, ".4f"),
    ]
