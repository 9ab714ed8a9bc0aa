"""Hostile and damaged archives: a clear refusal, and nothing reaches the disk but what the metadata names."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from scorefusion.bundle import store  # noqa: E402
from scorefusion.bundle.folder import Bundle  # noqa: E402
from scorefusion.bundle.install import import_bundle, remove_bundle  # noqa: E402
from scorefusion.errors import BundleError  # noqa: E402

METADATA = "configs/metadata.json"
PLANE = "models/plane.safetensors"


@pytest.fixture(autouse=True)
def _no_real_models(models_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "_PACKAGE", tmp_path / "elsewhere" / "a" / "b")


class Packer:
    """Packs a bundle's folder into a zip, with members that no ordinary tool would write."""

    def __init__(self, bundle: Bundle, path: Path) -> None:
        self.bundle, self.path = bundle, path

    def __call__(
        self,
        *extra: tuple[str, bytes],
        mode: int = 0,
        method: int = zipfile.ZIP_DEFLATED,
        inside: str = "",
        changed: Callable[[dict[str, Any]], None] | None = None,
    ) -> Path:
        with zipfile.ZipFile(self.path, "w", method) as archive:
            for file in sorted(self.bundle.folder.rglob("*")):
                name = file.relative_to(self.bundle.folder).as_posix()
                content = file.read_bytes() if file.is_file() else b""
                if name == METADATA and changed is not None:
                    metadata = json.loads(content)
                    changed(metadata)
                    content = json.dumps(metadata).encode()
                if file.is_file():
                    archive.writestr(f"{inside}{name}", content)
            for name, content in extra:
                info = zipfile.ZipInfo("placeholder")
                info.filename = name  # past the clean-up that ZipInfo's constructor does
                info.external_attr = mode << 16
                info.compress_type = method
                archive.writestr(info, content)
        return self.path


@pytest.fixture
def pack(tiny_bundle: Bundle, tmp_path: Path) -> Packer:
    """Makes ``model.zip`` from the tiny bundle."""
    return Packer(tiny_bundle, tmp_path / "model.zip")


def files_below(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}


class TestWhatIsTaken:
    def test_only_what_the_metadata_names_and_the_card_and_the_licence_are_taken(self, pack: Packer) -> None:
        extra = [("docs/more.md", b"x"), ("models/other.safetensors", b"x"), ("configs/train.yaml", b"x")]
        folder = import_bundle(pack(*extra, ("NOTICE", b"mine"))).folder
        assert files_below(folder) == {
            "LICENSE", "NOTICE", METADATA, "docs/README.md", "models/fusion.safetensors", PLANE,
        }  # fmt: skip

    def test_the_same_from_a_folder(self, tiny_bundle: Bundle) -> None:
        (tiny_bundle.folder / "docs" / "more.md").write_text("x")
        assert "docs/more.md" not in files_below(import_bundle(tiny_bundle.folder).folder)

    def test_the_metadata_that_was_checked_is_the_metadata_that_is_installed(
        self, pack: Packer, tiny_bundle: Bundle
    ) -> None:
        assert import_bundle(pack()).hash == tiny_bundle.hash

    @pytest.mark.parametrize("inside", ["a model/", "modèle/"])
    def test_a_folder_inside_may_have_an_ordinary_name(self, pack: Packer, inside: str) -> None:
        assert import_bundle(pack(inside=inside)).id == "tiny-sr"


@pytest.mark.usefixtures("nothing_written")
class TestRefused:
    """Nothing is left of a refused archive."""

    @pytest.mark.parametrize(
        "name",
        [
            "configs/./metadata.json",
            "configs//metadata.json",
            "./configs/metadata.json",
            "configs/x/../metadata.json",
            "configs/metadata.json.",
            "configs/metadata.json ",
            "configs\\metadata.json",
            "configs/metadata.json\0.txt",
            "/configs/metadata.json",
            "configs/metadata\u200b.json",
            "con\u202efigs/metadata.json",
            "configs/metadata.json::$DATA",
            "",
            ".",
            "/",
            "evil//",
            "docs/nul.txt",
            "docs/evil\n.txt",
            "x" * 5000 + ".txt",
            "/".join(["x"] * 2500) + ".txt",
            "../" * 40 + "etc/evil.txt",
        ],
        ids=lambda name: ascii(name[:30]),
    )
    def test_a_member_that_is_oddly_written(self, pack: Packer, name: str) -> None:
        with pytest.raises(BundleError, match="leads outside") as error:
            import_bundle(pack((name, b"{}")))
        assert len(str(error.value)) < 700

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("configs/METADATA.json", METADATA),
            ("Configs/metadata.json", METADATA),
            ("config\u017f/metadata.json", METADATA),  # a long s is an s where case is ignored
            ("configs/\uff4detadata.json", METADATA),  # a full-width m
            ("docs/caf\u00e9.md", "docs/cafe\u0301.md"),
            ("docs/STRASSE.md", "docs/stra\u00dfe.md"),
            ("docs/more.md", "docs/more.md"),
        ],
        ids=ascii,
    )
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_two_members_that_are_one_file_on_some_system(self, pack: Packer, first: str, second: str) -> None:
        members = [(first, b"{}")] + ([(second, b"{}")] if second != METADATA else [])
        with pytest.raises(BundleError, match="occurs twice"):
            import_bundle(pack(*members))

    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
    def test_links_and_devices_in_a_zip(self, pack: Packer, kind: int) -> None:
        with pytest.raises(BundleError, match="is a link or a device"):
            import_bundle(pack(("docs/evil.txt", b"/etc/passwd"), mode=kind | 0o777))

    def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(self, tiny_bundle: Bundle) -> None:
        os.mkfifo(tiny_bundle.folder / "docs" / "pipe.txt")
        with pytest.raises(BundleError, match="is a link or a device"):
            import_bundle(tiny_bundle.folder)

    def test_a_pipe_and_a_socket_are_no_archives(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.zip")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s.zip"))
            for name in ("pipe.zip", "s.zip"):
                with pytest.raises(BundleError, match="neither a file nor a folder"):
                    import_bundle(tmp_path / name)

    def test_many_files_of_zeros_that_are_each_small_enough(self, pack: Packer) -> None:
        extra = [(f"docs/zeros{number}.txt", bytes(9 * 1024**2)) for number in range(20)]
        with pytest.raises(BundleError, match=r"unpack from \d+ MiB to \d+ MiB, which no real weights do"):
            import_bundle(pack(*extra))

    def test_too_many_files(self, pack: Packer) -> None:
        with pytest.raises(BundleError, match="more than 1000 files"):
            import_bundle(pack(*[(f"docs/{number}.md", b"") for number in range(1000)]))

    def test_too_many_folders(self, pack: Packer) -> None:
        with pytest.raises(BundleError, match="more than 1000 files"):
            import_bundle(pack(*[(f"docs/{number}/", b"") for number in range(1000)]))

    @pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    def test_other_packings_than_the_ordinary_one_are_not_read(self, pack: Packer, method: int) -> None:
        with pytest.raises(BundleError, match="Pack it again as an ordinary zip"):
            import_bundle(pack(method=method))

    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    def test_damaged_data_of_any_packing(self, pack: Packer, method: int) -> None:
        path = pack(method=method)
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
        content = path.read_bytes()
        for name in (METADATA, PLANE):
            start = infos[name].header_offset + 30 + len(name)
            for at in (start, start + 9, start + infos[name].compress_size // 2):
                path.write_bytes(content[:at] + bytes(byte ^ 0xFF for byte in content[at : at + 6]) + content[at + 6 :])
                with pytest.raises(BundleError):
                    import_bundle(path)

    def test_encrypted_archives(self, pack: Packer) -> None:
        content = bytearray(pack().read_bytes())
        at = content.rfind(b"PK\x01\x02")
        content[at + 8] |= 1
        pack.path.write_bytes(content)
        with pytest.raises(BundleError, match="encrypted"):
            import_bundle(pack.path)

    def test_metadata_that_is_too_large_to_be_any(self, pack: Packer) -> None:
        with pytest.raises(BundleError, match="larger than 2 MiB"):
            import_bundle(pack(changed=lambda metadata: metadata.update(more=["x" * 1000] * 3000)))

    @pytest.mark.parametrize("name", ["a" * 5000, "a/" * 3000, "nothing\0there", ""])
    def test_names_of_archives_that_no_file_can_have(self, name: str) -> None:
        with pytest.raises(BundleError) as error:
            import_bundle(name)
        assert len(str(error.value)) < 700

    def test_an_id_that_is_a_device_on_windows(self, pack: Packer) -> None:
        with pytest.raises(BundleError, match=r"scorefusion\.id"):
            import_bundle(pack(changed=lambda metadata: metadata["scorefusion"].update(id="nul")))

    @settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
    @given(data=st.data())
    def test_bytes_that_are_changed_anywhere_give_a_bundle_error_or_the_very_bundle(
        self, pack: Packer, tiny_bundle: Bundle, data: st.DataObject
    ) -> None:
        content = bytearray(pack().read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.one_of(st.integers(0, 200), st.integers(-900, -1), st.integers(0, len(content) - 1)))
            content[at] = data.draw(st.integers(0, 255))
        pack.path.write_bytes(content[: data.draw(st.sampled_from([None, None, None, -1, len(content) // 2]))])
        try:
            bundle = import_bundle(pack.path)
        except BundleError:
            return
        weights = list(tiny_bundle.section["files"])
        assert [(bundle.folder / file).read_bytes() for file in weights] == [
            (tiny_bundle.folder / file).read_bytes() for file in weights
        ]
        remove_bundle(bundle.id)

    @settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
    @given(name=st.text(min_size=0, max_size=40).map(lambda text: text + ".md"))
    def test_a_member_of_any_name_is_refused_or_left(self, pack: Packer, tmp_path: Path, name: str) -> None:
        before = files_below(tmp_path)
        try:
            path = pack((name, b"evil"))
        except UnicodeEncodeError:  # not even a zip can hold it
            return
        try:
            folder = import_bundle(path).folder
        except BundleError:
            return
        assert b"evil" not in [(folder / file).read_bytes() for file in files_below(folder)]
        shutil.rmtree(folder)
        assert files_below(tmp_path) == before | {"model.zip"}
