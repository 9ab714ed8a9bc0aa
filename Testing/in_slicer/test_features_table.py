"""docs/features.md names tests as proofs: each of them must exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "docs" / "features.md").read_text(encoding="utf-8").splitlines()
CELLS = [line.split("|")[3] for line in LINES if line.count("|") > 8]
NAMED = [name for cell in CELLS for name in re.findall(r"`([\w/]+\.py[^`]*|::\w+)`", cell)]


@pytest.mark.parametrize("name", sorted(set(NAMED)))
def test_a_proof_exists(name: str) -> None:
    file, *parts = name.split("::")
    if not file:  # "::test_x" continues the file named before it in the cell
        assert any(
            f"def {parts[0]}(" in path.read_text(encoding="utf-8") for path in (ROOT / "Testing").rglob("test_*.py")
        )
        return
    folder = ROOT if file.startswith("Testing/") else ROOT / "Testing" / "host_module"
    folder = ROOT / "ScoreFusion" / "ScoreFusionLib" if file.startswith("logic/") else folder
    text = (folder / file).read_text(encoding="utf-8")
    for part in parts:
        assert re.search(rf"(def|class) {part}\b", text), f"{part} is not in {file}"
