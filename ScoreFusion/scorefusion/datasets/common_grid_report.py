"""What a registration did, for programs and for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scorefusion.datasets.case import Case
from scorefusion.imaging.alignment import RADIUS, Alignment
from scorefusion.imaging.registration import Motion

#: What may become of a contrast.
REFERENCE, ALREADY_ALIGNED, REGISTERED, NOT_IMPROVED = "reference", "already aligned", "registered", "not improved"

_COLUMNS = (
    "contrast",
    "outcome",
    "moved R, A, S (mm)",
    "turned (degrees)",
    "mutual information",
    "gradient correlation",
    "best shift i, j, k",
)
_LEGEND = (
    f"Mutual information is normalised, 1 to 2. Shifts of up to {RADIUS} voxels were tried along each axis; a well "
    "aligned contrast has its peak at 0, 0, 0. Where the two measures differ both are given: mutual information / "
    "gradients."
)


@dataclass(frozen=True, eq=False)
class ContrastReport:
    """What became of one contrast.

    Attributes:
        contrast: its name.
        outcome: one of the four words above.
        file: where it is now.
        motion: what moved it; no motion if it was left.
        before: its alignment by the headers alone; None for the reference, and where they hardly overlap.
        after: of the file that is used now; None for the reference.
        seconds: spent on it.
    """

    contrast: str
    outcome: str
    file: Path
    motion: Motion = field(default_factory=Motion.none)
    before: Alignment | None = None
    after: Alignment | None = None
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "contrast": self.contrast,
            "outcome": self.outcome,
            "file": str(self.file),
            "translation_mm": self.motion.translation_mm,
            "rotation_degrees": self.motion.rotation_degrees,
            "reference_to_moving_ras": self.motion.matrix,
            "before": self.before.to_dict() if self.before else None,
            "after": self.after.to_dict() if self.after else None,
            "seconds": round(self.seconds, 1),
        }

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table, in the order of the columns above."""
        if self.after is None:
            return (self.contrast, self.outcome, "", "", "", "", "")
        moved = ", ".join(f"{value:+.2f}" for value in self.motion.translation_mm)
        nmi, gradient, shifts = f"{self.after.nmi:.4f}", f"{self.after.gradient:.3f}", shifts_in_words(self.after)
        if self.before is not None:
            nmi = f"{self.before.nmi:.4f} -> {nmi}"
            gradient = f"{self.before.gradient:.3f} -> {gradient}"
            shifts = f"{shifts_in_words(self.before)} -> {shifts}"
        return (self.contrast, self.outcome, moved, f"{self.motion.rotation_degrees:.2f}", nmi, gradient, shifts)


@dataclass(frozen=True, eq=False)
class RegistrationReport:
    """What became of a case.

    Attributes:
        case: as it is now.
        reference: the contrast that the others came to.
        grid: of the reference, in words.
        settings: how it was done, in words.
        contrasts: in the order of the case.
        warnings: what a person should look at.
    """

    case: Case
    reference: str
    grid: str
    settings: str
    contrasts: tuple[ContrastReport, ...]
    warnings: tuple[str, ...]

    def __getitem__(self, contrast: str) -> ContrastReport:
        return next(row for row in self.contrasts if row.contrast == contrast)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "case": self.case.case_id,
            "reference": self.reference,
            "grid": self.grid,
            "settings": self.settings,
            "aligned": self.case.aligned,
            "contrasts": [contrast.to_dict() for contrast in self.contrasts],
            "masks": {name: str(path) for name, path in self.case.masks.items()},
            "warnings": list(self.warnings),
        }

    def markdown(self) -> str:
        """For people."""
        lines = [f"# Registration of {self.case.case_id}", ""]
        lines += [f"{self.settings} Reference: {self.reference}, {self.grid}.", ""]
        lines += [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
        lines += [f"| {' | '.join(row.cells)} |" for row in self.contrasts]
        lines += ["", _LEGEND]
        for warning in self.warnings:
            lines += ["", f"**Warning:** {warning}"]
        return "\n".join(lines) + "\n"


def shifts_in_words(alignment: Alignment) -> str:
    """`"+1, 0, 0"`, or both measures' if they differ."""
    texts = []
    for shifts in (alignment.nmi_shift, alignment.gradient_shift):
        texts.append(", ".join(f"{shift:+d}" if shift else "0" for shift in shifts))
    return texts[0] if texts[0] == texts[1] else " / ".join(texts)
