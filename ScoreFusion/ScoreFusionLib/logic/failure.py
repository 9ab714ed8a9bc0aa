"""From the way a worker ended to a sentence that tells the user what to do."""

from __future__ import annotations

import re
import signal

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.errors import RunError
from ScoreFusionLib.logic.events import Event

_MISSING_MODULE = "No module named "
# PythonSlicer's launcher ends with exit code 1 and this line, however its child died (ctkAppLauncher.cpp).
_DIED_BELOW_LAUNCHER = "exit abnormally"
# What Python itself says of a crash, and never of a kill: the worker runs with PYTHONFAULTHANDLER.
_CRASH = re.compile(r"(?:Fatal Python error|Windows fatal exception): ([^\n]+)")


def explain(returncode: int, error: Event | None, log_tail: str) -> RunError:
    """Return the error for a worker that ended without a result.

    Args:
        returncode: Exit code; negative for a signal, as in `subprocess`.
        error: The worker's own `error` event, if it sent one.
        log_tail: The last lines of its log.
    """
    if error is not None:
        return RunError(str(error.get("message") or error.get("kind") or _("unknown error")), log_tail)
    return RunError(_without_event(returncode, log_tail), log_tail)


def _without_event(returncode: int, log_tail: str) -> str:
    if _MISSING_MODULE in log_tail:
        module = log_tail.rsplit(_MISSING_MODULE, 1)[1].split()[0].strip("'\".;")
        return _(
            "The Python package '{module}' is missing. Press Apply again and accept the installation; without a "
            "network, see 'Installing offline' in the documentation."
        ).format(module=module)
    if "out of memory" in log_tail.lower() or "MemoryError" in log_tail:
        return _("Memory ran out. Choose the preset 'fast', the device 'cpu', or crop the volume, then run again.")
    crash = _CRASH.search(log_tail)
    if crash is not None or returncode < 0 and returncode not in (-9, -15):
        name = crash.group(1) if crash is not None else signal.strsignal(-returncode) or str(-returncode)
        return _("The worker crashed ({name}). Run again on the device 'cpu'; if it recurs, send us the log.").format(
            name=name
        )
    if returncode in (-9, 137) or _DIED_BELOW_LAUNCHER in log_tail:  # SIGKILL: seen directly, by a shell, a launcher
        return _(
            "The worker was killed from outside, most often because the computer ran out of memory. Close other "
            "programs, choose the preset 'fast' or crop the volume, then run again."
        )
    if returncode in (-15, 130, 143):
        return _("The worker was stopped from outside. Run again.")
    if returncode == 0:
        return _("The worker ended without a result. Run again; if it recurs, send us the log.")
    return _("The worker ended unexpectedly (exit code {code}). The log below tells more.").format(code=returncode)
