"""The host: loads an unmodified scripted module beside a real scene, and lets a test drive it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import slicer
import slicer.util

from slicer_host import dialogs, environment, older_slicer, palette, pythonqt, pytorch_utils
from slicer_host.app import SlicerApplication, make_qt_application, qt_messages
from slicer_host.heartbeat import Heartbeat
from slicer_host.io_manager import CoreIOManager
from slicer_host.layout import LayoutManager
from slicer_host.layout_picture import draw_layout
from slicer_host.main_window import MainWindow
from slicer_host.modules import BuiltInModule, ScriptedModule, forget_imports, import_file
from slicer_host.scene import SceneParts

# isort: split
from PySide6 import QtCore, QtWidgets


class Host:
    """A small Slicer.

    Only one host is open at a time, since `slicer.app`, `slicer.mrmlScene` and `slicer.modules` are global:
    `close()` it, or use it as a context manager.

    Args:
        version: (major, minor) of the Slicer that is imitated; before 5.12 what came with it is missing (see
            older_slicer.py).
        testing: what `slicer.app.testingEnabled()` says; message boxes are answered by themselves if True.
        main_window: make the window that `slicer.util.mainWindow()` returns. Without it, as under `--no-main-window`,
            information boxes are only logged.
        torch: state of the PyTorch extension: "missing" (no extension), "not installed" (extension without torch),
            or "installed".
    """

    _open: Host | None = None

    def __init__(
        self,
        version: tuple[int, int] = (5, 12),
        testing: bool = True,
        main_window: bool = False,
        torch: str = "installed",
    ) -> None:
        if Host._open is not None:
            msg = "A Host is open already; close() it first"
            raise RuntimeError(msg)
        pytorch_utils.check_state(torch)
        Host._open = self
        self.errors: list[str] = []
        self.dialogs = dialogs.desk
        self.dialogs.clear()
        self.unknown_signals, self.qt_messages = pythonqt.unknown_signals, qt_messages
        self.unknown_signals.clear()
        self.qt_messages.clear()
        self._previous_excepthook = sys.excepthook
        sys.excepthook = self._on_error
        self._qt = make_qt_application()
        self.app = SlicerApplication(self._qt, version)
        self.app.setTestingEnabled(testing)
        self._parts = SceneParts(self.app.cachePath)
        self.scene = self._parts.scene
        self._start_application(version, torch)
        if main_window:
            self._main_window = MainWindow(self)
            self._main_window.show()
        self._heartbeat = Heartbeat()

    def _start_application(self, version: tuple[int, int], torch: str) -> None:
        slicer.app = self.app
        slicer.modules = SimpleNamespace()
        slicer.selfTests = {}
        environment.prepare(version, torch, Path(self.app.temporaryPath))
        logic = self._parts.application_logic
        self.app._scene = self.scene
        self.app._application_logic = logic
        self.app._layout_manager = LayoutManager(self.scene, logic)
        self.app._io_manager = CoreIOManager(self.scene, logic, self._parts.logics["volumes"])
        for name, logic in self._parts.logics.items():
            setattr(slicer.modules, name, BuiltInModule(name, logic))
            self.app.moduleManager().modules[name.capitalize()] = getattr(slicer.modules, name)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _on_error(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """Record an exception that left a slot, a timer or an observer: in Slicer it only appears in the log."""
        self.errors.append(f"{kind.__name__}: {error}")
        self._previous_excepthook(kind, error, trace)

    @property
    def pip_calls(self) -> list[dict[str, Any]]:
        """What modules wanted to install, by `slicer.packaging` or `slicer.util.pip_install`."""
        return older_slicer.pip_calls()

    @property
    def pip(self) -> Any:
        """What pip prints and how it ends; see `slicer_package/packaging.py`."""
        return older_slicer.packaging_module().pip

    # --- modules ---

    def load_module(self, path: str | Path) -> ScriptedModule:
        """Import a scripted module and register it, as the application does at start.

        Args:
            path: the module's .py file, unmodified.

        Returns:
            The module object, which is also `slicer.modules.<lower-case name>`.
        """
        module = ScriptedModule(Path(path).resolve())
        python_module = import_file(Path(module.path))
        module.instance = getattr(python_module, module.name)(module)
        setattr(slicer.modules, module.name.lower(), module)
        manager = self.app.moduleManager()
        manager.modules[module.name] = module
        manager.emit("moduleLoaded(QString)", module.name)
        self.app.emit("startupCompleted()")
        self.process_events()
        return module

    def open(self, module: ScriptedModule | str, width: int = 500) -> Any:
        """Select a module, as the user does: its panel is made at the first call, shown, and entered.

        Args:
            module: the module or its name.
            width: of the panel, in pixels.

        Returns:
            The module's own widget object (`FooWidget`).
        """
        if isinstance(module, str):
            module = self.app.moduleManager().modules[module]
        self.leave()
        panel = module.widgetRepresentation()
        panel.resize(width, max(panel.sizeHint.height(), 600))
        panel.show()
        panel.enter()
        self.process_events()
        return panel.self()

    def leave(self) -> None:
        """Leave the selected module, as the user does by selecting another one."""
        for module in self._scripted_modules():
            panel = module.panel()
            if panel is not None:
                panel.exit()
                panel.hide()

    def _scripted_modules(self) -> list[ScriptedModule]:
        return [module for module in self.app.moduleManager().modules.values() if isinstance(module, ScriptedModule)]

    def unload(self, module: ScriptedModule) -> None:
        """Unload a module: exit, cleanup, and forget its panel."""
        if module.panel() is not None:
            module.panel().exit()
        manager = self.app.moduleManager()
        manager.emit("moduleAboutToBeUnloaded(QString)", module.name)
        module.forget_panel()
        for name in (module.name.lower(), f"{module.name}Widget"):
            if hasattr(slicer.modules, name):
                delattr(slicer.modules, name)
        slicer.selfTests.pop(module.name, None)
        manager.modules.pop(module.name, None)
        forget_imports(module.name)
        manager.emit("moduleUnloaded(QString)", module.name)

    # --- time ---

    def process_events(self, seconds: float = 0.0) -> None:
        """Run the event loop: once through, or for a time."""
        end = time.monotonic() + seconds
        while True:
            QtCore.QCoreApplication.processEvents()
            QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)
            remaining = end - time.monotonic()
            if remaining <= 0:
                return
            time.sleep(min(0.005, remaining))

    def wait_until(self, predicate: Callable[[], Any], timeout: float = 10.0) -> Any:
        """Run the event loop until a condition holds.

        Args:
            predicate: called without arguments.
            timeout: seconds.

        Returns:
            What the predicate returned.

        Raises:
            TimeoutError: the condition did not hold in time.
        """
        end = time.monotonic() + timeout
        while True:
            result = predicate()
            if result:
                return result
            if time.monotonic() > end:
                errors = f"; errors meanwhile: {self.errors}" if self.errors else ""
                msg = f"Condition did not hold within {timeout} s{errors}"
                raise TimeoutError(msg)
            self.process_events(0.005)

    def max_event_loop_gap(self) -> float:
        """Return the longest time (s) for which the event loop stood still since `reset_event_loop_gap()`.

        Measured by a timer of 10 ms while the event loop runs (`process_events`, `wait_until`): what blocks the loop
        here would freeze Slicer's window.
        """
        return self._heartbeat.longest_gap()

    def reset_event_loop_gap(self) -> None:
        """Start a new measurement."""
        self._heartbeat.reset()

    # --- scene ---

    def close_scene(self) -> None:
        """Close the scene, as File > Close Scene does: singleton nodes, such as parameter nodes, are reset and stay."""
        self.scene.Clear(0)
        self.process_events()

    # --- pictures ---

    def grab(self, widget: Any, path: str | Path | None = None, width: int | None = None, height: int | None = None):
        """Take a picture of a widget.

        Args:
            widget: a Qt widget, or a module's widget object (then its whole panel).
            path: .png to write; None writes nothing.
            width: width in pixels; None keeps the widget's.
            height: height in pixels; None takes what the contents need.

        Returns:
            The picture, a QImage.
        """
        if not isinstance(widget, QtWidgets.QWidget):
            widget = widget.parent
        width = width or widget.width
        widget.resize(width, height or max(widget.heightForWidth(width), widget.sizeHint.height()))
        self.process_events()
        image = widget.grab().toImage()
        _save(image, path)
        return image

    def set_view_size(self, width: int, height: int) -> None:
        """Set the size of the area of all views, in pixels (at first 900 x 600); fitting a slice depends on it."""
        self.app.layoutManager().resize(width, height)

    def grab_layout(self, path: str | Path | None = None) -> Any:
        """Take a picture of the views as the current layout arranges them: real slices, drawn by VTK.

        Args:
            path: .png to write; None writes nothing.

        Returns:
            The picture, a QImage of the size given to `set_view_size`.
        """
        self.process_events()  # a layout that was just chosen is arranged by the event loop
        image = draw_layout(self.app.layoutManager())
        _save(image, path)
        return image

    def set_dark(self, dark: bool = True) -> None:
        """Switch between Slicer's light and dark colours."""
        palette.apply(dark)
        self.process_events()

    # --- end ---

    def close(self) -> None:
        """Leave and unload all modules, empty the scene, and give up `slicer.app`."""
        if Host._open is not self:
            return
        for module in self._scripted_modules():
            self.unload(module)
        self.process_events()
        self._heartbeat.stop()
        for widget in QtWidgets.QApplication.topLevelWidgets():
            widget.close()
            widget.deleteLater()
        self.process_events()
        palette.apply(dark=False)
        self.app.layoutManager().close()
        self._parts.close()
        environment.restore()
        self.app.close()
        sys.excepthook = self._previous_excepthook
        Host._open = None


def _save(image: Any, path: str | Path | None) -> None:
    if path is None:
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not image.save(str(path)):
        msg = f"Could not write the picture {path}"
        raise OSError(msg)
