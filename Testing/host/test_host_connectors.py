"""connectGui: which widget goes with which parameter, and what flows when."""

from __future__ import annotations

import enum
import pathlib
from types import SimpleNamespace
from typing import Annotated, Union

import ctk
import pytest
import qt
import slicer
from slicer.parameterNodeWrapper import (
    Choice,
    Decimals,
    FloatRange,
    Minimum,
    RangeBounds,
    SingleStep,
    WithinRange,
    parameterNodeWrapper,
    parameterPack,
)


class Fruit(enum.Enum):
    APPLE = 1
    PEAR = 2


class Labelled(enum.Enum):
    ONE = 1
    TWO = 2

    def label(self) -> str:
        return f"number {self.value}"


@parameterPack
class Pack:
    inner: Annotated[int, WithinRange(0, 5)] = 1


def bind(node, widget, hint, **default):
    """Bind one widget to the parameter `v`; return the wrapper."""
    members = {"__annotations__": {"v": hint}, **({"v": default["default"]} if default else {})}
    p = parameterNodeWrapper(type("P", (), members))(node)
    p.connectParametersToGui({"v": widget})
    return p


BOUNDED = WithinRange(-5, 50)
PAIRS = [
    (qt.QCheckBox, bool, "checked", True),
    (ctk.ctkCheckBox, bool, "checked", True),
    (qt.QPushButton, bool, "checked", True),
    (ctk.ctkCheckablePushButton, bool, "checked", True),
    (qt.QSlider, Annotated[int, BOUNDED], "value", 7),
    (qt.QSpinBox, Annotated[int, BOUNDED], "value", 7),
    (qt.QDoubleSpinBox, Annotated[float, BOUNDED], "value", 7.5),
    (qt.QDoubleSpinBox, Annotated[int, BOUNDED], "value", 7),
    (ctk.ctkDoubleSpinBox, Annotated[float, BOUNDED], "value", 7.5),
    (slicer.qMRMLSpinBox, Annotated[float, BOUNDED], "value", 7.5),
    (ctk.ctkDoubleSlider, Annotated[float, BOUNDED], "value", 7.5),
    (ctk.ctkSliderWidget, Annotated[float, BOUNDED], "value", 7.5),
    (ctk.ctkSliderWidget, Annotated[int, BOUNDED], "value", 7),
    (qt.QLineEdit, str, "text", "abc"),
    (qt.QTextEdit, str, "plainText", "abc"),
    (qt.QComboBox, Annotated[str, Choice(["", "abc"])], "currentText", "abc"),
    (ctk.ctkComboBox, Annotated[int, Choice([0, 12])], "currentText", 12),
    (qt.QComboBox, Fruit, "currentText", Fruit.PEAR),
    (ctk.ctkPathLineEdit, pathlib.Path, "currentPath", pathlib.Path("/some/where")),
    (ctk.ctkDirectoryButton, pathlib.Path, "directory", pathlib.Path("/some/where")),
]


def shown(value):
    """What the widget's property is for a value."""
    if isinstance(value, enum.Enum):
        return value.name
    return str(value) if isinstance(value, pathlib.Path) else value


class TestPairs:
    @pytest.mark.parametrize(("make", "hint", "attribute", "value"), PAIRS)
    def test_both_directions(self, node, make, hint, attribute, value) -> None:
        widget = make()
        p = bind(node, widget, hint)
        initial = p.v
        p.v = value
        expected = str(value) if attribute == "currentText" and isinstance(value, int) else shown(value)
        assert getattr(widget, attribute) == expected
        p.v = initial
        if attribute == "currentText":
            widget.currentIndex = 1
        else:
            setattr(widget, attribute, shown(value))
        assert p.v == value
        assert type(p.v) is type(value)

    @pytest.mark.parametrize(
        ("make", "hint"),
        [
            (qt.QCheckBox, int),
            (qt.QSlider, Annotated[float, BOUNDED]),
            (qt.QSpinBox, Annotated[float, BOUNDED]),
            (qt.QRadioButton, bool),
            (qt.QComboBox, str),  # no Choice
            (qt.QLineEdit, int),
            (qt.QPlainTextEdit, str),
            (ctk.ctkPathLineEdit, str),
            (qt.QSlider, int),  # unbounded
            (ctk.ctkSliderWidget, float),
            (ctk.ctkSliderWidget, Annotated[float, Minimum(0)]),
            (ctk.ctkRangeWidget, FloatRange),  # no RangeBounds
        ],
    )
    def test_no_connector_raises(self, node, make, hint) -> None:
        with pytest.raises(RuntimeError):
            bind(node, make(), hint)

    def test_a_derived_class_is_another_class(self, node) -> None:
        class MyCheckBox(qt.QCheckBox):
            pass

        with pytest.raises(RuntimeError):
            bind(node, MyCheckBox(), bool)


class TestSetup:
    def test_ranges_decimals_and_steps_come_from_the_hint(self, node) -> None:
        slider = ctk.ctkSliderWidget()
        bind(node, slider, Annotated[float, WithinRange(-1, 3), Decimals(4), SingleStep(0.5)])
        assert (slider.minimum, slider.maximum, slider.decimals, slider.singleStep) == (-1, 3, 4, 0.5)

    def test_a_fine_range_is_not_rounded_to_the_old_decimals(self, node) -> None:
        box = qt.QDoubleSpinBox()  # shows two decimals at first
        bind(node, box, Annotated[float, WithinRange(0.001, 0.009), Decimals(3)], default=0.002)
        assert (box.minimum, box.maximum, box.value) == (0.001, 0.009, 0.002)

    def test_an_unbounded_number_is_unbounded_in_the_widget(self, node) -> None:
        box = qt.QDoubleSpinBox()
        p = bind(node, box, float)
        box.value = -1e12
        assert p.v == -1e12

    def test_whole_numbers_have_no_decimals(self, node) -> None:
        slider = ctk.ctkSliderWidget()
        bind(node, slider, Annotated[int, BOUNDED])
        assert slider.decimals == 0

    def test_an_unbounded_spin_box_gets_the_full_range(self, node) -> None:
        box = qt.QSpinBox()
        p = bind(node, box, int)
        box.value = -123456
        assert p.v == -123456

    def test_buttons_become_checkable(self, node) -> None:
        button = qt.QPushButton()
        bind(node, button, bool)
        assert button.checkable is True

    def test_choices_replace_the_items(self, node) -> None:
        combo = qt.QComboBox()
        combo.addItem("from the .ui file")
        bind(node, combo, Labelled)
        assert [combo.itemText(i) for i in range(combo.count)] == ["number 1", "number 2"]

    def test_labels_only_show(self, node) -> None:
        label = qt.QLabel()
        p = bind(node, label, str, default="a")
        assert label.text == "a"
        label.text = "b"
        assert p.v == "a"

    def test_ranges(self, node) -> None:
        widget = ctk.ctkRangeWidget()
        p = bind(node, widget, Annotated[FloatRange, RangeBounds(-10, 10)], default=FloatRange(1, 2))
        assert (widget.minimum, widget.maximum, widget.minimumValue, widget.maximumValue) == (-10, 10, 1, 2)
        widget.setValues(3, 4)
        assert p.v == FloatRange(3, 4)

    def test_node_types_come_from_the_hint(self, node, scene) -> None:
        selector = slicer.qMRMLNodeComboBox()
        selector.nodeTypes = ["vtkMRMLModelNode"]
        selector.noneEnabled = True
        selector.setMRMLScene(scene)
        hint = Union[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLTransformNode, None]  # noqa: UP007
        p = bind(node, selector, hint)
        assert tuple(selector.nodeTypes) == ("vtkMRMLScalarVolumeNode", "vtkMRMLTransformNode")
        volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        selector.setCurrentNode(volume)
        assert p.v is volume
        p.v = None
        assert selector.currentNode() is None


class TestFlow:
    def make(self, node):
        """Two parameters and their widgets, found by their property."""

        @parameterNodeWrapper
        class P:
            flag: bool = True
            text: str = "start"
            pack: Pack

        box, edit, spin = qt.QCheckBox(), qt.QLineEdit(), qt.QSpinBox()
        for widget, name in ((box, "flag"), (edit, "text"), (spin, "pack.inner")):
            widget.setProperty("SlicerParameterName", name)
        return P(node), SimpleNamespace(box=box, edit=edit, spin=spin, other=qt.QVBoxLayout())

    def test_the_node_wins_at_connection(self, node) -> None:
        p, gui = self.make(node)
        gui.edit.text = "typed before"
        p.connectGui(gui)
        assert (gui.box.checked, gui.edit.text, gui.spin.value) == (True, "start", 1)

    def test_a_pack_member_is_reached_by_its_dotted_name(self, node) -> None:
        p, gui = self.make(node)
        p.connectGui(gui)
        gui.spin.value = 4
        assert (p.pack.inner, gui.spin.maximum) == (4, 5)

    def test_a_widget_tree_is_searched(self, node) -> None:
        p, gui = self.make(node)
        root = qt.QWidget()
        middle = qt.QWidget(root)
        gui.edit.setParent(middle)
        p.connectGui(root)
        gui.edit.text = "deep"
        assert p.text == "deep"

    def test_disconnect_ends_both_directions(self, node) -> None:
        p, gui = self.make(node)
        tag = p.connectGui(gui)
        p.disconnectGui(tag)
        gui.edit.text = "ignored"
        p.flag = False
        assert (p.text, gui.box.checked) == ("start", True)
        p.disconnectGui(tag)
        p.disconnectGui(None)

    def test_an_unknown_name_raises(self, node) -> None:
        p, gui = self.make(node)
        gui.box.setProperty("SlicerParameterName", "nothing")
        with pytest.raises(ValueError, match="Cannot find"):
            p.connectGui(gui)

    def test_a_change_by_the_user_is_one_event(self, node) -> None:
        p, gui = self.make(node)
        p.connectGui(gui)
        seen = []
        p.AddObserver("ModifiedEvent", lambda caller, event: seen.append(p.text))
        gui.edit.text = "once"
        assert seen == ["once"]

    def test_typing_in_the_middle_moves_the_cursor_as_in_slicer(self, node) -> None:
        p, gui = self.make(node)
        p.connectGui(gui)
        gui.edit.cursorPosition = 1
        gui.edit.insert("x")
        assert (p.text, gui.edit.cursorPosition) == ("sxtart", 6)

    def test_a_direct_write_to_the_node_reaches_the_widgets(self, node) -> None:
        p, gui = self.make(node)
        p.connectGui(gui)
        node.SetParameter("text", "outside")
        assert gui.edit.text == "outside"
