"""Take away what came with Slicer 5.12, so that a module's way on older versions can be tested."""

from __future__ import annotations

import sys
from typing import Any

import slicer
import slicer.packaging
import slicer.util

from slicer_host import sample_data

NEW_IN_5_12 = "slicer.packaging, launchConsoleProcess(blocking=...), registerCustomSampleDataCategory"

_hidden: list[tuple[Any, str, Any]] = []
_packaging = slicer.packaging


def hide_newer(version: tuple[int, int]) -> None:
    """Hide what a version of Slicer did not have."""
    if version >= (5, 12):
        return
    launch = slicer.util.launchConsoleProcess

    def launch_blocking(
        args: list[str],
        useStartupEnvironment: bool = True,
        updateEnvironment: dict[str, str] | None = None,
        cwd: str | None = None,
    ) -> Any:
        return launch(args, useStartupEnvironment, updateEnvironment, cwd)

    def pip_install(requirements: Any) -> None:
        _packaging.calls.append({"function": "pip_install", "requirements": requirements})
        _packaging.run_pip()
        _packaging.note_installed(requirements)

    def pip_uninstall(requirements: Any) -> None:
        _packaging.calls.append({"function": "pip_uninstall", "requirements": requirements})
        _packaging.run_pip()

    _replace(slicer.util, "launchConsoleProcess", launch_blocking)
    _replace(slicer.util, "pip_install", pip_install)
    _replace(slicer.util, "pip_uninstall", pip_uninstall)
    _replace(slicer, "packaging", None)
    del slicer.packaging
    sys.modules["slicer.packaging"] = None  # type: ignore[assignment]  makes the import fail
    _replace(sample_data.SampleDataLogic, "registerCustomSampleDataCategory", None)
    del sample_data.SampleDataLogic.registerCustomSampleDataCategory


def show_again() -> None:
    """Undo `hide_newer`."""
    for owner, name, value in reversed(_hidden):
        setattr(owner, name, value)
    if _hidden:
        sys.modules["slicer.packaging"] = _packaging
    _hidden.clear()


def packaging_module() -> Any:
    """Return what plays pip, whatever the version of Slicer."""
    return _packaging


def pip_calls() -> list[dict[str, Any]]:
    """Return what a module wanted to install, by whichever function, as recorded dictionaries."""
    return _packaging.calls


def _replace(owner: Any, name: str, value: Any) -> None:
    _hidden.append((owner, name, vars(owner)[name]))
    setattr(owner, name, value)
