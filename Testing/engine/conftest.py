"""What the tests of the command line share: a scan, an installed model, and a pipeline that takes no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.install import import_bundle
from scorefusion.cli import app as cli
from scorefusion.imaging.files import write_volume
from scorefusion.imaging.volume import Volume

Run = Callable[..., Any]


@pytest.fixture
def own_home(models_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No model but those a test imports; the width of help does not depend on the terminal."""
    monkeypatch.setattr("scorefusion.bundle.store.shipped_folders", list)
    monkeypatch.setenv("COLUMNS", "120")
    return models_home


@pytest.fixture
def scan(make_volume: Callable[..., Volume], tmp_path: Path) -> Path:
    """A volume on disk."""
    return write_volume(make_volume(), tmp_path / "scan.nii.gz")


@pytest.fixture
def model(own_home: Path, tiny_bundle: Bundle) -> str:
    """An installed model, and its name."""
    return import_bundle(tiny_bundle.folder).id


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces the pipeline by one that is instant; collects what it was asked for."""
    pytest.importorskip("torch")
    from scorefusion import pipeline

    seen: list[dict[str, Any]] = []

    def translate(volumes: dict[str, Volume], bundle: Bundle, **options: Any) -> pipeline.Result:
        seen.append({"volumes": volumes, "bundle": bundle, **options})
        options["on_event"]({"event": "progress", "done": 1, "total": 1, "stage": "sampling", "eta_s": 0.0})
        options["on_event"]({"event": "warning", "code": "tiles", "message": "In [tiles]."})
        first = next(iter(volumes.values()))
        spread = first.with_data(first.data * 0.1) if options["uncertainty"] else None
        return pipeline.Result(first, spread, {"GeneratedBy": [{"Name": "ScoreFusion"}]}, {"score": 1.0})

    monkeypatch.setattr(pipeline, "translate", translate)
    return seen


@pytest.fixture
def run() -> Run:
    """Runs the command line in this process."""
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def nothing_written(tmp_path: Path, models_home: Path) -> Iterator[None]:
    """After the test: no model was imported, and no file called evil lies anywhere."""
    yield
    models = models_home / "models"
    assert not models.exists() or not list(models.iterdir())
    assert not list(tmp_path.rglob("evil*"))
