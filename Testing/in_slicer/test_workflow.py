"""The GitHub workflows: each file of ours that they name is there, and they run what we claim to support."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"
TOP = {path.name for path in ROOT.iterdir()} - {".git"}
OURS = (".py", ".yml", ".yaml", ".txt", ".sh", ".toml", ".md")


def named_paths(text: str) -> set[str]:
    """Return the words of a workflow, comments included, that look like files of this repository."""
    ours_alone = re.sub(r"https?://\S+|\$PWD/", "", text)
    words = {word.rstrip(".") for word in re.findall(r"[\w./-]+", ours_alone)}
    return {word for word in words if word.endswith(OURS) or ("/" in word and word.split("/")[0] in TOP)}


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [str(value)]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.name)
class TestWorkflow:
    def test_each_path_that_it_names_exists(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        named = named_paths(text) | {word for item in strings(yaml.safe_load(text)) for word in named_paths(item)}
        assert named, "a workflow that names no file tests nothing"
        missing = sorted(name for name in named if not ((ROOT / name.lstrip("/")).exists() or (FOLDER / name).exists()))
        assert not missing

    def test_it_asks_for_no_rights_to_write(self, path: Path) -> None:
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}


def test_stable_and_preview_run_on_all_three_systems() -> None:
    job = yaml.safe_load((FOLDER / "slicer.yml").read_text(encoding="utf-8"))["jobs"]["slicer"]
    matrix = job["strategy"]["matrix"]
    assert matrix["slicer"] == ["stable", "preview"]
    assert matrix["system"] == ["linux", "windows", "macos"]
    known = {key: entry for entry in matrix["include"] for key in (entry.get("slicer"), entry.get("system")) if key}
    assert set(known) == {"stable", "preview", "linux", "windows", "macos"}
    prepared = {step["if"].split("'")[1] for step in job["steps"] if "matrix.system ==" in step.get("if", "")}
    assert prepared == {"linux", "windows", "macos"}
