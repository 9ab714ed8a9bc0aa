"""Which model a name means, and homes for models that are odd, full or not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from scorefusion.bundle import install, store  # noqa: E402
from scorefusion.bundle.folder import METADATA_PATH, Bundle  # noqa: E402
from scorefusion.bundle.install import import_bundle, remove_bundle  # noqa: E402
from scorefusion.bundle.store import find_bundle, list_bundles, user_models_folder  # noqa: E402
from scorefusion.errors import BundleError, UnknownModelError  # noqa: E402
from scorefusion.run.installation import doctor  # noqa: E402


@pytest.fixture(autouse=True)
def _no_real_models(models_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "_PACKAGE", tmp_path / "elsewhere" / "a" / "b")


def copy_to(bundle: Bundle, folder: Path, **facts: str) -> Path:
    """A copy with another id or name."""
    shutil.copytree(bundle.folder, folder)
    path = folder / METADATA_PATH
    metadata = json.loads(path.read_text())
    metadata["scorefusion"]["id"] = facts.get("id", bundle.id)
    metadata["name"] = facts.get("name", bundle.name)
    path.write_text(json.dumps(metadata))
    return folder


def ship(bundle: Bundle, tmp_path: Path) -> Path:
    return copy_to(bundle, tmp_path / "elsewhere" / "a" / "b" / "_models" / bundle.id)


class TestAnIdMeansOneModel:
    def test_a_folder_of_that_name_in_the_working_folder_is_never_taken(
        self, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shipped = ship(tiny_bundle, tmp_path)
        here = copy_to(tiny_bundle, tmp_path / "here" / "tiny-sr")
        monkeypatch.chdir(here.parent)
        assert find_bundle("tiny-sr").folder == shipped
        for written in ("./tiny-sr", str(here), Path("tiny-sr"), f"{here}/"):
            assert find_bundle(written).folder.resolve() == here

    def test_a_folder_alone_is_not_taken_either_but_named(
        self, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(copy_to(tiny_bundle, tmp_path / "here" / "tiny-sr").parent)
        with pytest.raises(UnknownModelError, match=r"write \./tiny-sr instead"):
            find_bundle("tiny-sr")

    def test_an_empty_name_is_not_the_working_folder(
        self, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tiny_bundle.folder)
        with pytest.raises(UnknownModelError):
            find_bundle("")

    @pytest.mark.parametrize("name", ["tiny-sr", "TINY-SR"])
    def test_a_display_name_takes_no_id(self, tiny_bundle: Bundle, name: str) -> None:
        copy_to(tiny_bundle, user_models_folder() / "aaa", id="aaa", name=name)
        import_bundle(tiny_bundle.folder)
        assert find_bundle("tiny-sr").id == "tiny-sr"
        remove_bundle("tiny-sr")
        with pytest.raises(UnknownModelError, match="Did you mean 'aaa'"):
            find_bundle("tiny-sr")

    def test_a_display_name_takes_no_path(self, tiny_bundle: Bundle) -> None:
        copy_to(tiny_bundle, user_models_folder() / "aaa", id="aaa", name="./model")
        with pytest.raises(UnknownModelError, match="no model folder"):
            find_bundle("./model")

    def test_one_display_name_of_two_models_is_an_error_that_names_both(self, tiny_bundle: Bundle) -> None:
        for name in ("aaa", "bbb"):
            copy_to(tiny_bundle, user_models_folder() / name, id=name)
        with pytest.raises(BundleError, match=r"called 'Tiny model'.*'aaa', 'bbb'"):
            find_bundle("Tiny model")

    def test_one_id_of_two_models_is_an_error_that_names_both(self, tiny_bundle: Bundle) -> None:
        for name in ("aaa", "tiny-sr"):
            copy_to(tiny_bundle, user_models_folder() / name)
        with pytest.raises(BundleError, match=r"id 'tiny-sr', so none.*aaa.*tiny-sr"):
            find_bundle("tiny-sr")
        with pytest.raises(BundleError, match="Nothing was removed"):
            remove_bundle("tiny-sr")
        assert [info.problem is None for info in list_bundles()] == [False, False]
        remove_bundle(str(user_models_folder() / "aaa"))
        assert find_bundle("tiny-sr").folder.name == "tiny-sr"

    def test_a_shipped_model_stands_and_the_other_one_is_listed_as_unused(
        self, tiny_bundle: Bundle, tmp_path: Path
    ) -> None:
        shipped = ship(tiny_bundle, tmp_path)
        copy_to(tiny_bundle, user_models_folder() / "aaa")
        assert find_bundle("tiny-sr").folder == shipped
        assert [info.problem is None for info in list_bundles()] == [True, False]
        assert "came with ScoreFusion and is used" in str(list_bundles()[1].problem)

    @pytest.mark.parametrize("name", ["x" * 5000, "./" + "x" * 5000, "a\0b", "./a\0b", "~nosuchuser/x", "\ud800"])
    def test_impossible_names_are_unknown_models(self, tiny_bundle: Bundle, name: str) -> None:
        import_bundle(tiny_bundle.folder)
        with pytest.raises(UnknownModelError) as error:
            find_bundle(name)
        assert len(str(error.value)) < 700


class TestHomes:
    def test_a_home_of_a_user_who_has_none_is_told_and_shipped_models_still_work(
        self, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ship(tiny_bundle, tmp_path)
        monkeypatch.setenv("SCOREFUSION_HOME", "~nosuchuser/x")
        assert find_bundle("tiny-sr").id == "tiny-sr"
        assert [info.problem is None for info in list_bundles()] == [True, False]
        for act in (
            user_models_folder,
            lambda: find_bundle("other"),
            lambda: import_bundle(tiny_bundle.folder, force=True),
        ):
            with pytest.raises(BundleError, match=r"~nosuchuser|came with ScoreFusion"):
                act()
        report = doctor(measure=False)
        assert any("~nosuchuser" in problem["what"] and "SCOREFUSION_HOME" in problem["do"]
                   for problem in report["problems"])  # fmt: skip

    @pytest.mark.parametrize(
        "home", ["{tmp}/file/x", "{tmp}/" + "x" * 300, "{tmp}/loop/x", "/proc/nothing/x", "/dev/null/x"]
    )
    def test_homes_where_nothing_can_be_written_refuse_an_import_in_words(
        self, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
    ) -> None:
        (tmp_path / "file").write_text("x")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        monkeypatch.setenv("SCOREFUSION_HOME", home.format(tmp=tmp_path))
        with pytest.raises(BundleError, match="SCOREFUSION_HOME"):
            import_bundle(tiny_bundle.folder)
        list_bundles()
        doctor(measure=False)

    def test_a_full_disk_leaves_nothing_and_is_told(
        self, tiny_bundle: Bundle, models_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(install, "move_into_place", full)
        with pytest.raises(BundleError, match=r"No space left on device\. Make room there"):
            import_bundle(tiny_bundle.folder)
        assert not list((models_home / "models").iterdir())

    def test_a_relative_home_does_not_move_with_the_working_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SCOREFUSION_HOME", "mine")
        assert user_models_folder() == tmp_path / "mine" / "models"

    @pytest.mark.parametrize(
        "command", [["models", "list"], ["models", "show", "other"], ["models", "import", "x.zip"]]
    )
    def test_the_command_line_ends_with_a_message_and_no_traceback(self, repository: Path, command: list[str]) -> None:
        environment = {**os.environ, "SCOREFUSION_HOME": "~nosuchuser/x", "PYTHONPATH": str(repository / "ScoreFusion")}
        done = subprocess.run(
            [sys.executable, "-m", "scorefusion", *command], env=environment, capture_output=True, text=True
        )
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
