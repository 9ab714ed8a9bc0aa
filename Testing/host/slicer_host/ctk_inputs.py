"""CTK's buttons, boxes and path editors."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from slicer_host.pythonqt import native


@native
class ctkCheckBox(QtWidgets.QCheckBox):
    """A check box that may show an icon instead of its mark."""

    indicatorIcon = QtCore.Property(  # noqa: N815
        QtGui.QIcon, lambda self: getattr(self, "_icon", QtGui.QIcon()), lambda self, icon: setattr(self, "_icon", icon)
    )


@native
class ctkComboBox(QtWidgets.QComboBox):
    """A combo box with a text for the state in which nothing is chosen."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._default_text = ""

    def _set_default_text(self, text: str) -> None:
        self._default_text = text
        self.setPlaceholderText(text)

    defaultText = QtCore.Property(str, lambda self: self._default_text, _set_default_text)  # noqa: N815

    def setDefaultText(self, text: str) -> None:  # noqa: N802
        """Set the text shown while nothing is chosen."""
        self._set_default_text(text)


@native
class ctkPushButton(QtWidgets.QPushButton):
    """A push button (CTK's can elide and align its text)."""


@native
class ctkCheckablePushButton(QtWidgets.QPushButton):
    """A push button with a check mark."""


@native
class ctkColorPickerButton(QtWidgets.QPushButton):
    """A button that holds a colour."""

    colorChanged = QtCore.Signal(QtGui.QColor)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._color = QtGui.QColor(0, 0, 0)

    def setColor(self, color: QtGui.QColor) -> None:  # noqa: N802
        """Set the colour."""
        if color != self._color:
            self._color = color
            self.colorChanged.emit(color)

    color = QtCore.Property(QtGui.QColor, lambda self: self._color, setColor)


@native
class ctkPathLineEdit(QtWidgets.QWidget):
    """A line for a path, with a browse button; `currentPath` is a string, as typed."""

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)

    # Values of the C++ enumeration Filter
    Dirs, Files, Drives, NoSymLinks, Readable, Writable, Executable, Hidden, System = 1, 2, 4, 8, 16, 32, 64, 256, 512

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._filters, self._name_filters, self._label, self._settings_key = self.Files, [], "", ""
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._edit = QtWidgets.QComboBox(self)
        self._edit.setEditable(True)
        self._edit.setObjectName("PathLineEdit")
        self._edit.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        self._browse = QtWidgets.QToolButton(self)
        self._browse.setObjectName("BrowseButton")
        self._browse.setText("...")
        layout.addWidget(self._edit, 1)
        layout.addWidget(self._browse)
        self._edit.connect("editTextChanged(QString)", self._on_text)
        self._browse.connect("clicked()", self.browse)

    def _on_text(self, text: str) -> None:
        self.currentPathChanged.emit(text)
        self.validInputChanged.emit(bool(text))

    def setCurrentPath(self, path: str) -> None:  # noqa: N802
        """Set the path; signals are sent only if it differs."""
        if not isinstance(path, str):
            msg = f"setCurrentPath expects a string, got {type(path).__name__}"
            raise TypeError(msg)
        if path != self._edit.currentText:
            self._edit.setEditText(path)

    def browse(self) -> None:
        """Ask the user for a path."""
        from slicer_host.dialogs import desk

        path = desk.take_path("Path", self._label)
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self) -> None:  # noqa: N802
        """Remember the current path among the choices."""
        path = self._edit.currentText
        if path and self._edit.findText(path) < 0:
            self._edit.addItem(path)

    currentPath = QtCore.Property(str, lambda self: self._edit.currentText, setCurrentPath)  # noqa: N815
    filters = QtCore.Property(int, lambda self: self._filters, lambda self, v: setattr(self, "_filters", int(v)))
    nameFilters = QtCore.Property(  # noqa: N815
        "QStringList", lambda self: self._name_filters, lambda self, v: setattr(self, "_name_filters", list(v))
    )
    label = QtCore.Property(str, lambda self: self._label, lambda self, v: setattr(self, "_label", v))
    settingKey = QtCore.Property(  # noqa: N815
        str, lambda self: self._settings_key, lambda self, v: setattr(self, "_settings_key", v)
    )
    showBrowseButton = QtCore.Property(  # noqa: N815
        bool, lambda self: not self._browse.isHidden(), lambda self, v: self._browse.setVisible(v)
    )
    showHistoryButton = QtCore.Property(bool, lambda self: True, lambda self, v: None)  # noqa: N815
    sizeAdjustPolicy = QtCore.Property(int, lambda self: 0, lambda self, v: None)  # noqa: N815


@native
class ctkDirectoryButton(QtWidgets.QWidget):
    """A button that shows and chooses a folder."""

    directoryChanged = QtCore.Signal(str)
    directorySelected = QtCore.Signal(str)

    def __init__(self, *args: Any) -> None:
        parent = next((arg for arg in args if isinstance(arg, QtWidgets.QWidget)), None)
        super().__init__(parent)
        self._directory = QtCore.QDir.currentPath()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._button = QtWidgets.QPushButton(self._directory, self)
        layout.addWidget(self._button)
        self._button.connect("clicked()", self.browse)

    def setDirectory(self, directory: str) -> None:  # noqa: N802
        """Set the folder."""
        absolute = QtCore.QDir(directory).absolutePath()
        if absolute != self._directory:
            self._directory = absolute
            self._button.setText(absolute)
            self.directoryChanged.emit(absolute)

    def browse(self) -> None:
        """Ask the user for a folder."""
        chosen = QtWidgets.QFileDialog.getExistingDirectory(self, self.caption)
        if chosen:
            self.setDirectory(chosen)
            self.directorySelected.emit(chosen)

    directory = QtCore.Property(str, lambda self: self._directory, setDirectory)
    caption = QtCore.Property(
        str, lambda self: getattr(self, "_caption", ""), lambda self, v: setattr(self, "_caption", v)
    )


@native
class ctkMessageBox(QtWidgets.QMessageBox):
    """A message box with "don't show this again"; an answer that was kept in the settings closes it at once."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings_key = ""

    dontShowAgainSettingsKey = QtCore.Property(  # noqa: N815
        str, lambda self: self._settings_key, lambda self, v: setattr(self, "_settings_key", v)
    )

    def setDontShowAgainSettingsKey(self, key: str) -> None:  # noqa: N802
        """Set the settings key that keeps the user's answer."""
        self._settings_key = key

    def setDontShowAgainVisible(self, visible: bool) -> None:  # noqa: N802
        """Show or hide the check box."""

    def exec(self) -> int:
        """Show the box, unless the answer is already in the settings."""
        kept = int(QtCore.QSettings().value(self._settings_key, 0) or 0) if self._settings_key else 0
        return kept or super().exec()

    exec_ = exec  # noqa: A003
