"""`scorefusion data`: from a folder to a checked list, in the words of the terminal and of programs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nibabel")
pytest.importorskip("SimpleITK")

from typer.testing import CliRunner, Result

from scorefusion.datasets import cli
from scorefusion.datasets.datalist import read_datalist
from scorefusion.imaging.files import write_volume
from scorefusion.imaging.volume import Volume

KINDS = ("T1w", "FLAIR")


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Ten people; T1w and FLAIR of each share structure and grid."""
    for number in range(10):
        anat = tmp_path / "study" / f"sub-{number:02d}" / "anat"
        anat.mkdir(parents=True)
        rng = np.random.default_rng(number)
        coarse = rng.standard_normal((9, 9, 9)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
        for offset, kind in enumerate(KINDS):
            data = 100 + 30 * (-coarse if offset else coarse) + rng.standard_normal(coarse.shape)
            write_volume(Volume(data[None].astype(np.float32), np.eye(4)), anat / f"sub-{number:02d}_{kind}.nii")
    (tmp_path / "study" / "sub-00" / "anat" / "sub-00_T2starw.nii").touch()
    return tmp_path / "study"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestFromFolderToList:
    def test_list_split_check(self, bids: Path, tmp_path: Path) -> None:
        scans = tmp_path / "scans.json"
        done = run("list", bids, "--out", scans)
        assert done.exit_code == 0, done.output
        assert "study (bids)" in done.output
        assert re.search(r"train.*10.*10.*10.*10", done.output)  # people, visits, t1, flair
        assert "1 T2starw file was left out" in done.output
        assert len(read_datalist(scans).training) == 10

        done = run("split", scans)
        assert done.exit_code == 0, done.output
        datalist = read_datalist(scans)
        assert [len(datalist.cases(split)) for split in ("train", "val", "test")] == [8, 1, 1]
        assert datalist.name == "study"

        done = run("check", scans, "--super-resolution")
        assert done.exit_code == 0, done.output
        assert "Nothing is wrong." in done.output
        done = run("check", scans, "--contrasts", "t1,flair", "--headers-only")
        assert "0 errors, 1 warning." in done.output  # nobody has checked that they lie on each other

    def test_what_is_split_is_not_split_anew_by_accident(self, bids: Path, tmp_path: Path) -> None:
        scans = tmp_path / "scans.json"
        run("list", bids, "--out", scans)
        run("split", scans, "--seed", "1")
        before = read_datalist(scans)
        done = run("split", scans)
        assert done.exit_code == 2
        assert "Add --again" in done.output
        assert read_datalist(scans) == before
        assert (
            run("split", scans, "--again", "--fractions", "0.5,0.25,0.25", "--out", tmp_path / "b.json").exit_code == 0
        )
        assert len(read_datalist(tmp_path / "b.json").training) == 5

    def test_registering(self, bids: Path, tmp_path: Path) -> None:
        scans = tmp_path / "scans.json"
        for person in list(bids.glob("sub-0[2-9]")):
            for file in (person / "anat").iterdir():
                file.unlink()
        run("list", bids, "--out", scans)
        done = run("register", scans, "--reference", "t1", "--out", tmp_path / "registered")
        assert done.exit_code == 0, done.output
        assert done.output.count("already aligned") == 2
        datalist = read_datalist(tmp_path / "registered" / "datalist.json")
        assert [case.aligned for case in datalist.training] == [True, True]
        assert (tmp_path / "registered" / "sub-00" / "registration.md").is_file()
        assert run("check", tmp_path / "registered" / "datalist.json").output.endswith("Nothing is wrong.\n")


class TestPrograms:
    def test_every_command_ends_with_a_result(self, bids: Path, tmp_path: Path) -> None:
        scans = tmp_path / "scans.json"
        result = events(run("list", bids, "--out", scans, "--json"))[-1]
        assert (result["event"], result["layout"], result["people"]["train"]) == ("result", "bids", 10)
        assert len(result["notes"]) == 1
        result = events(run("split", scans, "--json"))[-1]
        assert result["cases"] == {"train": 8, "val": 1, "test": 1}
        found = events(run("check", scans, "--headers-only", "--json"))
        assert {event["event"] for event in found} == {"progress", "result"}
        assert (found[-1]["errors"], found[-1]["warnings"]) == (0, 1)

    def test_an_error_ends_with_2(self, bids: Path, tmp_path: Path) -> None:
        scans = tmp_path / "scans.json"
        run("list", bids, "--out", scans)
        (bids / "sub-03" / "anat" / "sub-03_T1w.nii").unlink()
        done = run("check", scans, "--headers-only", "--json")
        assert done.exit_code == 2
        result = events(done)[-1]
        assert result["errors"] == 1
        assert result["problems"][0]["where"] == "sub-03 t1"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["list", "gone"], "is no folder"),
            (["split", "gone.json"], "does not exist"),
            (["check", "gone.json"], "does not exist"),
            (["register", "gone.json", "--reference", "t1"], "does not exist"),
        ],
    )
    def test_mistakes_are_told_in_one_event(self, arguments: list[str], words: str) -> None:
        done = run(*arguments, "--json")
        assert done.exit_code == 2
        (event,) = events(done)
        assert event["event"] == "error"
        assert words in event["message"]

    def test_words_are_checked(self, bids: Path, tmp_path: Path) -> None:
        scans = tmp_path / "scans.json"
        run("list", bids, "--out", scans)
        assert "did you mean 'flair'" in run("check", scans, "--contrasts", "falir").output
        assert "three numbers" in run("split", scans, "--fractions", "most").output


class TestDoor:
    def test_the_main_command_hands_over(self, bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from scorefusion.cli.app import main

        with pytest.raises(SystemExit) as done:
            main(["data", "list", str(bids), "--out", str(tmp_path / "scans.json")])
        assert done.value.code == 0
        assert "Written:" in capsys.readouterr().out

    def test_help_has_examples(self) -> None:
        assert "scorefusion data register scans.json --reference flair" in run("--help").output
