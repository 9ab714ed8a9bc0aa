"""The workers' arithmetic in the process of the test: the same files and events, without the second of a start."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FAKE_WORKER = Path(__file__).with_name("host_module") / "fake_worker.py"


def replace_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs call the fake worker, and the comparison of results, as functions."""
    from ScoreFusionLib.logic import job, quality

    spec = importlib.util.spec_from_file_location("fake_worker", FAKE_WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "emit", lambda **event: events.append(event))
    monkeypatch.setattr(quality, "_write", events.append)

    class InProcess:
        returncode, tail, is_running = 0, "", False

        def __init__(self, args: list[str], **_options: Any) -> None:
            self.args = args

        def start(self) -> None:
            self.is_running = True

        def poll(self) -> list[dict[str, Any]]:
            events.clear()
            if quality.MODULE in self.args:
                self.returncode = quality.main(self.args[self.args.index(quality.MODULE) + 1 :])
            else:
                monkeypatch.setattr(sys, "argv", self.args[self.args.index(str(FAKE_WORKER)) :])
                module.write_result(module.read_options())
            self.is_running = False
            return [*events]

        def kill(self) -> None:
            pass

    monkeypatch.setattr(job, "Worker", InProcess)
