"""Input and result side by side, in two linked views of their own."""

from __future__ import annotations

from typing import Any

import qt
import slicer

LAYOUT_ID = 5730  # any number that no other extension uses; Slicer's own end at 503
INPUT_VIEW = "ScoreFusionInput"
RESULT_VIEW = "ScoreFusionResult"
_VIEW_GROUP = 57  # linked with each other, not with Red, Green and Yellow
_VIEW = """<item splitSize="500"><view class="vtkMRMLSliceNode" singletontag="{tag}">
  <property name="orientation" action="default">Axial</property>
  <property name="viewlabel" action="default">{label}</property>
  <property name="viewcolor" action="default">{color}</property>
  <property name="viewgroup" action="default">{group}</property>
</view></item>"""


def layout_description() -> str:
    """Return the layout: the input on the left, the result on the right."""
    views = [
        _VIEW.format(tag=INPUT_VIEW, label="In", color="#6F8FAF", group=_VIEW_GROUP),
        _VIEW.format(tag=RESULT_VIEW, label="SF", color="#E0A030", group=_VIEW_GROUP),
    ]
    return f'<layout type="horizontal" split="true">{"".join(views)}</layout>'


def register_layout() -> None:
    """Make the layout known. At Slicer's start: a scene that was saved with it shows nothing where it is unknown."""
    manager = layout_manager()
    if manager is not None:
        # Slicer refuses a number that is known already, and nothing changes then.
        manager.layoutLogic().GetLayoutNode().AddLayoutDescription(LAYOUT_ID, layout_description())


def orientation_for(thick_axis_name: str | None) -> str:
    """Return the view in which thick slices are seen from the side, and with them what was gained."""
    return {"bottom-top": "Coronal", "back-front": "Sagittal", "left-right": "Axial"}.get(
        thick_axis_name or "", "Axial"
    )


class CompareView:
    """The two views, and what they show. Holds ids only, so that nodes may go at any time.

    Args:
        layout_manager: `slicer.app.layoutManager()`; None (no main window) makes every method do nothing.
    """

    def __init__(self, layout_manager: Any) -> None:
        self._manager = layout_manager
        self._layout_before: int | None = None

    @property
    def is_shown(self) -> bool:
        """True while the application shows this layout."""
        return self._manager is not None and self._manager.layout == LAYOUT_ID

    def show(self, input_node: Any, result_node: Any, orientation: str) -> None:
        """Show both volumes, the result opaque over the input in the right view."""
        if self._manager is None:
            return
        register_layout()  # a module that was loaded later has missed the start
        if not self.is_shown:
            self._layout_before = self._manager.layout
            self._manager.setLayout(LAYOUT_ID)
        for tag in (INPUT_VIEW, RESULT_VIEW):
            logic = self._manager.sliceWidget(tag).sliceLogic()
            composite = logic.GetSliceCompositeNode()
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
            composite.SetBackgroundVolumeID(input_node.GetID())
            composite.SetForegroundVolumeID(result_node.GetID() if tag == RESULT_VIEW else None)
            composite.SetForegroundOpacity(1.0 if tag == RESULT_VIEW else 0.0)
            logic.GetSliceNode().SetOrientation(orientation)
        qt.QTimer.singleShot(0, self._fit)

    def fade(self, share: float) -> None:
        """Blend the right view: 0 shows the input, 1 the result (or the map) alone."""
        composite = self._composite(RESULT_VIEW)
        if composite is not None:
            composite.SetForegroundOpacity(min(1.0, max(0.0, share)))

    def show_over(self, background: Any, foreground: Any, opacity: float) -> None:
        """Show `foreground` over `background` in the right view: a map over the result, the result over the input."""
        composite = self._composite(RESULT_VIEW)
        if composite is not None:
            composite.SetBackgroundVolumeID(background.GetID())
            composite.SetForegroundVolumeID(foreground.GetID())
            composite.SetForegroundOpacity(opacity)

    def leave(self) -> None:
        """Go back to the layout that was in use before."""
        if self.is_shown and self._layout_before is not None:
            self._manager.setLayout(self._layout_before)

    def _fit(self) -> None:
        """Let the volumes fill their views; from the event loop, where new views get their size."""
        if self.is_shown:
            for tag in (INPUT_VIEW, RESULT_VIEW):
                self._manager.sliceWidget(tag).sliceLogic().FitSliceToAll()

    def _composite(self, tag: str) -> Any | None:
        if not self.is_shown or self._manager.sliceWidget(tag) is None:
            return None
        return self._manager.sliceWidget(tag).sliceLogic().GetSliceCompositeNode()


def layout_manager() -> Any | None:
    """Return the application's layout manager, None without a main window."""
    application = getattr(slicer, "app", None)
    return application.layoutManager() if application is not None else None
