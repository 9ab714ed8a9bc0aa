"""Apply and Cancel, progress, warnings and log of a run."""

from __future__ import annotations

import html
import platform
from pathlib import Path
from typing import Any

import qt
import slicer

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.errors import RunError
from ScoreFusionLib.logic.job import Progress, TranslateJob
from ScoreFusionLib.logic.run_state import RunState
from ScoreFusionLib.logic.wording import state_text, time_left


class RunSection:
    """Shows a job. What Apply does is the panel's business."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._job: TranslateJob | None = None
        self._advice: list[tuple[str, str]] = []
        self._failure: str = ""
        self._warnings: dict[str, str] = {}  # message to code
        self._installing = False
        self._progress = Progress(0.0, "")
        ui.copyLogButton.connect("clicked(bool)", lambda *_args: self.copy_log())
        ui.saveLogButton.connect("clicked(bool)", lambda *_args: self.save_log())

    @property
    def is_busy(self) -> bool:
        """True while a run is under way."""
        return self._job is not None and self._job.state.is_busy

    @property
    def job(self) -> TranslateJob | None:
        """The current or the last run."""
        return self._job

    def follow(self, job: TranslateJob) -> None:
        """Show a new job from its beginning."""
        self._job = job
        self._failure, self._warnings = "", job.warnings
        self._progress = Progress(0.0, "")
        self._ui.logText.clear()
        for line in job.log:
            self._ui.logText.appendPlainText(line)
        job.state_changed.connect(self._on_state)
        job.progressed.connect(self._on_progress)
        job.logged.connect(self._ui.logText.appendPlainText)
        job.warned.connect(lambda _code, _message: self._show_messages())
        job.failed.connect(self._on_failed)
        self._on_state(job.state)

    def show_advice(self, advice: list[tuple[str, str]]) -> None:
        """Show what speaks against a run, as (code, text)."""
        if advice != self._advice:
            self._advice = advice
            self._show_messages()

    def show_readiness(self, reason: str) -> None:
        """Let the button say whether it can be pressed, and why not."""
        button = self._ui.applyButton
        if self.is_busy:
            cancelling = not self._job.state.can_cancel  # type: ignore[union-attr]  # is_busy says that there is one
            button.setText(_("Cancel"))
            button.setEnabled(not cancelling)
            button.setToolTip(
                _("Nothing to cancel at this moment.") if cancelling else _("Stop the run. The scene stays as it was.")
            )
            return
        button.setText(_("Installing...") if self._installing else _("Apply"))
        button.setEnabled(not reason)
        button.setToolTip(reason or _("Run the model on the chosen volume."))

    def show_installation(self, line: str) -> None:
        """Show that packages are being installed, with the last line that was printed; empty when it has ended."""
        self._installing = bool(line)
        self._ui.progressBar.setMaximum(0)  # pip does not tell how far it is
        for widget in (self._ui.progressBar, self._ui.statusLabel):
            widget.setVisible(self._installing)
        self._ui.statusLabel.setText(line[:200])
        self.show_readiness(_("Packages are being installed.") if line else "")

    def show_failure(self, error: RunError) -> None:
        """Show a failure that happened before there was a job."""
        self._job = None
        self._failure, self._warnings = str(error), {}
        if error.details:
            self._ui.logText.appendPlainText(error.details)
        self._show_messages()

    def forget_messages(self) -> None:
        """Take what the last run said from the panel: it is not about what is chosen now. A run under way goes on."""
        if not self.is_busy:
            self._failure, self._warnings = "", {}
            self._show_messages()

    def log_text(self) -> str:
        """Return the log with what is needed to understand it."""
        from scorefusion.version import __version__

        version = getattr(slicer.app, "applicationVersion", "?")
        head = f"ScoreFusion {__version__}, Slicer {version}, {platform.platform()}, Python {platform.python_version()}"
        message = [self._failure] if self._failure else []
        return "\n".join([head, *message, "", self._ui.logText.plainText, ""])

    def copy_log(self) -> None:
        """Put the log on the clipboard."""
        qt.QApplication.clipboard().setText(self.log_text())

    def save_log(self) -> None:
        """Ask for a file and write the log to it."""
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Save log"), "ScoreFusion-log.txt", _("Text (*.txt)")
        )
        if path:
            Path(path).write_text(self.log_text(), encoding="utf-8")

    def _on_state(self, state: RunState) -> None:
        self._ui.progressBar.setVisible(state.is_busy)
        self._ui.statusLabel.setVisible(state.is_busy)
        # Nothing is known of the length of these states: a bar that moves by itself tells that something is going on.
        self._ui.progressBar.setMaximum(1000 if state is RunState.RUNNING else 0)
        self._show_progress()
        self.show_readiness("")

    def _on_progress(self, progress: Progress) -> None:
        self._progress = progress
        self._show_progress()

    def _show_progress(self) -> None:
        if self._job is None:
            return
        self._ui.progressBar.setValue(int(1000 * self._progress.share))
        left = time_left(self._progress.seconds_left)
        self._ui.statusLabel.setText(state_text(self._job.state, self._progress.stage, left))

    def _on_failed(self, error: RunError) -> None:
        self._failure = str(error)
        if error.details and error.details not in self._ui.logText.plainText:
            self._ui.logText.appendPlainText(error.details)
        self._ui.logSection.collapsed = False
        self._show_messages()

    def _show_messages(self) -> None:
        """Failure, then warnings of the run, then advice; a pop-up would only be clicked away."""
        lines = []
        if self._failure:
            lines.append("<b>{title}</b> {text}".format(title=_("Not done:"), text=html.escape(self._failure)))
        # The engine warns of the same things in its own words: one of the two is enough.
        told = {code.removeprefix("outside-domain-") for code in self._warnings.values()}
        texts = [*self._warnings, *(text for code, text in self._advice if code not in told)]
        lines += [f"&#9888; {html.escape(text)}" for text in texts]
        self._ui.warningsLabel.setText("<br>".join(lines))
        self._ui.warningsLabel.setVisible(bool(lines))
