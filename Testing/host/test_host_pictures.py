"""Pictures without a screen: panels with text, slices with the right voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
from slicer_host.views import pixels_of

SAMPLE = Path(__file__).parent / "sample_module" / "HostSample.py"


class TestPanel:
    def test_text_is_drawn(self, host) -> None:
        label = qt.QLabel("Text")
        label.resize(60, 20)
        pixels = pixels_of(host.grab(label))
        assert pixels.min() < 100, "no glyphs: is a font installed? (README.md: system packages)"

    def test_a_panel_is_written(self, host, tmp_path) -> None:
        widget = host.open(host.load_module(SAMPLE))
        image = host.grab(widget, tmp_path / "folder" / "panel.png", width=450)
        assert image.width() == 450
        assert (tmp_path / "folder" / "panel.png").stat().st_size > 2000

    def test_dark_mode(self, host) -> None:
        widget = host.open(host.load_module(SAMPLE))
        light = pixels_of(host.grab(widget, width=300)).mean()
        host.set_dark()
        dark = pixels_of(host.grab(widget, width=300)).mean()
        assert (light > 180, dark < 90) == (True, True)


class TestSlices:
    @pytest.fixture
    def volume(self, host):
        """Bright in the half with large x (to the patient's left), dark elsewhere; y and z tell nothing."""
        array = np.zeros((10, 20, 30), np.float32)
        array[:, :, 15:] = 100
        return slicer.util.addVolumeFromArray(array, ijkToRAS=np.diag([1.0, 2.0, 3.0, 1.0]))

    def test_left_is_on_the_right_of_an_axial_slice(self, host, volume, tmp_path) -> None:
        # RAS x points to the right of the patient, which an axial view shows on the left.
        host.set_view_size(300, 300)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        pixels = pixels_of(host.grab_layout(tmp_path / "axial.png"))
        assert pixels.shape == (300, 300, 3)
        middle = pixels[150, :, 0].astype(int)
        assert middle[75] > 150
        assert middle[225] < 50

    def test_layout_without_volume_is_black(self, host) -> None:
        pixels = pixels_of(host.grab_layout())
        assert pixels.shape == (600, 900, 3)
        assert pixels[500, 200].max() == 0

    def test_corner_annotations_are_drawn(self, host, volume) -> None:
        manager = slicer.app.layoutManager()
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
        manager.sliceWidget("Red").sliceView().cornerAnnotation().SetText(2, "input")
        pixels = pixels_of(host.grab_layout())
        assert pixels[20:50, :120].max() > 150
