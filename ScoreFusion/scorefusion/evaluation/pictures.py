"""One picture a case: three planes and a close-up, from what was given to the truth, with errors and uncertainty.

Radiological view: the patient's right is on the left of axial and coronal slices, the nose on the left of sagittal
ones. All grey panels share one window, all error panels one scale. matplotlib is needed (extra `demo`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scorefusion.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

INK, FAINT, PAPER, MARK = "#e9edf2", "#8b95a3", "#0c0f14", "#ffb454"
CLOSE_UP_MM = 48.0
COLUMN_INCHES, CAPTION_POINTS = 2.3, 8.5


@dataclass(frozen=True, eq=False)
class Panel:
    """A column: `(I, J, K)` scaled to the truth's [0, 1], with what is said under its title. Where it is judged, its
    error has a column of its own."""

    title: str
    data: NDArray[np.float32]
    note: str = ""
    judged: bool = False


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a picture shows. All volumes lie on one grid in RAS+ order."""

    title: str
    caption: str  # small print: data, model, operator, seed
    spacing: tuple[float, float, float]  # mm along i, j, k
    brain: NDArray[np.bool_]  # (I, J, K); where the slices and the close-up are chosen
    panels: Sequence[Panel]  # before the truth; the first judged one sets the scale of errors and places the close-up
    truth: Panel
    uncertainty: Panel | None = None  # standard deviation
    close_up_axis: int = 2  # across the slice of the close-up
    focus: NDArray[np.bool_] | None = None  # slices and close-up show most of it, instead of the largest error


@dataclass(frozen=True)
class _View:
    """A slice as it is drawn: the axis across it, its position, and the letters at three of its sides."""

    name: str
    axis: int
    index: int
    letters: str  # left, right, top
    window: tuple[slice, slice] | None = None  # of the two axes in the slice, in voxels

    def of(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Rows from bottom to top, columns from left to right as seen: the first in-plane axis runs leftward."""
        picture = np.take(volume, self.index, axis=self.axis)
        return (picture if self.window is None else picture[self.window])[::-1].T

    def size_mm(self, shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, float]:
        """Width and height of the slice."""
        across, up = (axis for axis in range(3) if axis != self.axis)
        counts = [part.stop - part.start for part in self.window] if self.window else [shape[across], shape[up]]
        return counts[0] * spacing[across], counts[1] * spacing[up]


def draw_comparison(comparison: Comparison, path: Path, *, dpi: int = 150) -> Path:
    """Draw and save a PNG.

    Raises:
        RequestError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        msg = "pictures need matplotlib; get it with: pip install 'scorefusion[demo]'"
        raise RequestError(msg) from error

    columns, views = _columns(comparison), _views(comparison)
    shape, spacing = comparison.truth.data.shape, comparison.spacing
    # All in inches; slices keep their true proportions, the close-up fills its column.
    sizes = [view.size_mm(shape, spacing) for view in views]
    inch_per_mm = COLUMN_INCHES / max(w for w, _ in sizes[:-1])
    heights = [h * inch_per_mm for _, h in sizes[:-1]] + [COLUMN_INCHES * sizes[-1][1] / sizes[-1][0]]
    gap, left, top, bottom = 0.07, 0.45, 1.22, 1.05
    wide = left + len(columns) * (COLUMN_INCHES + gap) + 0.15
    high = top + sum(heights) + gap * (len(views) - 1) + bottom
    figure = Figure(figsize=(wide, high))

    def write(x: float, y: float, text: str, size: float, **style: Any) -> None:
        figure.text(x / wide, y / high, text, fontsize=size, **{"color": FAINT, **style})

    def place(x: float, y: float, width: float, height: float) -> Axes:
        return figure.add_axes((x / wide, y / high, width / wide, height / high))

    write(left, high - 0.22, comparison.title, 17, color=INK, fontweight="bold", va="top")
    y = high - top
    for row, (view, height) in enumerate(zip(views, heights, strict=True)):
        y -= height
        last = row == len(views) - 1
        write(0.24, y + height / 2, view.name, 11, rotation=90, ha="center", va="center")
        for number, (panel, colours, limit) in enumerate(columns):
            x = left + number * (COLUMN_INCHES + gap)
            axes = place(x, y, COLUMN_INCHES, height)
            width_mm, height_mm = sizes[row]
            image = axes.imshow(
                view.of(panel.data), cmap=colours, vmin=0.0, vmax=limit, origin="lower",
                extent=(0, width_mm, 0, height_mm), interpolation="nearest", aspect="equal",
            )  # fmt: skip
            axes.set_axis_off()
            if number == 0:
                _marks(axes, view, 50.0 if row == 0 else 10.0 if last else 0.0)
            if view.axis == comparison.close_up_axis and view.window is None:
                _frame(axes, views[-1], view, shape, spacing)
            if row == 0:
                middle = x + COLUMN_INCHES / 2
                write(middle, y + height + 0.3, panel.title, 12, color=INK, ha="center", va="bottom")
                write(middle, y + height + 0.1, panel.note, 9.5, ha="center", va="bottom")
            if last and colours != "gray":
                bar = place(x + 0.12 * COLUMN_INCHES, bottom - 0.26, 0.76 * COLUMN_INCHES, 0.08)
                figure.colorbar(image, cax=bar, orientation="horizontal").outline.set_visible(False)
                bar.tick_params(colors=FAINT, labelsize=8, length=0, pad=2)
                bar.locator_params(axis="x", nbins=4)
                bar.set_xlabel("of the truth's range", color=FAINT, fontsize=8, labelpad=1)
        y -= gap
    letters = int((wide - 2 * left) / (0.53 * CAPTION_POINTS / 72))  # a letter is about half as wide as high
    write(left, 0.12, "\n".join(textwrap.wrap(comparison.caption, letters)), CAPTION_POINTS, va="bottom")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, facecolor=PAPER)
    return path


def _columns(comparison: Comparison) -> list[tuple[Panel, str, float]]:
    """Panels with their colours and what is drawn brightest: grey ones, errors on one scale, uncertainty."""
    brain, truth, unsure = comparison.brain, comparison.truth, comparison.uncertainty
    errors = {panel.title: np.abs(panel.data - truth.data) for panel in comparison.panels if panel.judged}
    top = max(1e-6, float(np.percentile(next(iter(errors.values()))[brain], 99.0)))
    # Fat is brighter than any brain; let it saturate, so that the brain has contrast in whole heads too.
    white = min(1.05, 1.1 * float(np.percentile(truth.data[brain], 99.8)))
    columns = [(panel, "gray", white) for panel in (*comparison.panels, truth)]
    columns += [(Panel(f"|error| {title}", error), "magma", top) for title, error in errors.items()]
    if unsure is not None:
        columns.append((unsure, "viridis", max(1e-6, float(np.percentile(unsure.data[brain], 99.5)))))
    return columns


def _views(comparison: Comparison) -> list[_View]:
    """Axial, coronal, sagittal through the middle of the brain, then the close-up where the first judged panel errs
    most; through most of the focus where there is one. A single slice has one view."""
    focus, brain, spacing = comparison.focus, comparison.brain, comparison.spacing
    judged = next(panel for panel in comparison.panels if panel.judged)
    error = np.abs(judged.data - comparison.truth.data)
    counts = [(brain if focus is None else focus).sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    if focus is not None:
        place = [int(layers.argmax()) for layers in counts]
    else:  # beside the midline: there the sagittal slice shows gyri and not the falx
        place = [int(np.median(np.flatnonzero(layers))) for layers in counts]
        place[0] = min(place[0] + round(8.0 / spacing[0]), brain.shape[0] - 1)
    planes = [("axial", 2, "RLA"), ("coronal", 1, "RLS"), ("sagittal", 0, "APS")]
    views = [_View(name, axis, place[axis], letters) for name, axis, letters in planes]
    thin = [axis for axis in range(3) if error.shape[axis] == 1]
    views = [view for view in views if not thin or view.axis in thin]
    near = next((view for view in views if view.axis == comparison.close_up_axis), views[0])
    inside = np.take(brain if focus is None else focus, near.index, axis=near.axis)
    energy = np.where(inside, np.take(error, near.index, axis=near.axis) ** 2, 0.0)
    wanted = [max(8, round(CLOSE_UP_MM / spacing[axis])) for axis in range(3) if axis != near.axis]
    sides = tuple(min(side, size) for side, size in zip(wanted, energy.shape, strict=True))
    sums = np.lib.stride_tricks.sliding_window_view(energy, sides).sum(axis=(2, 3))
    first, second = (int(n) for n in np.unravel_index(int(sums.argmax()), sums.shape))
    window = (slice(first, first + sides[0]), slice(second, second + sides[1]))
    return [*views, _View("close-up", near.axis, near.index, near.letters, window)]


def _marks(axes: Axes, view: _View, length_mm: float) -> None:
    """Orientation (not in a close-up) and a scale bar (0 = none), on the first column, outlined to be legible."""
    from matplotlib import patheffects

    outline = [patheffects.withStroke(linewidth=2.0, foreground="black")]
    if view.window is None:
        style: dict[str, Any] = {"color": MARK, "fontsize": 9, "transform": axes.transAxes, "path_effects": outline}
        axes.text(0.02, 0.5, view.letters[0], ha="left", va="center", **style)
        axes.text(0.98, 0.5, view.letters[1], ha="right", va="center", **style)
        axes.text(0.5, 0.99, view.letters[2], ha="center", va="top", **style)
    if length_mm:
        (low_x, high_x), (low_y, high_y) = axes.get_xlim(), axes.get_ylim()
        x, y = low_x + 0.04 * (high_x - low_x), low_y + 0.035 * (high_y - low_y)
        axes.plot([x, x + length_mm], [y, y], color=INK, linewidth=2, solid_capstyle="butt", path_effects=outline)
        middle, above, said = x + length_mm / 2, y + 0.015 * (high_y - low_y), f"{length_mm:g} mm"
        axes.text(middle, above, said, color=INK, fontsize=8, ha="center", va="bottom", path_effects=outline)
        axes.set(xlim=(low_x, high_x), ylim=(low_y, high_y))


def _frame(axes: Axes, close_up: _View, view: _View, shape: Sequence[int], spacing: Sequence[float]) -> None:
    """Where the close-up lies."""
    from matplotlib.patches import Rectangle

    assert close_up.window is not None
    across, up = (axis for axis in range(3) if axis != view.axis)
    horizontal, vertical = close_up.window
    corner = ((shape[across] - horizontal.stop) * spacing[across], vertical.start * spacing[up])
    axes.add_patch(Rectangle(corner, *close_up.size_mm(shape, spacing), fill=False, edgecolor=MARK, linewidth=0.8))
