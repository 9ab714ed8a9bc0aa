"""One picture a case: three planes and a close-up, from the coarse scan to the truth, with errors and uncertainty.

Radiological view: the patient's right is on the left of axial and coronal slices, the nose on the left of sagittal
ones. All grey panels share one window, both error panels one scale. matplotlib is needed (extra `demo`) and imported
only here.
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
COLUMN_INCHES = 2.3
CAPTION_SIZE = 8.5  # points


@dataclass(frozen=True, eq=False)
class Panel:
    """A column: what it shows and what is said under its title.

    Attributes:
        data: `(I, J, K)`, scaled to the truth's [0, 1].
        judged: its error is shown in a column of its own.
    """

    title: str
    data: NDArray[np.float32]
    note: str = ""
    judged: bool = False


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a picture shows. All volumes lie on one grid in RAS+ order.

    Attributes:
        title: of the picture, such as subject and setting.
        caption: small print: data, model, operator, seed.
        spacing: mm along i, j, k.
        brain: bool `(I, J, K)`; where the slices and the close-up are chosen.
        panels: the grey columns before the truth; at least one is judged, and the first of these sets the scale of all
            errors and the place of the close-up.
        truth: the last grey column.
        uncertainty: `(I, J, K)` standard deviation, or None.
        close_up_axis: axis across the slice of the close-up.
        focus: bool `(I, J, K)`; slices and close-up show most of it, instead of the middle of the brain and the
            largest error. None = no such place.
    """

    title: str
    caption: str
    spacing: tuple[float, float, float]
    brain: NDArray[np.bool_]
    panels: Sequence[Panel]
    truth: Panel
    uncertainty: Panel | None = None
    close_up_axis: int = 2
    focus: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class _View:
    """A slice as it is drawn: the axis across it, its position, and the letters at its four sides."""

    name: str
    axis: int
    index: int
    left: str
    right: str
    top: str
    window: tuple[slice, slice] | None = None  # of the two axes in the slice, in voxels

    def of(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Rows from bottom to top, columns from left to right as seen: the first in-plane axis runs leftward."""
        picture = np.take(volume, self.index, axis=self.axis)
        if self.window is not None:
            picture = picture[self.window]
        return picture[::-1].T

    def size_mm(self, shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, float]:
        """Width and height of the slice."""
        across, up = (axis for axis in range(3) if axis != self.axis)
        counts = [shape[across], shape[up]]
        if self.window is not None:
            counts = [part.stop - part.start for part in self.window]
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

    columns = _columns(comparison)
    shape, spacing = comparison.truth.data.shape, comparison.spacing
    views = _views(comparison)
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
            image = _show(axes, view, panel.data, spacing, colours, limit)
            if number == 0:
                _letters(axes, view)
                if row == 0 or last:
                    _scale_bar(axes, 50.0 if row == 0 else 10.0)
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
    letters = int((wide - 2 * left) / (0.53 * CAPTION_SIZE / 72))  # a letter is about half as wide as high
    write(left, 0.12, "\n".join(textwrap.wrap(comparison.caption, letters)), CAPTION_SIZE, va="bottom")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, facecolor=PAPER)
    return path


def _columns(comparison: Comparison) -> list[tuple[Panel, str, float]]:
    """Panels with their colours and what is drawn brightest: grey ones, errors on one scale, uncertainty."""
    brain, truth = comparison.brain, comparison.truth
    errors = {panel.title: np.abs(panel.data - truth.data) for panel in comparison.panels if panel.judged}
    top = max(1e-6, float(np.percentile(next(iter(errors.values()))[brain], 99.0)))
    # Fat is brighter than any brain; let it saturate, so that the brain has contrast in whole heads too.
    white = min(1.05, 1.1 * float(np.percentile(truth.data[brain], 99.8)))
    columns = [(panel, "gray", white) for panel in (*comparison.panels, truth)]
    columns += [(Panel(f"|error| {title}", error), "magma", top) for title, error in errors.items()]
    if comparison.uncertainty is not None:
        spread = comparison.uncertainty
        columns.append((spread, "viridis", max(1e-6, float(np.percentile(spread.data[brain], 99.5)))))
    return columns


def _views(comparison: Comparison) -> list[_View]:
    """Axial, coronal, sagittal through the middle of the brain, then the close-up where the first judged panel errs
    most; through most of the focus where there is one. A single slice has one view."""
    focus = comparison.focus
    judged = next(panel for panel in comparison.panels if panel.judged)
    error = np.abs(judged.data - comparison.truth.data)
    place = _middle(comparison) if focus is None else [int(_layers(focus, axis).argmax()) for axis in range(3)]
    views = [
        _View("axial", 2, place[2], "R", "L", "A"),
        _View("coronal", 1, place[1], "R", "L", "S"),
        _View("sagittal", 0, place[0], "A", "P", "S"),
    ]
    thin = [axis for axis in range(3) if error.shape[axis] == 1]
    views = [view for view in views if not thin or view.axis in thin]
    near = next((view for view in views if view.axis == comparison.close_up_axis), views[0])
    across, up = (axis for axis in range(3) if axis != near.axis)
    sides = [max(8, round(CLOSE_UP_MM / comparison.spacing[axis])) for axis in (across, up)]
    inside = np.take(comparison.brain if focus is None else focus, near.index, axis=near.axis)
    energy = np.where(inside, np.take(error, near.index, axis=near.axis) ** 2, 0.0)
    sides = [min(side, size) for side, size in zip(sides, energy.shape, strict=True)]
    sums = np.lib.stride_tricks.sliding_window_view(energy, tuple(sides)).sum(axis=(2, 3))
    first, second = np.unravel_index(int(sums.argmax()), sums.shape)
    window = (slice(int(first), int(first) + sides[0]), slice(int(second), int(second) + sides[1]))
    return [*views, _View("close-up", near.axis, near.index, near.left, near.right, near.top, window)]


def _layers(mask: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    """Voxels of the mask in each slice across `axis`."""
    layers: NDArray[np.int64] = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    return layers


def _middle(comparison: Comparison) -> list[int]:
    """A voxel in the middle of the brain, beside the midline: there the sagittal slice shows gyri and not the falx."""
    middle = [int(np.median(np.flatnonzero(_layers(comparison.brain, axis)))) for axis in range(3)]
    middle[0] = min(middle[0] + round(8.0 / comparison.spacing[0]), comparison.brain.shape[0] - 1)
    return middle


def _show(axes: Axes, view: _View, volume: NDArray[Any], spacing: Sequence[float], colours: str, limit: float) -> Any:
    width, height = view.size_mm(volume.shape, spacing)
    image = axes.imshow(
        view.of(volume), cmap=colours, vmin=0.0, vmax=limit, origin="lower", extent=(0, width, 0, height),
        interpolation="nearest", aspect="equal",
    )  # fmt: skip
    axes.set_facecolor("black" if colours == "gray" else PAPER)
    axes.set_axis_off()
    return image


def _letters(axes: Axes, view: _View) -> None:
    """Orientation; a close-up has none."""
    if view.window is not None:
        return
    style: dict[str, Any] = {"color": MARK, "fontsize": 9, "transform": axes.transAxes, "path_effects": _outline()}
    axes.text(0.02, 0.5, view.left, ha="left", va="center", **style)
    axes.text(0.98, 0.5, view.right, ha="right", va="center", **style)
    axes.text(0.5, 0.99, view.top, ha="center", va="top", **style)


def _outline() -> list[Any]:
    """Keeps small print legible on bright tissue."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=2.0, foreground="black")]


def _frame(axes: Axes, close_up: _View, view: _View, shape: Sequence[int], spacing: Sequence[float]) -> None:
    """Where the close-up lies."""
    from matplotlib.patches import Rectangle

    assert close_up.window is not None
    across, up = (axis for axis in range(3) if axis != view.axis)
    horizontal, vertical = close_up.window
    corner = ((shape[across] - horizontal.stop) * spacing[across], vertical.start * spacing[up])
    size = close_up.size_mm(shape, spacing)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=MARK, linewidth=0.8))


def _scale_bar(axes: Axes, length_mm: float) -> None:
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    x, y = left + 0.04 * (right - left), low + 0.035 * (high - low)
    outline = _outline()
    axes.plot([x, x + length_mm], [y, y], color=INK, linewidth=2, solid_capstyle="butt", path_effects=outline)
    axes.text(
        x + length_mm / 2, y + 0.015 * (high - low), f"{length_mm:g} mm", color=INK, fontsize=8, ha="center",
        va="bottom", path_effects=outline,
    )  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
