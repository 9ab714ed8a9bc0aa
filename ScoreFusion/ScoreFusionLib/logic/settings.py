"""The choices of the panel as enums. They are saved in scenes by member name: rename none of them."""

from __future__ import annotations

import enum

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.understanding import Understanding


class Preset(enum.Enum):
    """How much work goes into the result."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"

    def label(self) -> str:
        """Return the text of the menu."""
        return {Preset.FAST: _("Fast"), Preset.BALANCED: _("Balanced"), Preset.BEST: _("Best")}[self]


class Frames(enum.Enum):
    """What to do with a sequence."""

    CURRENT = "current"
    ALL = "all"

    def label(self) -> str:
        """Return the text of the menu."""
        return _("Current frame") if self is Frames.CURRENT else _("All frames")


class Contrast(enum.Enum):
    """What the first input shows."""

    AUTO = "auto"
    T1 = "t1"
    T1CE = "t1ce"
    T2 = "t2"
    FLAIR = "flair"
    PD = "pd"

    def label(self) -> str:
        """Return the text of the menu."""
        if self is Contrast.AUTO:
            return _("As read above")
        return {"t1ce": _("T1 with contrast agent")}.get(self.value, self.value.upper())


class ThickAxis(enum.Enum):
    """The direction across the thick slices, in the body."""

    AUTO = "auto"
    LEFT_RIGHT = "left-right"
    BACK_FRONT = "back-front"
    BOTTOM_TOP = "bottom-top"

    def label(self) -> str:
        """Return the text of the menu."""
        return {
            ThickAxis.AUTO: _("As read above"),
            ThickAxis.LEFT_RIGHT: _("Left to right (sagittal)"),
            ThickAxis.BACK_FRONT: _("Back to front (coronal)"),
            ThickAxis.BOTTOM_TOP: _("Bottom to top (axial)"),
        }[self]

    def voxel_axis(self, understanding: Understanding) -> int | None:
        """Return the voxel axis (0, 1, 2) of an input along this direction; None leaves it to the engine."""
        return None if self is ThickAxis.AUTO else understanding.axis_names.index(self.value)
