"""`slicer.app.layoutManager()`: real layout, view and slice nodes, real slice logics; views draw to memory."""

from __future__ import annotations

from typing import Any

import slicer

from slicer_host.app import Signals
from slicer_host.layout_picture import slice_rect, view_places
from slicer_host.views import SliceView

# isort: split
from PySide6 import QtCore

_CONVENTIONAL = 2  # vtkMRMLLayoutNode.SlicerLayoutConventionalView
_FOUR_UP = 3  # vtkMRMLLayoutNode.SlicerLayoutFourUpView


class Controller:
    """The bar above a view. Keeps what a module sets; the slice controller forwards to the logic."""

    def __init__(self, logic: Any = None) -> None:
        self._logic, self._visible = logic, True

    def setVisible(self, visible: bool) -> None:
        """Show or hide the bar."""
        self._visible = visible

    @property
    def visible(self) -> bool:
        """Tell whether the bar is shown."""
        return self._visible

    def fitSliceToBackground(self) -> None:
        """Fit the field of view to the background volume."""
        self._logic.FitSliceToBackground()

    def setSliceOffsetValue(self, offset: float) -> None:
        """Move the slice (mm)."""
        self._logic.SetSliceOffset(offset)

    def setSliceLink(self, linked: bool) -> None:
        """Link the slice views: what is set in one is set in all."""
        _set_on_all_composites("SetLinkedControl", linked)

    def setHotLinked(self, linked: bool) -> None:
        """Link the slice views also while the mouse drags."""
        _set_on_all_composites("SetHotLinkedControl", linked)


def _set_on_all_composites(method: str, value: bool) -> None:
    for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        getattr(node, method)(value)


class SliceWidget:
    """A slice view with its bar."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic
        self._view, self._controller = SliceView(logic), Controller(logic)

    def sliceLogic(self) -> Any:
        """Return the slice logic."""
        return self._logic

    def mrmlSliceNode(self) -> Any:
        """Return the slice node."""
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        """Return the node that names background, foreground and label volumes."""
        return self._logic.GetSliceCompositeNode()

    def sliceView(self) -> SliceView:
        """Return the view."""
        return self._view

    def sliceController(self) -> Controller:
        """Return the bar."""
        return self._controller

    def fitSliceToBackground(self) -> None:
        """Fit the field of view to the background volume."""
        self._logic.FitSliceToBackground()

    def setSliceOrientation(self, orientation: str) -> None:
        """Set the orientation by its preset name."""
        self.mrmlSliceNode().SetOrientation(orientation)

    @property
    def sliceOrientation(self) -> str:
        """Name of the orientation."""
        return self.mrmlSliceNode().GetOrientation()


class ThreeDView:
    """A 3D view that draws nothing and records what it was asked."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.requests: list[str] = []

    def mrmlViewNode(self) -> Any:
        """Return the view node."""
        return self._node

    def __getattr__(self, name: str) -> Any:
        if name not in ("resetFocalPoint", "resetCamera", "forceRender", "scheduleRender", "rotateToViewAxis"):
            raise AttributeError(name)
        return lambda *args: self.requests.append(name)


class ThreeDWidget:
    """A 3D view with its bar."""

    def __init__(self, node: Any) -> None:
        self._view, self._controller = ThreeDView(node), Controller()

    def mrmlViewNode(self) -> Any:
        """Return the view node."""
        return self._view.mrmlViewNode()

    def threeDView(self) -> ThreeDView:
        """Return the view."""
        return self._view

    def threeDController(self) -> Controller:
        """Return the bar."""
        return self._controller


class _Viewport(QtCore.QObject):
    """Stands for the widget that holds the views: Qt arranges its children when it comes to a posted request."""

    def __init__(self, arrange: Any) -> None:
        super().__init__()
        self._arrange = arrange

    def request_layout(self) -> None:
        """Ask to be arranged, as `QWidget.setLayout` does."""
        QtCore.QCoreApplication.postEvent(self, QtCore.QEvent(QtCore.QEvent.LayoutRequest))

    def event(self, event: QtCore.QEvent) -> bool:
        """Arrange the views."""
        if event.type() == QtCore.QEvent.LayoutRequest:
            self._arrange()
            return True
        return super().event(event)


class LayoutManager(Signals):
    """Arranges the views. The nodes of a layout's views are made when the layout is first shown, and stay.

    As in Slicer the views of a layout exist as soon as it is chosen, but get their size from the event loop; and
    `layoutChanged` comes with every modification of the layout node, also when the layout is the same.
    """

    tableViewCount = 0
    plotViewCount = 0

    def __init__(self, scene: Any, application_logic: Any) -> None:
        super().__init__("layoutChanged(int)", "activeThreeDRendererChanged(vtkRenderer*)")
        self._application_logic = application_logic
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(scene)
        self._scene = scene
        self._slice_widgets: dict[str, SliceWidget] = {}
        self._three_d_widgets: dict[str, ThreeDWidget] = {}
        self._description: str | None = None
        self._viewport = _Viewport(lambda: self.resize(*self.size))
        self.size = (900, 600)
        self._tag = self._logic.GetLayoutNode().AddObserver("ModifiedEvent", lambda *_args: self._update())
        self._scene_tags = [
            scene.AddObserver(event, lambda *_args: self._update())
            for event in (scene.EndBatchProcessEvent, scene.EndCloseEvent)
        ]
        self.setLayout(_FOUR_UP)
        self.resize(*self.size)

    def layoutLogic(self) -> Any:
        """Return the layout logic."""
        return self._logic

    @property
    def layout(self) -> int:
        """Number of the current layout."""
        return self._logic.GetLayoutNode().GetViewArrangement()

    @layout.setter
    def layout(self, layout: int) -> None:
        self.setLayout(layout)

    def setLayout(self, layout: int) -> None:
        """Show a layout, by its number; the conventional one stands in for a number that nobody registered."""
        node = self._logic.GetLayoutNode()
        if self.layout == layout:
            return
        node.SetViewArrangement(int(layout) if node.IsLayoutDescription(int(layout)) else _CONVENTIONAL)

    def visible_view_nodes(self) -> list[Any]:
        """Return the nodes of the views in the current layout; for the host."""
        nodes = self._logic.GetViewNodes()
        return [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())]

    def _update(self) -> None:
        if self._scene.IsBatchProcessing():
            return
        for node in self.visible_view_nodes():
            name = node.GetLayoutName()
            if node.IsA("vtkMRMLSliceNode") and name not in self._slice_widgets:
                self._slice_widgets[name] = SliceWidget(self._make_slice_logic(node))
            elif node.IsA("vtkMRMLViewNode") and name not in self._three_d_widgets:
                self._three_d_widgets[name] = ThreeDWidget(node)
        description = self._logic.GetLayoutNode().GetCurrentLayoutDescription()
        if description != self._description:
            self._description = description
            self._viewport.request_layout()
        self.emit("layoutChanged(int)", self.layout)

    def resize(self, width: int, height: int) -> None:
        """Set the size (pixels) of the area of all views; the slice views get their share, as by a resized window."""
        self.size = (width, height)
        for view, rect in view_places(self):
            widget = self.sliceWidget(view.get("singletontag", ""))
            if widget is not None and view.get("class") == "vtkMRMLSliceNode":
                below = slice_rect(widget, rect)
                widget.sliceLogic().ResizeSliceNode(below.width(), below.height())

    def _make_slice_logic(self, node: Any) -> Any:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._application_logic)
        self._application_logic.GetSliceLogics().AddItem(logic)
        logic.SetMRMLScene(self._scene)
        logic.SetSliceNode(node)
        if logic.GetSliceCompositeNode() is None:
            logic.SetSliceCompositeNode(logic.GetSliceCompositeNode(node))
        return logic

    def sliceViewNames(self) -> tuple[str, ...]:
        """Return the names of all slice views made so far."""
        return tuple(self._slice_widgets)

    def sliceWidget(self, name: str) -> SliceWidget | None:
        """Return a slice view by name."""
        return self._slice_widgets.get(name)

    def mrmlSliceLogics(self) -> Any:
        """Return the slice logics, a vtkCollection."""
        return self._application_logic.GetSliceLogics()

    @property
    def threeDViewCount(self) -> int:
        """Number of 3D views made so far."""
        return len(self._three_d_widgets)

    def threeDWidget(self, index: int | str) -> ThreeDWidget | None:
        """Return a 3D view by number or name."""
        if isinstance(index, str):
            return self._three_d_widgets.get(index)
        return list(self._three_d_widgets.values())[index] if 0 <= index < self.threeDViewCount else None

    def resetSliceViews(self) -> None:
        """Fit all slice views to their background."""
        for widget in self._slice_widgets.values():
            widget.sliceLogic().FitSliceToBackground()

    def resetThreeDViews(self) -> None:
        """Reset all 3D views."""
        for widget in self._three_d_widgets.values():
            widget.threeDView().resetFocalPoint()

    def setRenderPaused(self, paused: bool) -> None:
        """Do nothing: the host draws only when a picture is taken."""

    def close(self) -> None:
        """Let the logics go."""
        for widget in self._slice_widgets.values():
            widget.sliceView().close()
            widget.sliceLogic().SetMRMLScene(None)
        self._logic.GetLayoutNode().RemoveObserver(self._tag)
        for tag in self._scene_tags:
            self._scene.RemoveObserver(tag)
        self._logic.SetMRMLScene(None)
        self._slice_widgets.clear()
        self._three_d_widgets.clear()
