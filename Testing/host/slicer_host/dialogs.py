"""Dialogs without a user: a test says beforehand what the user will answer.

In Slicer a modal dialog waits for the user. In a test nobody comes, so a dialog that no test expected is closed
after a few seconds (longer than Slicer's own pop-ups, which close by themselves) and reported as an error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import slicer.util
from PySide6 import QtCore, QtGui, QtWidgets

PATIENCE_MS = 5000


class UnexpectedDialogError(RuntimeError):
    """A dialog waits for a user, and the test did not say what the user would do."""


class DialogDesk:
    """Holds the answers that a test has prepared, and what was shown: dialogs, and pages in the browser."""

    def __init__(self) -> None:
        self._handlers: list[Callable[[QtWidgets.QDialog], Any]] = []
        self._paths: list[Any] = []
        self.shown: list[str] = []
        self.opened_urls: list[str] = []

    def expect(self, handler: Callable[[QtWidgets.QDialog], Any] | int) -> None:
        """Answer the next modal dialog: by its result code, or by a function that is given the open dialog."""
        self._handlers.append(handler if callable(handler) else lambda dialog: dialog.done(int(handler)))

    def expect_paths(self, *paths: str | Path) -> None:
        """Answer the next file dialogs, one path for each; `""` means that the user cancels."""
        self._paths.extend(str(path) for path in paths)

    def clear(self) -> None:
        """Forget the prepared answers and the record of dialogs."""
        self._handlers.clear()
        self._paths.clear()
        self.shown.clear()
        self.opened_urls.clear()

    def take_path(self, kind: str, title: str) -> str:
        """Return the prepared answer to a file dialog."""
        self.shown.append(f"{kind}: {title}")
        if not self._paths:
            msg = f"{kind} '{title}' asks the user for a file; prepare the answer with host.dialogs.expect_paths(...)"
            raise UnexpectedDialogError(msg)
        return self._paths.pop(0)

    def run(self, dialog: QtWidgets.QDialog, execute: Callable[[QtWidgets.QDialog], int]) -> int:
        """Show a modal dialog until the prepared handler, or the program itself, closes it."""
        message = _describe(dialog)
        self.shown.append(message)
        handler = self._handlers.pop(0) if self._handlers else None
        abandoned = []

        def answer() -> None:
            if handler is not None:
                handler(dialog)

        def give_up() -> None:
            if dialog.isVisible():
                abandoned.append(True)
                dialog.reject()

        # `slicer.util` says deleteLater() before exec_(). Slicer's main loop keeps the dialog until it returns there; a
        # test has no main loop, and Qt would delete it as soon as its own loop begins.
        QtCore.QCoreApplication.removePostedEvents(dialog, int(QtCore.QEvent.DeferredDelete))
        QtCore.QTimer.singleShot(0, dialog, answer)
        QtCore.QTimer.singleShot(PATIENCE_MS, dialog, give_up)
        result = execute(dialog)
        if abandoned:
            msg = f"A dialog waits for the user: {message}. Prepare the answer with host.dialogs.expect(...)"
            raise UnexpectedDialogError(msg)
        return result


desk = DialogDesk()


def answer_yes_in_testing() -> None:
    """Let `slicer.util` confirm under testing, as its documentation says.

    Its code compares True with a button, and so far answers no: a module must be safe with either.
    """
    for name in ("confirmOkCancelDisplay", "confirmYesNoDisplay"):
        original = getattr(slicer.util, name)

        def confirm(text: str, *args: Any, original: Callable[..., bool] = original, **options: Any) -> bool:
            answer = original(text, *args, **options)
            return True if slicer.app.testingEnabled() else answer

        setattr(slicer.util, name, confirm)


def _describe(dialog: QtWidgets.QDialog) -> str:
    if isinstance(dialog, QtWidgets.QMessageBox):
        text = dialog.text
    else:
        text = " / ".join(label.text for label in dialog.findChildren(QtWidgets.QLabel))
    return f"{type(dialog).__name__} '{dialog.windowTitle}': {text}"


def install() -> None:
    """Replace the blocking calls of Qt. PythonQt's file dialogs return the path only, not (path, filter)."""
    answer_yes_in_testing()
    original = QtWidgets.QDialog.exec

    def run(dialog: QtWidgets.QDialog) -> int:
        return desk.run(dialog, original)

    QtWidgets.QDialog.exec = run
    QtWidgets.QDialog.exec_ = run
    for cls in (QtWidgets.QMessageBox, QtWidgets.QFileDialog, QtWidgets.QInputDialog, QtWidgets.QProgressDialog):
        cls.exec = run
        cls.exec_ = run

    def one_path(parent: Any = None, caption: str = "", *_: Any, **__: Any) -> str:
        return desk.take_path("File dialog", caption)

    def many_paths(parent: Any = None, caption: str = "", *_: Any, **__: Any) -> tuple[str, ...]:
        path = desk.take_path("File dialog", caption)
        return tuple(path.split(";")) if path else ()

    for name in ("getOpenFileName", "getSaveFileName", "getExistingDirectory"):
        setattr(QtWidgets.QFileDialog, name, staticmethod(one_path))
    QtWidgets.QFileDialog.getOpenFileNames = staticmethod(many_paths)

    def message_box(icon: QtWidgets.QMessageBox.Icon) -> Callable[..., int]:
        def show(parent: Any, title: str, text: str, buttons: int = QtWidgets.QMessageBox.Ok, *_: Any) -> int:
            box = QtWidgets.QMessageBox(icon, title, text, QtWidgets.QMessageBox.StandardButton(buttons), parent)
            return box.exec_()

        return show

    for name, icon in (("information", "Information"), ("warning", "Warning"), ("critical", "Critical")):
        setattr(QtWidgets.QMessageBox, name, staticmethod(message_box(getattr(QtWidgets.QMessageBox, icon))))

    def question(parent: Any, title: str, text: str, buttons: int | None = None, *_: Any) -> int:
        both = QtWidgets.QMessageBox.Yes | QtWidgets.QMessageBox.No
        return message_box(QtWidgets.QMessageBox.Question)(parent, title, text, both if buttons is None else buttons)

    QtWidgets.QMessageBox.question = staticmethod(question)

    def open_url(url: QtCore.QUrl) -> bool:
        desk.opened_urls.append(url.toString())
        return True

    QtGui.QDesktopServices.openUrl = staticmethod(open_url)
