"""Bring models in from a zip file or a folder, and take them out again.

A file from outside is not trusted: paths, links, kinds, sizes and the metadata are checked before anything is unpacked,
hashes before anything is put in place, and nothing in it is ever run.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn, Protocol

from scorefusion.bundle.folder import METADATA_PATH, Bundle, parse_metadata
from scorefusion.bundle.metadata import is_bundle_id, is_safe_path
from scorefusion.bundle.staging import move_into_place, staged_folder
from scorefusion.bundle.store import find_bundle, is_shipped, list_bundles, user_models_folder
from scorefusion.errors import BundleError
from scorefusion.wording import GIB, MIB, readable

MAX_BYTES = 2 * GIB
MAX_FILES = 1000
MAX_RATIO = 200
"""Of unpacked to packed size, for files above 10 MiB. Real weights barely compress; only zip bombs come near this."""

_RATIO_FROM = 10 * MIB
_KINDS = {
    ".safetensors",
    ".json",
    ".md",
    ".txt",
    ".yaml",
    ".yml",
    ".png",
    ".svg",
    ".jpg",
    ".pdf",
    ".csv",
    ".bib",
    ".cff",
}
_NAMES_WITHOUT_SUFFIX = {"LICENSE", "LICENCE", "NOTICE", "COPYING"}
_LITTER = {".DS_Store", "Thumbs.db", "__MACOSX"}


def import_bundle(path: str | Path, *, force: bool = False, max_bytes: int = MAX_BYTES) -> Bundle:
    """Check a model from outside and put it among the user's models.

    Args:
        path: a zip file, or a folder with ``configs/metadata.json``. In a zip, all may lie in one folder.
        force: replace an imported model of the same id.
        max_bytes: refuse what would unpack to more.

    Raises:
        BundleError: the file is unsafe, incomplete, damaged, or a model of that id exists. Nothing was changed.
    """
    source = Path(path)
    with _open_source(source) as archive:
        members = _checked_members(archive, source, max_bytes)
        metadata_bytes = _metadata_of(archive, members, source)
        metadata = parse_metadata(metadata_bytes, str(source))
        bundle_id = metadata["scorefusion"].get("id", _id_from(members, source))
        if not is_bundle_id(bundle_id):
            msg = f"{str(source)!r} names the model {bundle_id!r}, which cannot be. Set scorefusion.id in its metadata."
            raise BundleError(msg)
        final = user_models_folder() / bundle_id
        _check_place(bundle_id, final, force)
        try:
            with staged_folder(final.parent) as staged:
                root = _root_of(members)
                for member in members:
                    _unpack(archive, member, staged / PurePosixPath(member.path).relative_to(root))
                Bundle(staged).verify()
                move_into_place(staged, final)
        except OSError as error:
            msg = (
                f"The model could not be written to {str(final.parent)!r}: {error.strerror}. "
                "Make room there, or set SCOREFUSION_HOME to another folder."
            )
            raise BundleError(msg) from error
    return Bundle(final)


def remove_bundle(name: str) -> Path:
    """Delete an imported model; returns the folder that is gone. Models that came with ScoreFusion are refused."""
    infos = {info.id: info for info in list_bundles()}
    folder = (
        infos[name].folder if name in infos else find_bundle(name).folder
    )  # a broken model can be removed by its id
    if is_shipped(folder):
        msg = f"Model {name!r} came with ScoreFusion and cannot be removed."
        raise BundleError(msg)
    if folder.resolve().parent != user_models_folder().resolve():
        msg = f"Model {name!r} lies in {str(folder)!r}, which ScoreFusion does not manage. Delete that folder yourself."
        raise BundleError(msg)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        msg = f"Model {name!r} could not be removed from {str(folder)!r}: {error.strerror}."
        raise BundleError(msg) from error
    return folder


@dataclass(frozen=True)
class _Member:
    """A file inside the source.

    Attributes:
        path: as the source names it, with forward slashes.
        size: bytes when unpacked, as declared.
        packed: bytes it takes in the source.
        is_link: a symbolic link.
    """

    path: str
    size: int
    packed: int
    is_link: bool = False


class _Source(Protocol):
    def members(self) -> Iterator[_Member]: ...

    def open(self, path: str) -> BinaryIO: ...


class _ZipSource:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def members(self) -> Iterator[_Member]:
        for info in self._archive.infolist():
            if info.flag_bits & 0x1:
                msg = f"{str(self._archive.filename)!r} is encrypted. Unpack it yourself and import the folder."
                raise BundleError(msg)
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            # orig_filename: Python turns backslashes and cuts at NUL in .filename, which would hide a trick
            if is_link or not info.is_dir() or not is_safe_path(info.orig_filename):
                yield _Member(info.orig_filename, info.file_size, info.compress_size, is_link)

    def open(self, path: str) -> BinaryIO:
        return self._archive.open(path)  # type: ignore[return-value]


class _FolderSource:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def members(self) -> Iterator[_Member]:
        for parent, folders, files in os.walk(self._folder):
            for name in [*files, *(name for name in folders if (Path(parent) / name).is_symlink())]:
                file = Path(parent) / name
                size = file.lstat().st_size
                yield _Member(file.relative_to(self._folder).as_posix(), size, size, file.is_symlink())

    def open(self, path: str) -> BinaryIO:
        return (self._folder / path).open("rb")


@contextmanager
def _open_source(path: Path) -> Iterator[_Source]:
    if path.is_dir():
        yield _FolderSource(path)
        return
    if not path.exists():
        msg = f"There is no file or folder {str(path)!r} to import a model from."
        raise BundleError(msg)
    try:
        with zipfile.ZipFile(path) as archive:
            yield _ZipSource(archive)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        msg = f"{str(path)!r} is not a zip file that can be read ({error}). It may be cut short: get it again."
        raise BundleError(msg) from error


def _checked_members(archive: _Source, source: Path, max_bytes: int) -> list[_Member]:
    """The files to unpack, after all checks that need no unpacking."""
    members: list[_Member] = []
    seen: set[str] = set()
    total = 0
    for member in archive.members():
        if not is_safe_path(member.path):
            _refuse(source, f"the path {member.path!r} in it leads outside the model's folder")
        if member.is_link:
            _refuse(source, f"{member.path!r} is a link; only plain files are accepted")
        parts = PurePosixPath(member.path).parts
        if _LITTER & set(parts):
            continue
        name = PurePosixPath(member.path)
        if name.suffix.lower() not in _KINDS and name.name not in _NAMES_WITHOUT_SUFFIX:
            _refuse(source, f"{member.path!r} is of a kind that a model does not need (weights must be .safetensors)")
        if member.path.casefold() in seen:
            _refuse(source, f"{member.path!r} occurs twice in it")
        seen.add(member.path.casefold())
        total += member.size
        if total > max_bytes:
            _refuse(source, f"it would unpack to more than {readable(max_bytes)}")
        if member.size > _RATIO_FROM and member.size > MAX_RATIO * max(member.packed, 1):
            _refuse(source, f"{member.path!r} would unpack to {readable(member.size)}, which no real weights do")
        members.append(member)
        if len(members) > MAX_FILES:
            _refuse(source, f"it has more than {MAX_FILES} files")
    return members


def _refuse(source: Path, reason: str) -> NoReturn:
    msg = f"{str(source)!r} was not imported: {reason}."
    raise BundleError(msg)


def _root_of(members: list[_Member]) -> str:
    """The folder inside the source that is the bundle's: the source itself, or the one folder all lies in."""
    roots = [
        str(PurePosixPath(m.path).parents[1])
        for m in members
        if m.path == METADATA_PATH or m.path.endswith("/" + METADATA_PATH)
    ]
    root = min(roots, key=len) if roots else "."
    return "" if root == "." else root


def _metadata_of(archive: _Source, members: list[_Member], source: Path) -> bytes:
    root = _root_of(members)
    prefix = f"{root}/" if root else ""
    path = prefix + METADATA_PATH
    if not any(member.path == path for member in members):
        msg = f"{str(source)!r} is not a model bundle: it has no {METADATA_PATH}."
        raise BundleError(msg)
    outside = [member.path for member in members if not member.path.startswith(prefix)]
    if outside or "/" in root:
        msg = (
            f"{str(source)!r} is not one model bundle: {METADATA_PATH} must lie at its top, or all in one folder "
            f"(found {outside[0] if outside else path!r})."
        )
        raise BundleError(msg)
    with archive.open(path) as stream:
        return stream.read(8 * MIB)


def _id_from(members: list[_Member], source: Path) -> str:
    return (_root_of(members) or source.stem if source.suffix == ".zip" else source.name).lower()


def _check_place(bundle_id: str, final: Path, force: bool) -> None:
    for info in list_bundles():
        if info.id == bundle_id and info.shipped:
            msg = f"A model {bundle_id!r} came with ScoreFusion and stays. Change scorefusion.id in its metadata."
            raise BundleError(msg)
    if final.exists() and not force:
        msg = f"A model {bundle_id!r} is already installed in {str(final)!r}. Use --force (force=True) to replace it."
        raise BundleError(msg)


def _unpack(archive: _Source, member: _Member, to: Path) -> None:
    """Copy one file, never more than it declared: a zip may lie about sizes."""
    to.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with archive.open(member.path) as stream, to.open("wb") as out:
        while chunk := stream.read(MIB):
            left -= len(chunk)
            if left < 0:
                msg = f"{member.path!r} is larger than the {member.size} bytes it declares; the model was not imported."
                raise BundleError(msg)
            out.write(chunk)
