"""Slice views: a real slice logic, drawn by VTK into memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from slicer_host import pythonqt  # noqa: F401  before PySide6

# isort: split
from PySide6 import QtGui

_MANAGERS = ("Crosshair", "Ruler", "OrientationMarker", "Markups", "ColorLegend")


class SliceView:
    """One slice view. The render window is made when the first picture is taken."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic
        self._window: Any = None
        self._renderer: Any = None
        self._managers: Any = None
        self._image_mapper = vtk.vtkImageMapper()
        self._corner_annotation = vtk.vtkCornerAnnotation()
        self._corner_annotation.GetTextProperty().SetColor(1.0, 1.0, 0.6)
        self._corner_annotation.SetMaximumFontSize(14)
        self._corner_annotation.SetMinimumFontSize(8)

    def mrmlSliceNode(self) -> Any:
        """Return the slice node."""
        return self._logic.GetSliceNode()

    def cornerAnnotation(self) -> Any:
        """Return the texts in the corners, a vtkCornerAnnotation."""
        return self._corner_annotation

    def renderWindow(self) -> Any:
        """Return the render window."""
        self._make_window()
        return self._window

    def forceRender(self) -> None:
        """Do nothing: a picture is always drawn afresh."""

    scheduleRender = forceRender

    def _make_window(self) -> None:
        if self._window is not None:
            return
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.Initialize()
        self._image_mapper.SetColorWindow(255)
        self._image_mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self._image_mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self._image_actor = actor
        self._renderer.AddViewProp(self._corner_annotation)
        self._add_managers()

    def _add_managers(self) -> None:
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(self._logic.GetMRMLApplicationLogic())
        for name in _MANAGERS:
            class_name = f"vtkMRML{name}DisplayableManager"
            if not factory.IsDisplayableManagerRegistered(class_name):
                factory.RegisterDisplayableManager(class_name)
        self._managers = slicer.vtkMRMLDisplayableManagerGroup()
        self._managers.SetRenderer(self._renderer)
        self._managers.Initialize(factory, self._renderer)
        self._managers.SetMRMLDisplayableNode(self._logic.GetSliceNode())

    def picture(self, width: int, height: int) -> QtGui.QImage:
        """Draw the slice.

        Args:
            width: pixels.
            height: pixels.

        Returns:
            A picture of that size.
        """
        self._make_window()
        self._window.SetSize(width, height)
        self._logic.ResizeSliceNode(width, height)
        connection = self._logic.GetImageDataConnection()  # None as long as no volume is shown
        self._renderer.RemoveViewProp(self._image_actor)
        if connection is not None:
            self._image_mapper.SetInputConnection(connection)
            self._renderer.AddViewProp(self._image_actor)
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        return image_from_vtk(grabber.GetOutput())

    def close(self) -> None:
        """Let the window and its observers go."""
        if self._managers is not None:
            self._managers.SetMRMLDisplayableNode(None)
            self._managers = None
        if self._window is not None:
            self._image_mapper.RemoveAllInputConnections(0)
            self._window.Finalize()
            self._window = self._renderer = None


def image_from_vtk(image: Any) -> QtGui.QImage:
    """Return a vtkImageData of unsigned char RGB as a QImage (rows run downward there)."""
    width, height, _ = image.GetDimensions()
    scalars = image.GetPointData().GetScalars()
    pixels = vtk_to_numpy(scalars).reshape(height, width, scalars.GetNumberOfComponents())[::-1, :, :3]
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    return QtGui.QImage(pixels.data, width, height, 3 * width, QtGui.QImage.Format_RGB888).copy()


def pixels_of(image: QtGui.QImage) -> np.ndarray:
    """Return a picture as an array.

    Returns:
        uint8 `(height, width, 3)`, red, green, blue.
    """
    rgb = image.convertToFormat(QtGui.QImage.Format_RGB888)
    data = np.frombuffer(rgb.constBits(), dtype=np.uint8).reshape(rgb.height(), rgb.bytesPerLine())
    return data[:, : 3 * rgb.width()].reshape(rgb.height(), rgb.width(), 3).copy()
