"""Fixtures for tests that need the Slicer host. Without slicer-core or PySide6 this folder is left out."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

_MISSING = [name for name in ("slicer", "PySide6") if find_spec(name) is None]

if _MISSING:
    collect_ignore_glob = ["test_*.py"]

    def pytest_terminal_summary(terminalreporter) -> None:
        """Say that tests were left out, and why."""
        terminalreporter.write_line(f"Testing/host left out: not installed: {', '.join(_MISSING)}")
else:
    from slicer_host import Host


@pytest.fixture
def host():
    """An open host, closed after the test; an exception that only a log would show fails the test."""
    with Host() as opened:
        yield opened
        errors = list(opened.errors)
    assert not errors, f"Exceptions in slots, timers or observers: {errors}"


@pytest.fixture
def qt_application():
    """A QApplication and nothing else: for widgets without an open host."""
    from slicer_host.app import make_qt_application

    return make_qt_application()


@pytest.fixture
def scene(qt_application):
    """A bare scene."""
    import slicer

    return slicer.vtkMRMLScene()


@pytest.fixture
def node(scene):
    """A parameter node in a bare scene."""
    return scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
