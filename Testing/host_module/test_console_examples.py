"""The examples of docs/console.md, as they stand there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from models_on_disk import SHARPENING, write_model
from module_host import MODULE, ROOT, thick_head

slicer = pytest.importorskip("slicer")

TEXT = (ROOT / "docs" / "console.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def console(host: Any, fake_worker: Any, models_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """What a user's console knows: `slicer`, a volume in the scene, and a folder of scans."""
    if not (models_folder / "brain-sr").exists():
        write_model(models_folder / "brain-sr", {**SHARPENING, "title": "Sharper brains"})
    host.load_module(MODULE)
    thick_head("ThickSliceHead T1")
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(ROOT / "Resources" / "SampleData" / "ColinHead_T1_4mm.nii.gz", folder / "one.nii.gz")
    return {"slicer": slicer, "folder": str(folder)}


def test_there_are_three_examples() -> None:
    assert len(EXAMPLES) == 3


def test_one_volume(console: dict[str, Any], capsys: Any) -> None:
    exec(EXAMPLES[0], console)  # noqa: S102
    assert console["sharp"].GetName() == "ThickSliceHead T1 - synthetic high resolution"
    assert "brain-sr" in capsys.readouterr().out


def test_a_folder_of_scans(console: dict[str, Any]) -> None:
    exec(EXAMPLES[1], console)  # noqa: S102
    assert console["result"].GetName() == "one.nii.gz - synthetic"
    assert slicer.util.getNodes("*uncertainty*")


def test_in_the_background(console: dict[str, Any], capsys: Any) -> None:
    exec(EXAMPLES[2], console)  # noqa: S102
    console["job"].wait()
    printed = capsys.readouterr().out
    assert "sampling: " in printed
    assert "done: ThickSliceHead T1 - synthetic high resolution" in printed
