"""Where the engine lies, and how its command is started under Slicer's own Python."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.errors import RunError
from ScoreFusionLib.logic.process_tree import IS_WINDOWS

MODULE_FOLDER = Path(__file__).resolve().parents[2]  # holds ScoreFusion.py, ScoreFusionLib and scorefusion


def python_executable() -> str:
    """Return the Python that the worker runs under: PythonSlicer, or the interpreter in use outside Slicer.

    Raises:
        RunError: There is none.
    """
    found = shutil.which("PythonSlicer")
    if found:
        return found
    if Path(sys.executable or "").name.lower().startswith("python"):
        return sys.executable
    msg = _("PythonSlicer was not found beside Slicer. Reinstall Slicer; the file belongs to every installation.")
    raise RunError(msg)


def engine_command(arguments: list[str], *, stop_with_slicer: bool = False) -> list[str]:
    """Return the command line that runs `scorefusion` with `arguments`.

    Args:
        arguments: Verb and options.
        stop_with_slicer: Let the worker end when its standard input closes, thus when Slicer ends. On Windows the job
            object does that (see process_tree.py).
    """
    tail = ["--stop-on-stdin-close"] if stop_with_slicer and not IS_WINDOWS else []
    return [python_executable(), "-m", "scorefusion", *arguments, *tail]


def quality_command(result: Path) -> list[str]:
    """Return the command line of the worker that compares a result; what with is still to be added."""
    return [python_executable(), "-m", "ScoreFusionLib.logic.quality", "--result", str(result)]


def worker_environment() -> dict[str, str]:
    """Return the environment of a worker: that of Slicer's start, plus the way to the engine."""
    environment = _startup_environment()
    environment.update({key: value for key, value in os.environ.items() if key.startswith("SCOREFUSION_")})
    paths = [str(MODULE_FOLDER), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["PYTHONIOENCODING"] = "utf-8"  # user names with accents
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONFAULTHANDLER"] = "1"  # a crash leaves its name in the log; see failure.py
    return environment


def _startup_environment() -> dict[str, str]:
    try:
        import slicer.util

        return dict(slicer.util.startupEnvironment())
    except (ImportError, AttributeError):  # no application: plain Python
        return dict(os.environ)
