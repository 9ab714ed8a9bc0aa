"""The host's ctk and qMRML widgets, and the loader of .ui files."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import ctk
import pytest
import qt
import slicer

pytestmark = pytest.mark.usefixtures("qt_application")


def selector(scene, *node_types: str, **flags: bool):
    """Make a node selector of a scene."""
    widget = slicer.qMRMLNodeComboBox()
    widget.nodeTypes = list(node_types or ("vtkMRMLScalarVolumeNode",))
    for name, value in flags.items():
        setattr(widget, name, value)
    widget.setMRMLScene(scene)
    return widget


def add(scene, name: str = "", node_class: str = "vtkMRMLScalarVolumeNode"):
    return scene.AddNewNodeByClass(node_class, name)


class TestNodeSelector:
    def test_the_first_node_is_chosen_unless_none_is_a_choice(self, scene) -> None:
        volume = add(scene)
        assert selector(scene).currentNode() is volume
        assert selector(scene, noneEnabled=True).currentNode() is None

    def test_it_follows_adding_renaming_and_removing(self, scene) -> None:
        widget = selector(scene)
        assert (widget.nodeCount(), widget.currentNode()) == (0, None)
        first, second = add(scene, "a"), add(scene, "b")
        widget.setCurrentNode(second)
        second.SetName("renamed")
        assert widget.findChild(qt.QComboBox).currentText == "renamed"
        scene.RemoveNode(second)
        assert (widget.nodeCount(), widget.currentNode()) == (1, first)
        scene.RemoveNode(first)
        assert widget.currentNode() is None

    def test_child_classes_hidden_nodes_and_attributes(self, scene) -> None:
        add(scene, "label", "vtkMRMLLabelMapVolumeNode")
        add(scene, "model", "vtkMRMLModelNode")
        hidden = add(scene, "hidden")
        hidden.HideFromEditorsOn()
        assert selector(scene).nodeCount() == 1
        assert selector(scene, showChildNodeTypes=False).nodeCount() == 0
        assert selector(scene, showHidden=True).nodeCount() == 2
        marked = selector(scene, showHidden=True)
        marked.addAttribute("vtkMRMLScalarVolumeNode", "mark", "yes")
        assert marked.nodeCount() == 0
        hidden.SetAttribute("mark", "yes")
        assert marked.nodeCount() == 1

    def test_signals(self, scene) -> None:
        widget, got = selector(scene, noneEnabled=True), []
        widget.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: got.append(node))
        widget.connect("currentNodeChanged(bool)", got.append)
        widget.connect("currentNodeIDChanged(QString)", got.append)
        volume = add(scene)
        assert got == []
        widget.setCurrentNode(volume)
        widget.setCurrentNode(volume)
        assert got == [volume, True, volume.GetID()]

    def test_creating_a_node(self, scene) -> None:
        widget, got = selector(scene, noneEnabled=True), []
        widget.baseName = "Result"
        widget.connect("nodeAddedByUser(vtkMRMLNode*)", got.append)
        first, second = widget.addNode(), widget.addNode()
        assert (first.GetName(), second.GetName()) == ("Result", "Result_1")
        assert (got, widget.currentNode()) == ([first, second], second)

    def test_the_user_creates_a_node_by_the_last_rows(self, scene) -> None:
        widget = selector(scene, noneEnabled=True)
        combo = widget.findChild(qt.QComboBox)
        texts = [combo.itemText(i) for i in range(combo.count)]
        assert texts == ["None", "Create new ScalarVolume", "Delete current ScalarVolume"]
        combo.activated.emit(1)
        assert widget.currentNode() is not None
        combo.activated.emit(3)
        assert (widget.currentNode(), scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")) == (None, 0)

    def test_a_node_that_is_no_choice_chooses_none(self, scene) -> None:
        widget = selector(scene, noneEnabled=True)
        widget.setCurrentNode(add(scene))
        widget.setCurrentNode(add(scene, "m", "vtkMRMLModelNode"))
        assert widget.currentNode() is None

    def test_batch_processing_is_waited_for(self, scene) -> None:
        widget = selector(scene)
        scene.StartState(scene.BatchProcessState)
        add(scene)
        assert widget.nodeCount() == 0
        scene.EndState(scene.BatchProcessState)
        assert widget.nodeCount() == 1

    def test_a_single_string_is_no_list_of_node_types(self) -> None:
        with pytest.raises(TypeError):
            slicer.qMRMLNodeComboBox().nodeTypes = "vtkMRMLModelNode"

    def test_the_scene_does_not_keep_it_alive(self, scene) -> None:
        for _ in range(3):
            selector(scene)
        gc.collect()
        assert [w for w in qt.QApplication.allWidgets() if w.className() == "qMRMLNodeComboBox"] == []
        add(scene)


class TestNumbers:
    @pytest.mark.parametrize("make", [ctk.ctkSliderWidget, ctk.ctkDoubleSpinBox, ctk.ctkDoubleSlider])
    def test_values_are_clamped_and_rounded_and_reported_once(self, make) -> None:
        widget, got = make(), []
        widget.setRange(0, 10)
        widget.connect("valueChanged(double)", got.append)
        widget.value = 20
        widget.value = 10
        widget.setValue(1.23456)
        assert (widget.value, got) == (1.23, [10.0, 1.23])

    def test_the_parts_of_a_slider_widget_agree(self) -> None:
        widget = ctk.ctkSliderWidget()
        widget.singleStep = 0.5
        widget.setRange(1, 3)
        widget.value = 2
        assert (widget.findChild(qt.QSlider).value, widget.findChild(qt.QDoubleSpinBox).value) == (2, 2.0)
        widget.findChild(qt.QSlider).value = 3
        assert (widget.value, widget.findChild(qt.QDoubleSpinBox).value) == (2.5, 2.5)
        widget.findChild(qt.QDoubleSpinBox).value = 3
        assert (widget.value, widget.findChild(qt.QSlider).value) == (3.0, 4)

    def test_a_range_widget_keeps_its_order(self) -> None:
        widget, got = ctk.ctkRangeWidget(), []
        widget.connect("valuesChanged(double,double)", lambda low, high: got.append((low, high)))
        widget.setValues(8, 2)
        assert (got, widget.minimumValue, widget.maximumValue) == [(2.0, 8.0)] or got == [(2.0, 8.0)]


class TestContainers:
    @pytest.mark.parametrize("make", [ctk.ctkCollapsibleButton, ctk.ctkCollapsibleGroupBox])
    def test_collapsing_hides_the_children_but_remembers_hidden_ones(self, make) -> None:
        section = make()
        shown, hidden = qt.QLabel("a", section), qt.QLabel("b", section)
        hidden.hide()
        section.show()
        section.collapsed = True
        assert (shown.visible, section.collapsed) == (False, True)
        section.collapsed = False
        assert (shown.visible, hidden.visible) == (True, False)

    def test_a_click_on_the_header_toggles(self) -> None:
        section, got = ctk.ctkCollapsibleButton(), []
        section.text = "Advanced"
        section.connect("contentsCollapsed(bool)", got.append)
        section.click()
        assert (section.collapsed, got) == (True, [True])

    def test_enabling_children_works_as_for_any_widget(self) -> None:
        section = ctk.ctkCollapsibleButton()
        child = qt.QLabel("a", section)
        section.enabled = False
        assert child.enabled is False


class TestInputs:
    def test_a_path_is_a_string(self) -> None:
        widget, got = ctk.ctkPathLineEdit(), []
        widget.connect("currentPathChanged(QString)", got.append)
        widget.currentPath = "/a/b.nii"
        widget.setCurrentPath("/a/b.nii")
        assert (widget.currentPath, got) == ("/a/b.nii", ["/a/b.nii"])
        with pytest.raises(TypeError):
            widget.setCurrentPath(1)

    def test_a_default_text(self) -> None:
        combo = ctk.ctkComboBox()
        combo.defaultText = "Choose"
        assert combo.defaultText == "Choose"

    def test_a_kept_answer_closes_the_message_box(self) -> None:
        qt.QSettings().setValue("Box/Key", int(qt.QMessageBox.Yes))
        box = ctk.ctkMessageBox()
        box.dontShowAgainSettingsKey = "Box/Key"
        assert box.exec_() == qt.QMessageBox.Yes
        qt.QSettings().remove("Box/Key")


UI = """<ui version="4.0"><class>Top</class>
<widget class="qMRMLWidget" name="Top"><layout class="QVBoxLayout" name="box">
 <item><widget class="qMRMLNodeComboBox" name="chooser">
  <property name="nodeTypes"><stringlist><string>vtkMRMLModelNode</string></stringlist></property>
  <property name="SlicerParameterName" stdset="0"><string>model</string></property>
 </widget></item>
 <item><widget class="ctkSliderWidget" name="slider">
  <property name="maximum"><double>5.0</double></property><property name="value"><double>4.0</double></property>
 </widget></item>
 <item><widget class="ctkNobodyKnows" name="odd"/></item>
 <item><widget class="QCheckBox" name="check"/></item>
 <item><widget class="QLineEdit" name="edit"/></item>
</layout></widget>
<customwidgets>
 <customwidget><class>qMRMLWidget</class><extends>QWidget</extends><container>1</container></customwidget>
</customwidgets>
<connections>
 <connection><sender>Top</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
  <receiver>chooser</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection>
 <connection><sender>check</sender><signal>toggled(bool)</signal>
  <receiver>edit</receiver><slot>setEnabled(bool)</slot></connection>
</connections></ui>"""


class TestLoadUI:
    @pytest.fixture
    def top(self, tmp_path):
        path = tmp_path / "Top.ui"
        path.write_text(UI, encoding="utf-8")
        return slicer.util.loadUI(str(path))

    def test_classes_and_properties(self, top) -> None:
        ui = slicer.util.childWidgetVariables(top)
        assert type(ui.slider) is ctk.ctkSliderWidget
        assert (ui.slider.maximum, ui.slider.value) == (5.0, 4.0)
        assert tuple(ui.chooser.nodeTypes) == ("vtkMRMLModelNode",)
        assert ui.chooser.property("SlicerParameterName") == "model"
        assert (ui.odd.className(), ui.Top, ui.box.className()) == ("ctkNobodyKnows", top, "QVBoxLayout")

    def test_connections(self, top, scene) -> None:
        ui = slicer.util.childWidgetVariables(top)
        top.setMRMLScene(scene)
        assert ui.chooser.mrmlScene() is scene
        ui.check.checked = True
        ui.check.checked = False
        assert ui.edit.enabled is False

    def test_only_direct_children_are_attributes(self, top) -> None:
        assert top.check.className() == "QCheckBox"
        with pytest.raises(AttributeError):
            _ = top.SpinBox  # inside the slider widget

    def test_missing_and_broken_files_raise(self, tmp_path) -> None:
        with pytest.raises(RuntimeError, match="file not found"):
            slicer.util.loadUI(str(tmp_path / "none.ui"))
        (tmp_path / "broken.ui").write_text("<ui>", encoding="utf-8")
        with pytest.raises(RuntimeError, match="Could not load"):
            slicer.util.loadUI(str(tmp_path / "broken.ui"))

    def test_state_survives_while_only_qt_holds_the_widget(self, top) -> None:
        slicer.util.childWidgetVariables(top).slider.value = 3
        gc.collect()
        assert slicer.util.childWidgetVariables(top).slider.value == 3.0


def test_simple_namespace_is_a_gui(node) -> None:
    """connectGui takes any object whose attributes are Qt objects."""
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    @parameterNodeWrapper
    class P:
        on: bool

    box = qt.QCheckBox()
    box.setProperty("SlicerParameterName", "on")
    p = P(node)
    p.connectGui(SimpleNamespace(box=box))
    box.checked = True
    assert p.on is True
