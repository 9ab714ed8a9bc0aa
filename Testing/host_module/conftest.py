"""The extension's module in the host: a small Slicer with real widgets and a real scene."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from in_process_worker import replace_worker
from models_on_disk import EXAM, SHARPENING, TRANSLATION, write_model
from module_host import FAKE_WORKER, MODULE, ROOT

_MISSING = [name for name in ("slicer", "PySide6") if find_spec(name) is None]
if _MISSING:
    collect_ignore_glob = ["test_*.py"]
else:
    sys.path.insert(0, str(ROOT / "Testing" / "host"))
    from slicer_host import Host


@pytest.fixture
def models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with three models, so that the tests do not depend on what is shipped."""
    home = tmp_path / "home"
    monkeypatch.setenv("SCOREFUSION_HOME", str(home))
    write_model(home / "models" / "test-sr", SHARPENING)
    write_model(home / "models" / "test-flair", TRANSLATION)
    write_model(home / "models" / "test-exam", EXAM)
    return home / "models"


@pytest.fixture
def host(models_folder: Path) -> Iterator[Any]:
    """An open host; an exception that only a log would show fails the test."""
    with Host() as opened:
        yield opened
        errors = list(opened.errors)
    assert not errors, f"Exceptions in slots, timers or observers: {errors}"


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let jobs start the fake worker, which then behaves as told: `fake_worker("crash")`."""
    if str(MODULE.parent) not in sys.path:  # the host takes it away when it unloads the module
        sys.path.insert(0, str(MODULE.parent))
    from ScoreFusionLib.logic import engine

    real = engine.engine_command

    def command(arguments: list[str], *, stop_with_slicer: bool = False) -> list[str]:
        if arguments[0] != "translate":
            return real(arguments, stop_with_slicer=stop_with_slicer)
        tail = ["--stop-on-stdin-close"] if stop_with_slicer else []
        return [engine.python_executable(), str(FAKE_WORKER), *arguments, *tail]

    monkeypatch.setattr(engine, "engine_command", command)

    def behave(how: str) -> None:
        os.environ["FAKE_WORKER"] = how  # handed on below
        monkeypatch.setenv("FAKE_WORKER", how)
        environment = engine.worker_environment
        monkeypatch.setattr(engine, "worker_environment", lambda: {**environment(), "FAKE_WORKER": how})

    behave("ok")
    return behave


@pytest.fixture
def in_process_worker(fake_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the workers' arithmetic in this process."""
    replace_worker(monkeypatch)


@pytest.fixture
def widget(host: Any, fake_worker: Any) -> Any:
    """The module's widget, opened, with the fake worker behind it."""
    return host.open(host.load_module(MODULE))
