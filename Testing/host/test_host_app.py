"""slicer.app and what hangs on it: event loop, processes, files, packages, extensions, dialogs, settings."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import qt
import slicer
import vtk
from slicer_host import Host
from slicer_host.dialogs import UnexpectedDialogError


@pytest.fixture
def volume(host):
    """An oblique, anisotropic volume of three different sizes."""
    cosine, sine = np.cos(0.3), np.sin(0.3)
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = np.array([[0, -cosine, sine], [1, 0, 0], [0, sine, cosine]]) * (1.0, 1.5, 4.0)
    ijk_to_ras[:3, 3] = (3, -7, 11)
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=ijk_to_ras, name="In")


class TestEventLoop:
    def test_a_blocking_slot_is_measured(self, host) -> None:
        host.process_events(0.05)
        host.reset_event_loop_gap()
        qt.QTimer.singleShot(0, lambda: time.sleep(0.3))
        host.process_events(0.4)
        assert 0.3 <= host.max_event_loop_gap() < 2.0

    def test_wait_until_gives_up(self, host) -> None:
        assert host.wait_until(lambda: "found") == "found"
        with pytest.raises(TimeoutError, match="did not hold"):
            host.wait_until(lambda: False, timeout=0.05)

    def test_exceptions_in_slots_timers_and_observers_are_kept(self, host, capfd) -> None:
        button = qt.QPushButton()
        button.connect("clicked()", lambda: 1 / 0)
        button.click()
        qt.QTimer.singleShot(0, lambda: {}["key"])
        host.process_events(0.02)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
        node.AddObserver("ModifiedEvent", lambda caller, event: int("x"))
        node.Modified()
        assert [error.split(":")[0] for error in host.errors] == ["ZeroDivisionError", "KeyError", "ValueError"]
        host.errors.clear()

    def test_warnings_of_qt_and_unknown_signals_are_kept(self, host, capfd) -> None:
        widget = qt.QWidget()
        qt.QVBoxLayout(widget)
        qt.QVBoxLayout(widget)
        widget.connect("nothing()", print)
        assert "already has a layout" in host.qt_messages[0]
        assert host.unknown_signals == ["nothing() on QWidget"]

    def test_the_clipboard(self, host) -> None:
        slicer.app.clipboard().setText("copied")
        assert qt.QApplication.clipboard().text() == "copied"

    def test_only_one_host_is_open(self, host) -> None:
        with pytest.raises(RuntimeError, match="open already"):
            Host()


class TestProcesses:
    def test_launch_console_process_reports_lines_and_return_code(self, host) -> None:
        lines, codes = [], []
        code = "import sys, os; print('a'); print('b', file=sys.stderr, flush=True); sys.exit(3)"
        slicer.util.launchConsoleProcess(
            [shutil.which("PythonSlicer"), "-c", code],
            blocking=False,
            logCallback=lines.append,
            completedCallback=codes.append,
        )
        host.wait_until(lambda: codes)
        assert (sorted(lines), codes) == (["a", "b"], [3])

    def test_qprocess(self, host) -> None:
        process, finished = qt.QProcess(), []
        process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: finished.append((code, status)))
        process.start(shutil.which("PythonSlicer"), ["-c", "print('out')"])
        host.wait_until(lambda: finished)
        assert finished == [(0, qt.QProcess.NormalExit)]
        assert process.readAllStandardOutput().data() == b"out" + os.linesep.encode()

    def test_python_slicer_runs_this_python(self, host) -> None:
        process = slicer.util.launchConsoleProcess(
            [shutil.which("PythonSlicer"), "-c", "import sys; print(sys.prefix)"]
        )
        assert process.communicate(timeout=60)[0].strip() == sys.prefix

    @pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
    def test_python_slicer_hides_how_its_child_died(self, host) -> None:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        process = slicer.util.launchConsoleProcess([shutil.which("PythonSlicer"), "-c", code])
        assert process.communicate(timeout=60)[0].strip().endswith("exit abnormally - Report the problem.")
        assert process.returncode == 1

    def test_python_slicer_hands_on_exit_code_and_input(self, host) -> None:
        code = "import sys; sys.exit(len(sys.stdin.read()))"
        process = subprocess.run([shutil.which("PythonSlicer"), "-c", code], input=b"x" * 130, timeout=60, check=False)
        assert process.returncode == 130

    def test_the_startup_environment_is_that_of_before_the_launcher(self, host) -> None:
        before = slicer.util.startupEnvironment()
        assert "SLICER_HOME" in os.environ
        assert "SLICER_HOME" not in before
        assert shutil.which("PythonSlicer", path=before["PATH"]) is None


class TestFiles:
    @pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
    def test_a_volume_comes_back_exactly(self, host, volume, tmp_path, suffix) -> None:
        path = str(tmp_path / f"image{suffix}")
        assert slicer.util.exportNode(volume, path, {})
        loaded = slicer.util.loadVolume(path, {})
        assert loaded.GetName() == "image"
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded), slicer.util.arrayFromVolume(volume))
        assert slicer.modules.volumes.logic().CompareVolumeGeometry(volume, loaded) == ""

    def test_export_in_the_world_hardens_a_copy_only(self, host, volume, tmp_path) -> None:
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(0, 3, 100.0)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(matrix)
        volume.SetAndObserveTransformNodeID(transform.GetID())
        number_of_nodes = slicer.mrmlScene.GetNumberOfNodes()
        slicer.util.exportNode(volume, str(tmp_path / "world.nrrd"), {}, world=True)
        slicer.util.exportNode(volume, str(tmp_path / "local.nrrd"), {})
        assert volume.GetParentTransformNode() is transform
        assert volume.GetStorageNode() is None
        assert slicer.mrmlScene.GetNumberOfNodes() == number_of_nodes
        origins = [
            slicer.util.loadVolume(str(tmp_path / name), {}).GetOrigin() for name in ("world.nrrd", "local.nrrd")
        ]
        np.testing.assert_allclose(np.subtract(*origins), (100, 0, 0), atol=1e-9)

    def test_saving_remembers_the_file(self, host, volume, tmp_path) -> None:
        path = str(tmp_path / "saved.nrrd")
        assert slicer.util.saveNode(volume, path, {})
        assert volume.GetStorageNode().GetFileName() == path

    def test_loading_shows_the_volume_unless_told_otherwise(self, host, volume, tmp_path) -> None:
        path = str(tmp_path / "a.nrrd")
        slicer.util.exportNode(volume, path, {})
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        slicer.util.loadVolume(path, {"show": False})
        assert composite.GetBackgroundVolumeID() is None
        loaded = slicer.util.loadVolume(path, {"name": "mine"})
        assert (composite.GetBackgroundVolumeID(), loaded.GetName()) == (loaded.GetID(), "mine")

    def test_failures(self, host, volume, tmp_path, capfd) -> None:
        with pytest.raises(RuntimeError, match="File not found"):
            slicer.util.loadVolume(str(tmp_path / "none.nrrd"), {})
        with pytest.raises(ValueError, match="no known file format"):
            slicer.util.exportNode(volume, str(tmp_path / "a.xyz"), {})
        (tmp_path / "file").touch()
        assert not slicer.util.exportNode(volume, str(tmp_path / "file" / "a.nrrd"), {})

    def test_a_scene_bundle_keeps_parameters_and_references(self, host, volume, tmp_path) -> None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "P")
        node.SetParameter("a", "1")
        node.SetNodeReferenceID("image", volume.GetID())
        assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), {})
        host.close_scene()
        slicer.util.loadScene(str(tmp_path / "scene.mrb"), {})
        node = slicer.util.getNode("P")
        assert (node.GetParameter("a"), node.GetNodeReference("image").GetName()) == ("1", "In")

    def test_simpleitk_sees_the_same_geometry(self, host, volume) -> None:
        sitk_utils = pytest.importorskip("SimpleITK") and __import__("sitkUtils")
        image = sitk_utils.PullVolumeFromSlicer(volume)
        assert image.GetSize() == (5, 4, 3)
        ras = np.array([*volume.GetOrigin()])
        np.testing.assert_allclose(image.GetOrigin(), ras * (-1, -1, 1))
        back = sitk_utils.PushVolumeToSlicer(image, name="back")
        assert slicer.modules.volumes.logic().CompareVolumeGeometry(volume, back) == ""


class TestViews:
    def test_layouts_have_real_slice_logics(self, host, volume) -> None:
        manager = slicer.app.layoutManager()
        assert manager.sliceViewNames() == ("Red", "Green", "Yellow")
        slicer.util.setSliceViewerLayers(background=volume, foreground=volume, foregroundOpacity=0.5, fit=True)
        widget = manager.sliceWidget("Yellow")
        assert widget.sliceLogic().GetBackgroundLayer().GetVolumeNode() is volume
        assert widget.mrmlSliceCompositeNode().GetForegroundOpacity() == 0.5
        assert widget.sliceOrientation == "Sagittal"
        assert manager.sliceWidget("Blue") is None

    def test_an_own_layout_makes_its_views_and_keeps_the_others(self, host) -> None:
        manager, changes = slicer.app.layoutManager(), []
        manager.connect("layoutChanged(int)", changes.append)
        view = '<item><view class="vtkMRMLSliceNode" singletontag="{0}"><property name="orientation" action="default">'
        view += 'Coronal</property><property name="viewlabel" action="default">{0}</property></view></item>'
        xml = f'<layout type="horizontal">{view.format("Left")}{view.format("Right")}</layout>'
        manager.layoutLogic().GetLayoutNode().AddLayoutDescription(5555, xml)
        manager.setLayout(5555)
        assert manager.sliceViewNames() == ("Red", "Green", "Yellow", "Left", "Right")
        assert [node.GetLayoutName() for node in manager.visible_view_nodes()] == ["Left", "Right"]
        assert (changes[-1], manager.layout) == (5555, 5555)

    def test_views_get_their_size_from_the_event_loop(self, host) -> None:
        manager = slicer.app.layoutManager()
        view = '<item><view class="vtkMRMLSliceNode" singletontag="{0}"/></item>'
        xml = f'<layout type="horizontal">{view.format("Left")}{view.format("Right")}</layout>'
        manager.layoutLogic().GetLayoutNode().AddLayoutDescription(5555, xml)
        manager.setLayout(5555)
        node = manager.sliceWidget("Left").mrmlSliceNode()
        assert node.GetDimensions()[:2] == (256, 256)
        host.process_events()
        assert node.GetDimensions()[:2] == (448, 580)

    def test_a_layout_that_nobody_registered_is_the_conventional_one(self, host) -> None:
        manager = slicer.app.layoutManager()
        manager.setLayout(4711)
        assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView

    def test_layout_changed_comes_with_every_modification_of_the_layout_node(self, host) -> None:
        manager, changes = slicer.app.layoutManager(), []
        manager.connect("layoutChanged(int)", changes.append)
        manager.layoutLogic().GetLayoutNode().Modified()
        assert changes == [manager.layout]

    def test_linked_views(self, host, volume) -> None:
        manager = slicer.app.layoutManager()
        manager.sliceWidget("Red").sliceController().setSliceLink(True)
        assert all(node.GetLinkedControl() for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))


class TestPackages:
    def test_pip_ensure_records_and_installs_nothing(self, host, tmp_path) -> None:
        import slicer.packaging

        file = tmp_path / "requirements.txt"
        file.write_text("# comment\n-r other.txt\nnumpy>=1\nno-such-thing==9 # pinned\n", encoding="utf-8")
        requirements = slicer.packaging.load_requirements(file)
        assert [str(r) for r in requirements] == ["numpy>=1", "no-such-thing==9"]
        assert slicer.packaging.pip_check("numpy>=1")
        assert not slicer.packaging.pip_check(requirements)
        slicer.packaging.pip_ensure(requirements, requester="Foo")
        assert slicer.packaging.calls[0]["requester"] == "Foo"
        slicer.packaging.decline = True
        with pytest.raises(RuntimeError, match="declined"):
            slicer.packaging.pip_ensure(requirements)

    def test_util_pip_install_goes_the_same_way(self, host) -> None:
        import slicer.packaging

        slicer.util.pip_install("something")
        assert slicer.packaging.calls == [{"function": "pip_install", "requirements": "something"}]

    @pytest.mark.parametrize("testing", [True, False])
    @pytest.mark.parametrize("version", [(5, 10), (5, 12)])
    def test_a_failed_pip_prints_its_reason_and_the_error_lacks_it(self, version, testing, capsys) -> None:
        with Host(version=version, testing=testing) as host:
            host.pip.lines, host.pip.returncode = ("ERROR: Could not find a version",), 1
            ticks = []
            qt.QTimer.singleShot(0, lambda: ticks.append(1))
            with pytest.raises(subprocess.CalledProcessError) as caught:
                slicer.util.pip_install(["something"])
        assert "ERROR: Could not find a version" in capsys.readouterr().out
        assert "Could not find" not in f"{caught.value} {caught.value.output}"
        assert ticks  # the window lives, and takes clicks

    def test_slicer_before_5_12(self) -> None:
        with Host(version=(5, 10)) as host:
            with pytest.raises(ImportError):
                importlib.import_module("slicer.packaging")
            slicer.util.pip_install("something")
            assert host.pip_calls == [{"function": "pip_install", "requirements": "something"}]
            with pytest.raises(TypeError):
                slicer.util.launchConsoleProcess(["true"], blocking=False)
            assert slicer.app.minorVersion == 10
        with Host() as host:
            assert importlib.import_module("slicer.packaging").calls == host.pip_calls == []

    def test_pytorch_missing(self) -> None:
        with Host(torch="missing"), pytest.raises(ImportError):
            import PyTorchUtils  # noqa: F401

    def test_pytorch_not_installed(self) -> None:
        with Host(torch="not installed"):
            import PyTorchUtils

            logic = PyTorchUtils.PyTorchUtilsLogic()
            assert not logic.torchInstalled()
            PyTorchUtils.decline_install = True
            assert logic.installTorch(askConfirmation=True, torchVersionRequirement=">=2.1") is None
            assert PyTorchUtils.install_calls[0]["torchVersionRequirement"] == ">=2.1"

    def test_an_unknown_state_is_refused(self) -> None:
        with pytest.raises(ValueError, match="Unknown state"):
            Host(torch="perhaps")

    def test_extensions_are_recorded(self, host) -> None:
        model = slicer.app.extensionsManagerModel()
        assert not model.isExtensionInstalled("PyTorch")
        assert model.installExtensionFromServer("PyTorch")
        assert model.requested == ["PyTorch"]
        assert not slicer.app.restartRequested  # testing

    def test_the_extensions_manager_asks_before_and_after(self) -> None:
        with Host(testing=False) as host:
            model = slicer.app.extensionsManagerModel()
            host.dialogs.expect(qt.QMessageBox.No)
            assert not model.installExtensionFromServer("PyTorch")
            host.dialogs.expect(qt.QMessageBox.Yes)
            host.dialogs.expect(qt.QMessageBox.Yes)
            assert model.installExtensionFromServer("PyTorch")
            assert slicer.app.restartRequested
            assert len(host.dialogs.shown) == 3


class TestSampleData:
    def test_local_files_are_served_and_checked(self, host, volume, tmp_path) -> None:
        import hashlib

        import SampleData

        path = tmp_path / "s.nrrd"
        slicer.util.exportNode(volume, str(path), {})
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        for name, checksum in (("Good", digest), ("Bad", "0" * 64)):
            SampleData.SampleDataLogic.registerCustomSampleDataSource(
                category="Mine",
                sampleName=name,
                uris="https://example.org/s.nrrd",
                fileNames="s.nrrd",
                nodeNames="S",
                checksums=f"SHA256:{checksum}",
            )
        with pytest.raises(ValueError, match="local files only"):
            SampleData.downloadSample("Good")
        SampleData.local_files["https://example.org/s.nrrd"] = path
        assert SampleData.downloadSample("Good").GetName() == "S"
        with pytest.raises(ValueError, match="Checksum"):
            SampleData.downloadSample("Bad")


class TestDialogs:
    def test_testing_mode_shows_no_boxes_and_answers_yes(self, host) -> None:
        assert slicer.util.confirmOkCancelDisplay("not asked")
        assert slicer.util.confirmYesNoDisplay("not asked")
        slicer.util.errorDisplay("only logged")
        assert host.dialogs.shown == []

    def test_a_prepared_answer_closes_a_box(self) -> None:
        with Host(testing=False, main_window=True) as host:
            host.dialogs.expect(qt.QMessageBox.Cancel)
            assert slicer.util.confirmOkCancelDisplay("Really?") is False
            host.dialogs.expect(lambda box: box.button(qt.QMessageBox.Ok).click())
            assert slicer.util.confirmOkCancelDisplay("Really?") is True
            host.dialogs.expect(lambda box: box.button(qt.QMessageBox.Ok).click())
            slicer.util.infoDisplay("Done")
            assert ["Really?" in host.dialogs.shown[0], "Done" in host.dialogs.shown[2]] == [True, True]

    def test_an_unexpected_dialog_is_an_error(self, host, monkeypatch) -> None:
        monkeypatch.setattr("slicer_host.dialogs.PATIENCE_MS", 50)
        with pytest.raises(UnexpectedDialogError, match="Sure"):
            qt.QMessageBox.question(None, "Title", "Sure?")
        with pytest.raises(UnexpectedDialogError, match="Open"):
            qt.QFileDialog.getOpenFileName(None, "Open")

    def test_file_dialogs_return_a_string(self, host) -> None:
        host.dialogs.expect_paths("/a/b", "")
        assert qt.QFileDialog.getSaveFileName(None, "Save") == "/a/b"
        assert qt.QFileDialog.getExistingDirectory(None, "Folder") == ""

    def test_errors_are_raised_again_and_the_cursor_restored(self, host) -> None:
        with pytest.raises(KeyError), slicer.util.tryWithErrorDisplay("Failed", waitCursor=True):
            raise KeyError
        assert qt.QApplication.overrideCursor() is None

    def test_the_main_window_selects_modules(self) -> None:
        with Host(main_window=True):
            assert slicer.util.mainWindow().name == "qSlicerMainWindow"
            assert slicer.util.showStatusMessage("hello") is True
            slicer.util.selectModule("Volumes")
            assert slicer.util.selectedModule() == "Volumes"
        with Host():
            assert slicer.util.mainWindow() is None


class TestSettings:
    def test_they_start_empty_and_are_shared_with_qsettings(self, host) -> None:
        assert slicer.util.settingsValue("A/b", 3, converter=int) == 3
        slicer.app.userSettings().setValue("A/b", 4)
        assert slicer.util.settingsValue("A/b", 3, converter=int) == 4
        assert qt.QSettings().fileName().startswith(slicer.app.temporaryPath)

    def test_another_host_does_not_see_them(self) -> None:
        with Host():
            slicer.app.userSettings().setValue("A/c", 1)
        with Host():
            assert not slicer.app.userSettings().contains("A/c")
