"""`slicer.app`, and the objects that hang on it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from slicer_host import pythonqt

# isort: split
from PySide6 import QtCore, QtWidgets


class Signals:
    """A plain object with string connections, for those parts of the application that are no widgets here."""

    def __init__(self, *signatures: str) -> None:
        self._targets: dict[str, list[Callable]] = {signature: [] for signature in signatures}

    def connect(self, signature: str, function: Callable) -> bool:
        """Connect a signal; an unknown one is reported, as PythonQt does."""
        if signature not in self._targets:
            pythonqt.unknown_signals.append(f"{signature} on {type(self).__name__}")
            return False
        self._targets[signature].append(function)
        return True

    def disconnect(self, signature: str, function: Callable) -> bool:
        """Undo a connection."""
        made = self._targets.get(signature, [])
        if function in made:
            made.remove(function)
            return True
        return False

    def emit(self, signature: str, *arguments: Any) -> None:
        """Call everything that is connected."""
        for function in list(self._targets[signature]):
            accepted = pythonqt._accepted_arguments(function)
            function(*(arguments if accepted is None else arguments[:accepted]))


class ModuleFactoryManager:
    """Names of the loaded modules."""

    def __init__(self, modules: dict[str, Any]) -> None:
        self._modules = modules

    def loadedModuleNames(self) -> tuple[str, ...]:
        """Return the names of all loaded modules."""
        return tuple(self._modules)


class ModuleManager(Signals):
    """The modules of the application."""

    def __init__(self) -> None:
        super().__init__("moduleLoaded(QString)", "moduleAboutToBeUnloaded(QString)", "moduleUnloaded(QString)")
        self.modules: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        """Return a module by name, or None."""
        return self.modules.get(name)

    def isLoaded(self, name: str) -> bool:
        """Tell whether a module is loaded."""
        return name in self.modules

    def factoryManager(self) -> ModuleFactoryManager:
        """Return the object that knows what is loaded."""
        return ModuleFactoryManager(self.modules)


class ExtensionsManagerModel(Signals):
    """Installs nothing; records which extensions a module asks for. Tests set `installed` beforehand."""

    def __init__(self) -> None:
        super().__init__("extensionInstalled(QString)", "extensionUninstalled(QString)")
        self.installed: set[str] = set()
        self.requested: list[str] = []
        self.interactive = True
        self.refuse = False

    def isExtensionInstalled(self, name: str) -> bool:
        """Tell whether an extension is installed."""
        return name in self.installed

    def installExtensionFromServer(self, name: str, restart: bool = True, update: bool = False) -> bool:
        """Ask whether to install and, if `restart`, whether to restart; then the extension counts as installed.

        Neither is asked in testing (installed, not restarted) and when not `interactive` (installed and restarted).
        Fails if `refuse` is set.
        """
        if name in self.installed:
            return True
        testing = slicer.app.testingEnabled()
        if not testing and self.interactive and not _is_confirmed("Install extension ?", f"Install '{name}' now?"):
            return False
        self.requested.append(name)
        slicer.app.processEvents()  # while it downloads
        if self.refuse:
            return False
        self.installed.add(name)
        if restart and not testing and (not self.interactive or _is_confirmed("Restart slicer ?", "Restart now?")):
            slicer.app.restart()
        return True

    def updateExtensionsMetadataFromServer(self, force: bool = False, waitForComplete: bool = False) -> bool:
        """Do nothing: there is no server."""
        return True


def _is_confirmed(title: str, text: str) -> bool:
    return QtWidgets.QMessageBox.question(None, title, text) == QtWidgets.QMessageBox.Yes


class SlicerApplication(Signals):
    """What modules reach as `slicer.app`. Unknown names are looked up on the QApplication."""

    def __init__(self, qt_application: QtWidgets.QApplication, version: tuple[int, int]) -> None:
        super().__init__("startupCompleted()", "aboutToQuit()", "mrmlSceneChanged(vtkMRMLScene*)", "lastWindowClosed()")
        self._qt = qt_application
        self._scene: Any = None
        self._folder = tempfile.TemporaryDirectory(prefix="slicer-host-")
        self._testing = True
        self._restart_requested = False
        self._paused = 0
        self.majorVersion, self.minorVersion = version
        self.applicationVersion = f"{version[0]}.{version[1]}.0-host"
        self.revision = "host"
        self.repositoryRevision = "host"
        self.applicationName = "Slicer"
        self.os = {"Linux": "linux", "Darwin": "macosx", "Windows": "win"}.get(platform.system(), "linux")
        self.arch = "amd64"
        self.commandOptions = lambda: None
        self.startup_variables = dict(os.environ)
        self.translations: dict[str, str] = {}
        self._extensions = ExtensionsManagerModel()
        self._module_manager = ModuleManager()
        # `qt.QSettings()` in a module and `userSettings()` are the same file, new for each host.
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, self.temporaryPath)
        self._settings = QtCore.QSettings()
        self._layout_manager: Any = None
        self._io_manager: Any = None
        self._application_logic: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._qt, name)

    def close(self) -> None:
        """Remove the temporary folder."""
        self._folder.cleanup()

    # --- folders, settings, environment ---

    @property
    def temporaryPath(self) -> str:
        """Folder for temporary files."""
        return self._folder.name

    @property
    def slicerHome(self) -> str:
        """Folder of the application; here an empty one."""
        return self._folder.name

    @property
    def slicerUserSettingsFilePath(self) -> str:
        """Path of the user's settings."""
        return self._settings.fileName()

    @property
    def cachePath(self) -> str:
        """Folder for downloads."""
        path = Path(self._folder.name) / "cache"
        path.mkdir(exist_ok=True)
        return str(path)

    def userSettings(self) -> QtCore.QSettings:
        """Return the user's settings."""
        return self._settings

    settings = userSettings

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        """Return the environment as it was before the launcher changed it."""
        environment = QtCore.QProcessEnvironment()
        for name, value in self.startup_variables.items():
            environment.insert(name, value)
        return environment

    # --- parts ---

    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._scene

    def applicationLogic(self) -> Any:
        """Return the logic that propagates the active volumes and finds other logics."""
        return self._application_logic

    mrmlApplicationLogic = applicationLogic

    def layoutManager(self) -> Any:
        """Return the layout manager."""
        return self._layout_manager

    def coreIOManager(self) -> Any:
        """Return the manager of reading and writing."""
        return self._io_manager

    ioManager = coreIOManager

    def moduleManager(self) -> ModuleManager:
        """Return the manager of modules."""
        return self._module_manager

    def extensionsManagerModel(self) -> ExtensionsManagerModel:
        """Return the recorder of extension installs."""
        return self._extensions

    # --- behaviour ---

    def testingEnabled(self) -> bool:
        """Tell whether message boxes are answered by themselves."""
        return self._testing

    def setTestingEnabled(self, enabled: bool) -> None:
        """Switch testing mode; the real application has no such switch at run time."""
        self._testing = enabled

    def processEvents(self, *flags: Any) -> None:
        """Run the event loop until nothing is waiting."""
        QtCore.QCoreApplication.processEvents(*flags)

    def topLevelWidgets(self) -> list[QtWidgets.QWidget]:
        """Return all windows."""
        return QtWidgets.QApplication.topLevelWidgets()

    def setOverrideCursor(self, cursor: Any) -> None:
        """Push a mouse cursor."""
        QtWidgets.QApplication.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        """Pop a mouse cursor."""
        QtWidgets.QApplication.restoreOverrideCursor()

    def translate(self, context: str, text: str, *_: Any) -> str:
        """Return the translation of a text; `translations` is empty unless a test fills it."""
        return self.translations.get(text, text)

    def pauseRender(self) -> None:
        """Hold back rendering."""
        self._paused += 1

    def resumeRender(self) -> None:
        """Render again."""
        self._paused -= 1

    def restart(self) -> None:
        """Record that a restart was asked for."""
        self._restart_requested = True

    @property
    def restartRequested(self) -> bool:
        """True after `restart()`; for tests."""
        return self._restart_requested

    def exit(self, code: int = 0) -> None:
        """Do nothing: the test decides when the application ends."""

    quit = exit  # noqa: A003


# What Qt itself warned of, such as a layout that is set twice.
qt_messages: list[str] = []
_HARMLESS = ("This plugin does not support propagateSizeHints",)


def _on_qt_message(kind: QtCore.QtMsgType, context: Any, message: str) -> None:
    if not message.startswith(_HARMLESS):
        qt_messages.append(message)
        sys.stderr.write(message + "\n")


def make_qt_application() -> QtWidgets.QApplication:
    """Return the QApplication of this process, made at the first call: drawn to memory, with a plain style."""
    application = QtWidgets.QApplication.instance()
    if application is None:
        application = QtWidgets.QApplication(["Slicer"])
        QtCore.QCoreApplication.setOrganizationName("NA-MIC")
        QtCore.QCoreApplication.setApplicationName("Slicer")
        QtCore.qInstallMessageHandler(_on_qt_message)
        QtWidgets.QApplication.setStyle("Fusion")  # the style that looks the same everywhere
    return application


def add_widgets_to_slicer() -> None:
    """Put the qMRML classes and the other application classes into the `slicer` namespace."""
    from slicer_host import mrml_widgets
    from slicer_host.modules import ScriptedModule, ScriptedModuleWidget

    for name, cls in mrml_widgets.exported_classes().items():
        setattr(slicer, name, cls)
    slicer.qSlicerScriptedLoadableModule = ScriptedModule
    slicer.qSlicerScriptedLoadableModuleWidget = ScriptedModuleWidget
