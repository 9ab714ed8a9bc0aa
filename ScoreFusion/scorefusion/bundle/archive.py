"""What lies in a zip file or a folder from outside: listed and checked before anything is unpacked.

Nothing about it is trusted: names, kinds, sizes, how well it is packed, and that two names are two files.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn, Protocol

from scorefusion.bundle.bounds import MAX_BYTES
from scorefusion.bundle.metadata import short
from scorefusion.bundle.names import is_safe_path, same_name
from scorefusion.errors import BundleError
from scorefusion.wording import MIB, readable

MAX_ENTRIES = 1000
"""Files and folders in a source."""
MAX_RATIO = 50
"""Of unpacked to packed size, from 10 MiB on. Real weights barely compress; only zip bombs come near this."""

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
NAMES_WITHOUT_SUFFIX = {"LICENSE", "LICENCE", "NOTICE", "COPYING"}
_LITTER = {".DS_Store", "Thumbs.db", "__MACOSX"}
_PACKINGS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
# All that Python's reader lets out for a damaged or malicious file, beside its own kind.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    OverflowError,
    MemoryError,
)


@dataclass(frozen=True)
class Member:
    """A file inside the source.

    Attributes:
        path: as the source names it, with forward slashes.
        size: bytes when unpacked, as declared.
        packed: bytes it takes in the source.
        is_plain: neither a link nor a device, pipe or socket.
    """

    path: str
    size: int
    packed: int
    is_plain: bool = True


class Source(Protocol):
    """A zip file or a folder."""

    path: Path

    def members(self) -> Iterator[Member | None]:
        """One an entry; None for a folder."""
        ...

    def open(self, path: str) -> BinaryIO: ...


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        # orig_filename: Python turns backslashes, cuts at NUL and takes other names from extra fields in .filename.
        self._by_name = {info.orig_filename: info for info in archive.infolist()}

    def members(self) -> Iterator[Member | None]:
        for info in self._archive.infolist():
            name = info.orig_filename
            if info.flag_bits & 0x1:
                refuse(self.path, "it is encrypted. Unpack it yourself and import the folder")
            if info.compress_type not in _PACKINGS:
                how = f"packed by method {info.compress_type}, such as LZMA or bzip2"
                refuse(self.path, f"{short(name)} is {how}. Pack it again as an ordinary zip")
            mode = stat.S_IFMT(info.external_attr >> 16)
            if name.endswith("/") and is_safe_path(name[:-1]) and mode in (0, stat.S_IFDIR):
                yield None
            else:
                yield Member(name, info.file_size, info.compress_size, mode in (0, stat.S_IFREG))

    def open(self, path: str) -> BinaryIO:
        return self._archive.open(self._by_name[path])  # type: ignore[return-value]


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def members(self) -> Iterator[Member | None]:
        for parent, folders, files in os.walk(self.path):
            for name in [*files, *folders]:
                file = Path(parent) / name
                status = file.lstat()
                if stat.S_ISDIR(status.st_mode):
                    yield None
                else:
                    is_plain = stat.S_ISREG(status.st_mode)
                    yield Member(file.relative_to(self.path).as_posix(), status.st_size, status.st_size, is_plain)

    def open(self, path: str) -> BinaryIO:
        return (self.path / path).open("rb")


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """A zip file or a folder to read from.

    Raises:
        BundleError: there is none, or it cannot be read as one.
    """
    with ExitStack() as stack:
        with naming_damage(path):
            if path.is_dir():
                source: Source = _Folder(path)
            elif not path.exists():
                msg = f"There is no file or folder {_named(path)} to import a model from."
                raise BundleError(msg)
            elif not path.is_file():
                refuse(path, "it is neither a file nor a folder")
            elif path.stat().st_size > MAX_BYTES:
                refuse(path, f"it is larger than {readable(MAX_BYTES)}")
            else:
                source = _Zip(path, stack.enter_context(zipfile.ZipFile(path)))
        yield source


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Whatever reading a source raises, as a `BundleError` that names it."""
    try:
        yield
    except BundleError:
        raise
    except _UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error or type(error).__name__
        what = "folder" if isinstance(error, PermissionError) else "zip file"
        msg = f"{_named(path)} is not a {what} that can be read ({reason}). It may be cut short: get it again."
        raise BundleError(msg) from error


def checked_members(archive: Source, max_bytes: int) -> list[Member]:
    """The files of a source, after all checks that need no unpacking.

    Raises:
        BundleError: something in it is unsafe, or there is too much of it.
    """
    source = archive.path
    members: list[Member] = []
    seen: dict[str, str] = {}
    total = packed = 0
    for number, member in enumerate(_listed(archive)):
        if number >= MAX_ENTRIES:
            refuse(source, f"it has more than {MAX_ENTRIES} files")
        if member is None:
            continue
        shown = short(member.path)
        if not is_safe_path(member.path):
            refuse(source, f"the path {shown} in it leads outside the model's folder or is oddly written")
        if not member.is_plain:
            refuse(source, f"{shown} is a link or a device; only plain files are accepted")
        total += member.size
        packed += member.packed
        if total > max_bytes:
            refuse(source, f"it would unpack to more than {readable(max_bytes)}")
        name = PurePosixPath(member.path)
        if _LITTER & set(name.parts):
            continue
        if name.suffix.lower() not in _KINDS and name.name not in NAMES_WITHOUT_SUFFIX:
            refuse(source, f"{shown} is of a kind that a model does not need (weights must be .safetensors)")
        if same_name(member.path) in seen:
            refuse(source, f"{short(seen[same_name(member.path)])} occurs twice in it (again as {shown})")
        seen[same_name(member.path)] = member.path
        if member.size > _RATIO_FROM and member.size > MAX_RATIO * member.packed:
            refuse(source, f"{shown} would unpack to {readable(member.size)}, which no real weights do")
        members.append(member)
    if source.is_file():
        packed = min(packed, source.stat().st_size)  # entries of a zip can share their bytes
    if total > _RATIO_FROM and total > MAX_RATIO * packed:
        refuse(source, f"it would unpack from {readable(packed)} to {readable(total)}, which no real weights do")
    return members


def read(archive: Source, member: Member) -> Iterator[bytes]:
    """The content of a file, a MiB at a time and never more than it declared: a zip may lie about sizes."""
    left = member.size
    with naming_damage(archive.path), archive.open(member.path) as stream:
        while chunk := stream.read(MIB):
            left -= len(chunk)
            if left < 0:
                msg = f"{member.path!r} is larger than the {member.size} bytes it declares; the model was not imported."
                raise BundleError(msg)
            yield chunk


def _listed(archive: Source) -> Iterator[Member | None]:
    with naming_damage(archive.path):
        yield from archive.members()


def refuse(source: Path, reason: str) -> NoReturn:
    """Say which source was not imported, and why."""
    msg = f"{_named(source)} was not imported: {reason}."
    raise BundleError(msg)


def _named(path: Path) -> str:
    return short(str(path), 300)
