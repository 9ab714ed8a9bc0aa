"""PySide6 with the manners of PythonQt: what a module may write in Slicer works, what it may not fails."""

from __future__ import annotations

import ctk
import pytest
import qt
from slicer_host import pythonqt

pytestmark = pytest.mark.usefixtures("qt_application")


class TestProperties:
    def test_are_attributes_and_setters_stay(self) -> None:
        label = qt.QLabel("a")
        assert label.text == "a"
        label.text = "b"
        assert label.text == "b"
        label.setText("c")
        assert label.text == "c"

    def test_boolean_properties_drop_the_is(self) -> None:
        button = qt.QPushButton()
        button.enabled = False
        button.checkable = True
        button.checked = True
        assert (button.enabled, button.isEnabled(), button.checked) == (False, False, True)

    def test_inherited_and_read_only_properties(self) -> None:
        combo = qt.QComboBox()
        combo.addItems(["x", "y"])
        assert (combo.count, combo.currentIndex, combo.currentText) == (2, 0, "x")
        with pytest.raises(AttributeError, match="not writable"):
            combo.count = 3

    def test_properties_whose_getter_has_another_name(self) -> None:
        edit = qt.QPlainTextEdit()
        edit.plainText = "one"
        edit.appendPlainText("two")
        assert edit.plainText == edit.toPlainText() == "one\ntwo"

    def test_virtual_getters(self) -> None:
        bar = qt.QProgressBar()
        bar.value = 40
        layout = qt.QVBoxLayout()
        layout.spacing = 3
        assert (bar.text, layout.spacing, bar.sizeHint.width() > 0) == ("40%", 3, True)

    def test_a_property_is_not_callable(self) -> None:
        with pytest.raises(TypeError):
            qt.QLabel("a").text()

    def test_a_wrong_type_is_refused(self) -> None:
        with pytest.raises(AttributeError, match="does not accept"):
            qt.QSpinBox().value = None

    def test_enum_properties(self) -> None:
        label = qt.QLabel()
        label.alignment = qt.Qt.AlignRight | qt.Qt.AlignVCenter
        assert label.alignment == qt.Qt.AlignRight | qt.Qt.AlignVCenter

    def test_single_shot_is_both_property_and_function(self) -> None:
        timer = qt.QTimer()
        timer.singleShot = True
        assert timer.singleShot is True
        assert callable(qt.QTimer.singleShot)

    def test_dynamic_properties(self) -> None:
        label = qt.QLabel()
        label.setProperty("SlicerParameterName", "x")
        assert label.property("SlicerParameterName") == "x"
        assert label.SlicerParameterName == "x"
        assert not label.property("other")


class TestAttributes:
    @pytest.mark.parametrize("make", [qt.QLabel, qt.QTimer, ctk.ctkSliderWidget, ctk.ctkCollapsibleButton])
    def test_new_ones_are_refused_on_cpp_objects(self, make) -> None:
        with pytest.raises(AttributeError, match="creating new attributes"):
            make().myValue = 1

    def test_new_ones_are_fine_on_python_classes(self) -> None:
        class Mine(qt.QWidget):
            pass

        widget = Mine()
        widget.myValue = 1
        assert widget.myValue == 1

    def test_slots_cannot_be_overwritten(self) -> None:
        with pytest.raises(AttributeError, match="can not be overwritten"):
            qt.QLabel().setText = print

    def test_unknown_ones_raise(self) -> None:
        with pytest.raises(AttributeError, match="has no attribute named 'colour'"):
            _ = qt.QLabel().colour

    def test_children_are_found_by_name(self) -> None:
        parent = qt.QWidget()
        child = qt.QLabel(parent)
        child.name = "inner"
        assert parent.inner is child
        assert (child.objectName, child.name, child.className()) == ("inner", "inner", "QLabel")

    def test_find_children_by_class_name(self) -> None:
        parent = qt.QWidget()
        button, label = qt.QPushButton(parent), qt.QLabel(parent)
        label.name = "l"
        assert parent.findChildren("QAbstractButton") == [button]
        assert parent.findChild(qt.QLabel, "l") is label
        assert parent.findChild("QLabel", "none") is None


class TestConnections:
    def test_arguments_are_those_of_the_signature(self) -> None:
        button, got = qt.QPushButton(), []
        button.connect("clicked(bool)", lambda *arguments: got.append(arguments))
        button.connect("clicked()", lambda *arguments: got.append(arguments))
        button.click()
        assert sorted(got) == [(), (False,)]

    def test_a_function_may_take_fewer_arguments(self) -> None:
        box, got = qt.QSpinBox(), []
        box.connect("valueChanged(int)", lambda: got.append(1))
        box.value = 5
        assert got == [1]

    def test_disconnect_takes_bound_methods(self) -> None:
        class Receiver:
            count = 0

            def receive(self, value) -> None:
                self.count += 1

        box, receiver = qt.QSpinBox(), Receiver()
        assert box.connect("valueChanged(int)", receiver.receive) is True
        box.value = 1
        assert box.disconnect("valueChanged(int)", receiver.receive) is True
        box.value = 2
        assert receiver.count == 1
        assert box.disconnect("valueChanged(int)", receiver.receive) is False

    def test_an_unknown_signal_only_complains(self, capfd) -> None:
        pythonqt.unknown_signals.clear()
        assert qt.QPushButton().connect("pushed()", print) is False
        assert pythonqt.unknown_signals == ["pushed() on QPushButton"]
        assert "signal 'pushed()' does not exist on QPushButton" in capfd.readouterr().err

    def test_the_signature_must_match(self) -> None:
        assert qt.QSpinBox().connect("valueChanged(double)", print) is False

    def test_cpp_prefixes_and_spaces(self) -> None:
        box, got = qt.QSpinBox(), []
        assert box.connect("2valueChanged( int )", got.append) is True
        box.value = 4
        assert got == [4]

    def test_receiver_and_slot(self) -> None:
        box, bar = qt.QSpinBox(), qt.QProgressBar()
        box.connect("valueChanged(int)", bar, "setValue(int)")
        box.value = 7
        assert bar.value == 7

    def test_signals_are_attributes_too(self) -> None:
        box, got = qt.QSpinBox(), []
        box.valueChanged.connect(got.append)
        box.value = 3
        assert got == [3]


class TestValues:
    def test_enums_are_integers(self) -> None:
        assert qt.QProcess.NotRunning == 0
        assert qt.QProcess().state() == qt.QProcess.NotRunning
        assert qt.QMessageBox.Ok | qt.QMessageBox.Cancel == 0x400400

    def test_byte_arrays_give_bytes(self) -> None:
        assert qt.QByteArray(b"abc").data() == b"abc"

    def test_the_namespace_is_flat(self) -> None:
        assert qt.QAction.__name__ == "QAction"  # moved from QtWidgets to QtGui in Qt 6
        with pytest.raises(AttributeError):
            _ = qt.QNothing

    def test_unknown_ctk_classes_are_inert_and_always_the_same(self) -> None:
        assert ctk.ctkSomething is ctk.ctkSomething
        widget = ctk.ctkSomething()
        assert widget.className() == "ctkSomething"
        with pytest.raises(AttributeError):
            widget.value = 1
