"""`slicer.packaging`: installs nothing, and records what a module asks for.

Tests read `calls`, and `installed` (names of what pip was told to install, and did). They set `decline` to play a user
who says no, and `pip` to choose what pip prints and how it ends: a process that plays pip does run, and is waited for
as in Slicer, so the event loop goes on meanwhile.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import slicer.util
from packaging.requirements import InvalidRequirement, Requirement

calls: list[dict[str, Any]] = []
installed: set[str] = set()
decline = False


@dataclass
class PlayedPip:
    """What the next runs of pip do: print lines, `pause` seconds before each, and end with an exit code."""

    lines: tuple[str, ...] = ("Collecting packages", "Successfully installed packages")
    returncode: int = 0
    pause: float = 0.0

    def command(self) -> list[str]:
        """Return the command line of the process that plays pip, below PythonSlicer as in Slicer.

        The lines are hidden in it, since the error for a failed process names the command line.
        """
        text = "\n".join(self.lines).encode().hex()
        code = (
            "import sys, time\n"
            f"for line in bytes.fromhex('{text}').decode().split('\\n'):\n"
            f"    time.sleep({self.pause}); print(line, flush=True)\n"
            f"sys.exit({self.returncode})"
        )
        return [str(shutil.which("PythonSlicer")), "-c", code]


pip = PlayedPip()


def reset() -> None:
    """Forget the recorded calls, and let pip succeed."""
    global decline, pip
    decline, pip = False, PlayedPip()
    calls.clear()
    installed.clear()


def note_installed(requirements: Any) -> None:
    """Remember the names among some arguments of pip."""
    entries = requirements.split() if isinstance(requirements, str) else list(requirements)
    installed.update(re.split(r"[<>=!~ \[]", entry)[0] for entry in entries if not entry.startswith("-"))


def run_pip() -> None:
    """Play pip as `slicer.util.executePythonModule` runs it: its lines are printed, events are processed.

    Raises:
        CalledProcessError: pip failed. Its `output` is the stream, which was read to its end.
    """
    process = slicer.util.launchConsoleProcess(pip.command(), useStartupEnvironment=False)
    slicer.util.logProcessOutput(process)


def _run_pip_with_dialog() -> None:
    """Play pip as Slicer 5.12 runs it outside testing: below a modal window, and the error says nothing of the log."""
    import qt

    window, log, codes = qt.QDialog(slicer.util.mainWindow()), [], []
    window.setModal(True)
    window.show()

    def on_line(line: str) -> None:
        log.append(line)
        print(line)  # noqa: T201  (Slicer prints it to its Python console)

    slicer.util.launchConsoleProcess(
        pip.command(),
        useStartupEnvironment=False,
        blocking=False,
        logCallback=on_line,
        completedCallback=codes.append,
    )
    while not codes:
        slicer.app.processEvents()
        qt.QThread.msleep(10)
    window.close()
    if codes[0] != 0:
        slicer.util.errorDisplay("Package installation failed.", detailedText="\n".join(log))
        raise CalledProcessError(codes[0], "pip install")


def load_requirements(path: str | Path) -> list[Requirement]:
    """Read a requirements file; comments and pip's options are left out."""
    requirements = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        text = line.split(" #")[0].strip()
        if text and not text.startswith(("#", "-")):
            requirements.append(Requirement(text))
    return requirements


def load_pyproject_dependencies(path: str | Path) -> list[Requirement]:
    """Read the dependencies of a pyproject.toml."""
    import tomllib

    project = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    return [Requirement(text) for text in project.get("project", {}).get("dependencies", [])]


def _as_requirements(requirements: Any) -> list[Requirement]:
    entries = [requirements] if isinstance(requirements, (str, Requirement)) else list(requirements)
    try:
        return [entry if isinstance(entry, Requirement) else Requirement(entry) for entry in entries]
    except InvalidRequirement as error:
        msg = f"Not a requirement: {error}"
        raise ValueError(msg) from error


def pip_check(requirements: Any) -> bool:
    """Tell whether all requirements are installed; nothing is imported."""
    for requirement in _as_requirements(requirements):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return False
        if not requirement.specifier.contains(version, prereleases=True):
            return False
    return True


def pip_ensure(
    requirements: Any,
    prompt: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    **options: Any,
) -> None:
    """Record what should be installed.

    Raises:
        RuntimeError: the user declined.
    """
    entries = _as_requirements(requirements)
    calls.append(
        {"function": "pip_ensure", "requirements": [str(e) for e in entries], "requester": requester, **options}
    )
    if decline and not pip_check(entries):
        msg = f"User declined installation of {', '.join(str(entry) for entry in entries)}"
        raise RuntimeError(msg)


def pip_install(requirements: Any, **options: Any) -> None:
    """Record what should be installed, and play pip. In testing as well: Slicer installs there too.

    Raises:
        CalledProcessError: pip failed.
    """
    calls.append({"function": "pip_install", "requirements": requirements, **options})
    if slicer.app.testingEnabled():
        run_pip()
    else:
        _run_pip_with_dialog()
    note_installed(requirements)


def pip_uninstall(requirements: Any, **options: Any) -> None:
    """Record what should be removed, and play pip."""
    calls.append({"function": "pip_uninstall", "requirements": requirements, **options})
    run_pip()


def isPipInstallInProgress() -> bool:
    """Tell whether an install is running."""
    return False
