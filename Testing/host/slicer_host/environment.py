"""What a module finds when it imports: `qt`, `ctk`, `slicer.i18n`, `SampleData`, `PyTorchUtils`, `PythonSlicer`."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import slicer

_PACKAGE = Path(__file__).parent / "slicer_package"
_LAUNCHER = Path(__file__).with_name("launcher.py")
_saved: dict[str, str | None] = {}


def make_importable() -> None:
    """Register the modules that Slicer has at top level, and Slicer's own Python files inside `slicer`.

    The folder joins `slicer.__path__` only now: a folder named `slicer` on `sys.path` would be imported by
    slicer-core at its own start, which is too early.
    """
    if str(_PACKAGE) not in slicer.__path__:
        slicer.__path__.append(str(_PACKAGE))
    from slicer_host import ctk, qt

    sys.modules["qt"], sys.modules["ctk"] = qt, ctk


def prepare(version: tuple[int, int], torch: str, folder: Path) -> None:
    """Set up what depends on the host: sample data, the PyTorch extension, PythonSlicer.

    Args:
        version: (major, minor) of Slicer.
        torch: "missing", "not installed" or "installed".
        folder: empty folder of this host.
    """
    make_importable()
    from slicer_host import dicom, pytorch_utils, sample_data, sitk_utils

    sample_data.reset()
    sys.modules["SampleData"] = sample_data
    sys.modules["sitkUtils"] = sitk_utils
    pytorch_utils.configure(torch)
    import slicer.packaging

    slicer.packaging.reset()
    slicer.dicomDatabase = dicom.DicomDatabase()
    from slicer_host import older_slicer

    older_slicer.hide_newer(version)
    _act_as_launcher(folder)


def restore() -> None:
    """Undo `prepare`."""
    from slicer_host import older_slicer

    older_slicer.show_again()
    for name, value in _saved.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _saved.clear()
    del slicer.dicomDatabase
    for name in ("PyTorchUtils", "SampleData", "sitkUtils"):
        sys.modules.pop(name, None)


def _act_as_launcher(folder: Path) -> None:
    """Change the environment as Slicer's launcher does: `PythonSlicer` on PATH, and SLICER_HOME.

    `PythonSlicer` runs this Python below a launcher (see launcher.py). `slicer.app.startupEnvironment()` does not have
    these changes.
    """
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    launch = f'"{sys.executable}" -I -S "{_LAUNCHER}"'
    if os.name == "nt":
        (bin_folder / "PythonSlicer.bat").write_text(f"@{launch} %*\r\n", encoding="utf-8")
    else:
        script = bin_folder / "PythonSlicer"
        script.write_text(f'#!/bin/sh\nexec {launch} "$@"\n', encoding="utf-8")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    path = str(bin_folder) + os.pathsep + os.environ.get("PATH", "")
    for name, value in {"PATH": path, "SLICER_HOME": str(folder)}.items():
        _saved[name] = os.environ.get(name)
        os.environ[name] = value
