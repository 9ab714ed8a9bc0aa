"""How results look: window and level, colours, legend."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util import numpy_support

_SAMPLE = 100_000  # voxels looked at for a percentile: enough for a window, too few to be felt
UNCERTAINTY_COLORS = "ScoreFusion uncertainty"
# Black, violet, red, orange, pale yellow: brightness grows all the way, so it reads in grey and for colour-blind eyes.
_ANCHORS = np.array(
    [
        (0.0, 0.0, 0.02),
        (0.26, 0.04, 0.41),
        (0.58, 0.15, 0.40),
        (0.87, 0.32, 0.23),
        (0.99, 0.65, 0.04),
        (0.99, 1.0, 0.64),
    ]
)
CHANGE_COLORS = "ScoreFusion change"
# Blue below, orange above, dark where nothing changed: the two sides differ for colour-blind eyes too.
_DIVERGING = np.array(
    [(0.55, 0.85, 1.0), (0.10, 0.45, 0.85), (0.02, 0.02, 0.03), (0.85, 0.40, 0.05), (1.0, 0.88, 0.55)]
)


def show_like(node: Any, image: vtk.vtkImageData, source: Any | None) -> None:
    """Give a result its display: grey, with the window and level of `source`, or such as its own values suggest.

    To be called before the node receives its voxels, or Slicer would count a histogram of all of them.
    """
    display = _display_node(node)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    shown = source.GetDisplayNode() if source is not None else None
    if shown is not None and shown.GetWindow() > 0:
        _set_window(display, shown.GetWindow(), shown.GetLevel())
        return
    low, high = percentiles(image, (0.5, 99.8))
    _set_window(display, max(high - low, 1e-6), (low + high) / 2.0)


def show_as_map(node: Any, image: vtk.vtkImageData, title: str, units: str) -> None:
    """Give an uncertainty or error map its colours and a legend, hidden until the map is shown in a view.

    Args:
        node: Scalar volume node without voxels yet.
        image: Its voxels, zero or above.
        title: Title of the legend.
        units: Written below the title; may be empty.
    """
    display = _display_node(node)
    display.SetAndObserveColorNodeID(uncertainty_colors(node.GetScene()).GetID())
    _low, high = percentiles(image, (0.0, 99.5))
    high = max(high, 1e-6)
    _set_window(display, high, high / 2.0)
    display.AutoThresholdOff()
    display.ApplyThresholdOn()  # outside the head, where the map is zero, the image below stays as it is
    display.SetThreshold(1e-6 * high, 1e30)
    add_legend(node, f"{title} ({units})" if units else title)


def show_as_change(node: Any, image: vtk.vtkImageData, title: str, units: str) -> None:
    """Give a map of differences its diverging colours, zero in the middle, and a legend.

    Args:
        node: Scalar volume node without voxels yet.
        image: Its voxels, of both signs.
        title: Title of the legend.
        units: Written below the title.
    """
    display = _display_node(node)
    display.SetAndObserveColorNodeID(_color_table(node.GetScene(), CHANGE_COLORS, _DIVERGING).GetID())
    largest = max(*(abs(value) for value in percentiles(image, (0.25, 99.75))), 1e-6)
    _set_window(display, 2.0 * largest, 0.0)
    add_legend(node, f"{title} ({units})")


def add_legend(node: Any, title: str = "") -> None:
    """Give a map its colour legend, shown in every view that shows the map; an older one is replaced.

    A view that is made later does not find a legend that is there already, hence `renew_legend`.
    """
    old = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
    if old is not None:
        title = title or old.GetTitleText()
        node.GetScene().RemoveNode(old)
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
    if legend is None:
        return
    legend.SetTitleText(title)
    legend.SetLabelFormat("%.3g")
    legend.SetNumberOfLabels(3)
    legend.SetMaxNumberOfColors(128)
    legend.SetPosition(0.97, 0.05)
    legend.SetSize(0.11, 0.35)
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        text.SetFontSize(12)
    legend.SetVisibility(True)


def renew_legend(node: Any) -> None:
    """Let views that were made after a map show its legend; nothing happens for a volume without one."""
    if slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node) is not None:
        add_legend(node)


def uncertainty_colors(scene: Any) -> Any:
    """Return the colour table of our maps, made at the first call and saved with the scene."""
    return _color_table(scene, UNCERTAINTY_COLORS, _ANCHORS)


def _color_table(scene: Any, name: str, anchors: NDArray[np.float64]) -> Any:
    """Return a colour table of the scene by name, made of (n, 3) anchors in [0, 1] if it is not there."""
    found = scene.GetFirstNodeByName(name)
    if found is not None and found.IsA("vtkMRMLColorTableNode"):
        return found
    table = scene.AddNewNodeByClass("vtkMRMLColorTableNode", name)
    table.SetTypeToUser()
    table.SetNumberOfColors(256)
    table.SetAttribute("Category", "ScoreFusion")
    steps = np.linspace(0.0, 1.0, 256)
    places = np.linspace(0.0, 1.0, len(anchors))
    channels = [np.interp(steps, places, anchors[:, channel]) for channel in range(3)]
    for index in range(256):
        table.SetColor(index, f"{index}", *(float(channel[index]) for channel in channels), 1.0)
    return table


def percentiles(image: vtk.vtkImageData, shares: tuple[float, float]) -> tuple[float, float]:
    """Return two percentiles of the voxels, from an even sample of them."""
    voxels: NDArray = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    low, high = np.percentile(voxels[:: max(1, voxels.size // _SAMPLE)], shares)
    return float(low), float(high)


def _display_node(node: Any) -> Any:
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    return node.GetDisplayNode()


def _set_window(display: Any, window: float, level: float) -> None:
    display.AutoWindowLevelOff()
    display.SetWindowLevel(window, level)
