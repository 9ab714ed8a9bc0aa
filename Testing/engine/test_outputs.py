"""What `translate` may replace, and what is on disk whenever the process dies: never a loss, never a false record."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from scorefusion.cli import app as cli
from scorefusion.imaging.files import read_volume, write_volume
from scorefusion.imaging.volume import Volume

pytest.importorskip("torch")

from scorefusion import pipeline  # noqa: E402

HIDDEN = ".scorefusion-*"
OURS = {"GeneratedBy": [{"Name": "ScoreFusion"}]}

Translate = Callable[..., Any]


@pytest.fixture
def translate(run: Callable[..., Any], model: str, calls: list[dict[str, Any]]) -> Translate:
    """`scorefusion translate` with an instant pipeline."""
    return lambda *arguments: run("translate", *arguments, "--model", model)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(result: Any, *words: str) -> None:
    """Exit code 2 and one paragraph."""
    assert result.exit_code == 2, result.output
    message = result.stderr[result.stderr.index("Error: ") :].strip()
    assert "\n" not in message
    for word in words:
        assert word in message


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestRecordsReplaceRecordsOnly:
    @pytest.mark.parametrize(
        "content",
        [
            '{"SliceThickness": 2.5}',
            '{"GeneratedBy": [{"Name": "fMRIPrep"}, {"Name": "ScoreFusion"}]}',
            '{"GeneratedBy": []}',
            '{"GeneratedBy": {"Name": "ScoreFusion"}}',
            '[{"Name": "ScoreFusion"}]',
            "not JSON at all",
            "",
            "[" * 100_000,
            '{"GeneratedBy": ' + "9" * 5000 + "}",
        ],
        ids=["sidecar", "other pipeline", "nobody", "no list", "list", "text", "empty", "deep", "long number"],
    )
    def test_an_unrelated_json_file_is_never_replaced(
        self, content: str, scan: Path, translate: Translate, calls: list, tmp_path: Path
    ) -> None:
        (tmp_path / "out.json").write_text(content)
        before = contents(tmp_path)
        assert_refused(translate(scan, "-o", tmp_path / "out.nii.gz"), "out.json", "another name")
        assert calls == []  # told before the work
        assert contents(tmp_path) == before

    def test_the_sidecar_of_the_input_is_never_replaced(self, scan: Path, translate: Translate, tmp_path: Path) -> None:
        (tmp_path / "scan.json").write_text('{"SliceThickness": 2.5}')
        before = contents(tmp_path)
        assert_refused(translate(scan, "-o", tmp_path / "scan.nrrd"), "scan.json")
        assert contents(tmp_path) == before

    def test_the_record_of_an_input_that_is_a_result_is_never_replaced(
        self, scan: Path, translate: Translate, tmp_path: Path
    ) -> None:
        assert translate(scan, "-o", tmp_path / "first.nii.gz").exit_code == 0
        before = contents(tmp_path)
        assert_refused(translate(tmp_path / "first.nii.gz", "-o", tmp_path / "first.nrrd"), "first.json")
        assert contents(tmp_path) == before

    def test_the_record_of_another_result_is_never_replaced(
        self, scan: Path, translate: Translate, tmp_path: Path
    ) -> None:
        assert translate(scan, "-o", tmp_path / "out.nii.gz").exit_code == 0
        before = contents(tmp_path)
        assert_refused(translate(scan, "-o", tmp_path / "out.nrrd"), "out.json", "out.nii.gz")
        assert contents(tmp_path) == before
        (tmp_path / "out.nii.gz").unlink()  # now it is the record of nothing
        assert translate(scan, "-o", tmp_path / "out.nrrd").exit_code == 0

    def test_our_own_record_is_replaced_with_its_image(self, scan: Path, translate: Translate, tmp_path: Path) -> None:
        (tmp_path / "out.json").write_text(json.dumps(OURS))  # as version 0.1.0 wrote it
        for _ in range(2):
            assert translate(scan, "-o", tmp_path / "out.nii.gz").exit_code == 0
        assert json.loads((tmp_path / "out.json").read_text())["Quality"] == {"score": 1.0}

    @pytest.mark.skipif(os.name == "nt", reason="POSIX")
    @pytest.mark.parametrize("kind", ["fifo", "dangling link", "loop", "link to a sidecar", "device"])
    def test_what_is_no_ordinary_file_is_no_record(
        self, kind: str, scan: Path, translate: Translate, calls: list, tmp_path: Path
    ) -> None:
        record = tmp_path / "out.json"
        (tmp_path / "sidecar.json").write_text("{}")
        if kind == "fifo":
            os.mkfifo(record)
        else:
            goal = {"loop": "out.json", "link to a sidecar": "sidecar.json", "device": "/dev/full"}
            record.symlink_to(goal.get(kind, "nowhere"))
        assert_refused(translate(scan, "-o", tmp_path / "out.nii.gz"), "out.json")
        assert calls == []
        assert record.is_symlink() or record.is_fifo()
        assert (tmp_path / "sidecar.json").read_text() == "{}"

    def test_a_file_that_appears_during_the_work_is_not_replaced(
        self, scan: Path, translate: Translate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        instant = pipeline.translate

        def slow(*arguments: Any, **options: Any) -> Any:
            (tmp_path / "out.json").write_text("{}")
            return instant(*arguments, **options)

        monkeypatch.setattr(pipeline, "translate", slow)
        assert_refused(translate(scan, "-o", tmp_path / "out.nii.gz"), "out.json")
        assert (tmp_path / "out.json").read_text() == "{}"
        assert not (tmp_path / "out.nii.gz").exists()


class TestInputsAreNeverTouched:
    @pytest.fixture
    def metaimage(self, make_volume: Callable[..., Volume], tmp_path: Path) -> Path:
        """A MetaImage whose voxels lie in a file that is named like a volume."""
        volume = make_volume()
        image = sitk.GetImageFromArray(volume.data[0].transpose(2, 1, 0))
        sitk.WriteImage(image, str(tmp_path / "y.mhd"))
        (tmp_path / "y.raw").rename(tmp_path / "y.mha")
        header = (tmp_path / "y.mhd").read_text().replace("y.raw", "y.mha")
        (tmp_path / "y.mhd").write_text(header)
        return tmp_path / "y.mhd"

    def test_the_voxels_of_a_metaimage_header(self, metaimage: Path, translate: Translate, tmp_path: Path) -> None:
        before = contents(tmp_path)
        assert_refused(translate(metaimage, "-o", tmp_path / "y.mha"), "y.mha", "belongs to the input")
        assert contents(tmp_path) == before

    @pytest.mark.parametrize(
        "field",
        [
            "data file: y.mha",
            "datafile: ./y.mha",
            "data file: y%d.mha 1 1 1",
            "data file: LIST\ny.mha",
            "DATA FILE:y.mha",
        ],
    )
    def test_the_voxels_of_a_nrrd_header(
        self, field: str, metaimage: Path, translate: Translate, tmp_path: Path
    ) -> None:
        if "%" in field:
            (tmp_path / "y.mha").rename(tmp_path / "y1.mha")
        output = next(tmp_path.glob("y*.mha"))
        fields = "type: float\ndimension: 3\nspace: left-posterior-superior\nsizes: 12 16 20\nendian: little\n"
        fields += "encoding: raw\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
        (tmp_path / "y.nhdr").write_text(f"NRRD0004\n{fields}{field}\n")
        before = contents(tmp_path)
        assert_refused(translate(tmp_path / "y.nhdr", "-o", output), output.name, "belongs to the input")
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("option", ["-o", "--uncertainty"])
    @pytest.mark.parametrize("how", ["symlink", "hard link", "linked folder", "other spelling"])
    def test_an_input_by_another_name(
        self, how: str, option: str, scan: Path, translate: Translate, calls: list, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.nii.gz"
        if how == "symlink":
            other.symlink_to(scan)
        elif how == "hard link":
            os.link(scan, other)
        elif how == "linked folder":
            (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
            other = tmp_path / "link" / "scan.nii.gz"
        else:
            other = tmp_path / ".." / tmp_path.name / "scan.nii.gz"
        before = contents(tmp_path)
        further = ["-o", tmp_path / "o.nii.gz"] if option == "--uncertainty" else []
        assert_refused(translate(scan, option, other, *further), other.name)
        assert calls == []
        assert contents(tmp_path) == before

    def test_the_uncertainty_never_replaces_a_further_input_nor_the_record(
        self, scan: Path, translate: Translate, tmp_path: Path
    ) -> None:
        for unsure in (scan, tmp_path / "out.json"):
            before = contents(tmp_path)
            result = translate(scan, "-o", tmp_path / "out.nii.gz", "--uncertainty", unsure)
            assert_refused(result, unsure.name)
            assert contents(tmp_path) == before

    def test_names_that_differ_only_where_the_folder_sees_no_difference(
        self, scan: Path, translate: Translate, calls: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on macOS and Windows: the second of two new names finds a file there already."""
        touch = Path.touch
        monkeypatch.setattr(Path, "touch", lambda path, **how: touch(path.with_name(path.name.lower()), **how))
        result = translate(scan, "-o", tmp_path / "Out.nii.gz", "--uncertainty", tmp_path / "out.NII.gz")
        assert_refused(result, "written twice")
        assert calls == []

    def test_a_link_as_output_is_replaced_and_not_followed(
        self, scan: Path, translate: Translate, tmp_path: Path
    ) -> None:
        (tmp_path / "precious.nii.gz").write_bytes(b"precious")
        (tmp_path / "out.nii.gz").symlink_to("precious.nii.gz")
        assert translate(scan, "-o", tmp_path / "out.nii.gz").exit_code == 0
        assert (tmp_path / "precious.nii.gz").read_bytes() == b"precious"
        assert not (tmp_path / "out.nii.gz").is_symlink()
        assert np.array_equal(read_volume(tmp_path / "out.nii.gz").data, read_volume(scan).data)


class TestTheRecordNamesItsFiles:
    def test_each_output_with_its_hash(self, scan: Path, translate: Translate, tmp_path: Path) -> None:
        result = translate(scan, "-o", tmp_path / "out.nii.gz", "--uncertainty", tmp_path / "unsure.nrrd")
        assert result.exit_code == 0, result.output
        assert json.loads((tmp_path / "out.json").read_text())["Outputs"] == {
            "Image": {"Name": "out.nii.gz", "Sha256": sha256(tmp_path / "out.nii.gz")},
            "Uncertainty": {"Name": "unsure.nrrd", "Sha256": sha256(tmp_path / "unsure.nrrd")},
        }

    def test_an_input_that_is_not_what_its_record_tells_of_is_a_warning(
        self, scan: Path, model: str, run: Callable[..., Any], tmp_path: Path, make_volume: Callable[..., Volume]
    ) -> None:
        record = {**OURS, "Outputs": {"Image": {"Name": "scan.nii.gz", "Sha256": sha256(scan)}}}
        (tmp_path / "scan.json").write_text(json.dumps(record))
        arguments = ("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model, "--device", "cpu")
        for changed in (False, True):
            if changed:
                write_volume(make_volume(seed=1), scan)
            result = run(*arguments)
            assert result.exit_code == 0, result.output
            assert ("SHA-256" in result.stderr) == changed
            written = json.loads((tmp_path / "out.json").read_text())
            assert ("record-differs" in [warning["code"] for warning in written["Warnings"]]) == changed

    def test_no_folder_of_this_machine_reaches_the_record(
        self, scan: Path, model: str, run: Callable[..., Any], tmp_path: Path
    ) -> None:
        """A tiny volume lies outside every domain: the warnings name it, the user typed its whole path."""
        result = run(
            "translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model, "--device", "cpu", "--json",
            "--thickness", "6",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        text = (tmp_path / "out.json").read_text()
        warnings = json.loads(text)["Warnings"]
        assert any("'scan.nii.gz'" in warning["message"] for warning in warnings)
        assert str(tmp_path) not in text
        told = [json.loads(line) for line in result.stdout.splitlines()]
        assert not [event for event in told if event["event"] in ("warning", "log") and str(tmp_path) in str(event)]


def _old_result(folder: Path) -> None:
    """A complete result of an earlier run."""
    old = folder / "out.nii.gz"
    old.write_bytes(gzip.compress(b"old voxels"))
    record = {**OURS, "Outputs": {"Image": {"Name": old.name, "Sha256": sha256(old)}}}
    (folder / "out.json").write_text(json.dumps(record))


def _killed_before_call(number: int, arguments: list[str], folder: Path) -> bool:
    """Run the command in a child that SIGKILLs itself before its n-th call that changes this folder's files.

    Returns whether it was killed; False when it had fewer such calls.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event: str, details: tuple[Any, ...]) -> None:
            nonlocal count
            changes = event in {
                "os.rename",
                "os.link",
                "os.remove",
                "os.mkdir",
                "os.rmdir",
                "os.symlink",
                "shutil.rmtree",
            }
            changes |= event == "open" and bool(details[2] & (os.O_WRONLY | os.O_RDWR))
            if changes and str(folder) in str(details[0]):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        os._exit(CliRunner().invoke(cli.app, arguments).exit_code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
class TestKilledAtEveryCall:
    """SIGKILL before each file system call of the command, one after the other."""

    @pytest.mark.parametrize("earlier", [True, False], ids=["over an older result", "into an empty folder"])
    def test_old_or_new_but_never_neither(
        self, earlier: bool, scan: Path, model: str, translate: Translate, calls: list, tmp_path: Path
    ) -> None:
        folder = tmp_path / "results"
        folder.mkdir()
        unsure = folder / "unsure.nii.gz"
        out, record = folder / "out.nii.gz", folder / "out.json"
        arguments = [str(a) for a in ("translate", scan, "-o", out, "--uncertainty", unsure, "--model", model)]
        assert CliRunner().invoke(cli.app, arguments).exit_code == 0
        new = {path: path.read_bytes() for path in (out, unsure)}
        for number in range(1, 200):
            shutil.rmtree(folder)
            folder.mkdir()
            old: dict[Path, bytes | None] = dict.fromkeys(new)
            if earlier:
                _old_result(folder)
                old[out] = out.read_bytes()
            killed = _killed_before_call(number, arguments, folder)
            for path, content in new.items():
                assert (path.read_bytes() if path.exists() else None) in (old[path], content), number
            if earlier:
                assert out.exists(), number
            if out.exists():
                assert record.exists(), f"{number}: an image without the word synthetic"
                told = json.loads(record.read_text())["Outputs"]["Image"]["Sha256"]
                assert told in (hashlib.sha256(content).hexdigest() for content in (old[out], new[out]) if content)
            result = translate(scan, "-o", out, "--uncertainty", unsure)  # a later run tidies up
            assert result.exit_code == 0, result.output
            assert sorted(path.name for path in folder.iterdir()) == ["out.json", "out.nii.gz", "unsure.nii.gz"]
            if not killed:
                break
        assert not killed
        assert number > 8


class TestFailingHalfway:
    @pytest.mark.parametrize("hard_links", [True, False])
    def test_all_of_the_old_result_is_there_again(
        self, hard_links: bool, scan: Path, translate: Translate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "results"
        folder.mkdir()
        _old_result(folder)
        before = contents(folder)
        replace, placed = os.replace, []

        def failing(source: Any, target: Any) -> None:
            if Path(target) == folder / "unsure.nii.gz":
                raise PermissionError(13, "in use by another program")
            placed.append(Path(target))
            replace(source, target)

        def unknown(*_: Any, **__: Any) -> None:
            raise PermissionError(1, "Operation not permitted")  # as on exFAT

        monkeypatch.setattr(os, "replace", failing)
        if not hard_links:
            monkeypatch.setattr(os, "link", unknown)
        result = translate(scan, "-o", folder / "out.nii.gz", "--uncertainty", folder / "unsure.nii.gz")
        assert_refused(result, "unsure.nii.gz", "in use by another program")
        assert {folder / "out.nii.gz", folder / "out.json"} <= set(placed)
        assert contents(folder) == before
        assert not list(folder.glob(HIDDEN))


class TestLeftovers:
    def test_folders_of_other_runs_that_may_live_are_left_alone(
        self, scan: Path, translate: Translate, tmp_path: Path
    ) -> None:
        from scorefusion.imaging.atomic import hidden_name

        mine = tmp_path / hidden_name()  # this process lives
        elsewhere = tmp_path / f".scorefusion-ffffffff-{2**22}-00000000"  # another machine's: who knows
        alike = tmp_path / ".scorefusion-notes"
        for folder in (mine, elsewhere, alike):
            folder.mkdir()
            (folder / "file").write_text("x")
        assert translate(scan, "-o", tmp_path / "out.nii.gz").exit_code == 0
        assert all((folder / "file").exists() for folder in (mine, elsewhere, alike))

    def test_what_another_machine_left_days_ago_is_removed(
        self, scan: Path, translate: Translate, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / f".scorefusion-ffffffff-{2**22}-00000000"
        elsewhere.mkdir()
        os.utime(elsewhere, (0, 0))
        assert translate(scan, "-o", tmp_path / "out.nii.gz").exit_code == 0
        assert not elsewhere.exists()

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells dead processes from living ones on Linux")
    def test_a_link_of_that_name_is_not_followed(self, scan: Path, translate: Translate, tmp_path: Path) -> None:
        from scorefusion.imaging.atomic import hidden_name

        done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        dead = hidden_name().replace(str(os.getpid()), done.stdout.decode().strip())
        (tmp_path / "precious").mkdir()
        (tmp_path / dead).symlink_to(tmp_path / "precious", target_is_directory=True)
        assert translate(scan, "-o", tmp_path / "out.nii.gz").exit_code == 0
        assert (tmp_path / "precious").is_dir()
