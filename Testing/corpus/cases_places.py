"""Names and kinds of files: pipes, devices, loops, long and odd names; and files that change meanwhile."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from corpus.framework import Given, Truth, refused, right, right_or_refused
from corpus.makers import OBLIQUE, good, head, nifti, nrrd, write

# ---- Names ----

for name in ("x.Nii", "x.NII", "x.nIi.Gz", "x.NII.GZ", "x.Nrrd", "x.MHA", "x.y.z.nii", ".nii", ".hidden.nii.gz", "a b  c.nii.gz", " x.nii", "x'\"y.nii", "[x].nii", "x*?.nii", "$HOME.nii", "%s%d{}.nii", "日本語.nii.gz", "é.nrrd", "e\u0301.mha", "x\ny.nii", "\u202ex.nii", "x;y&z.nii", "-x.nii"):  # fmt: skip # noqa: E501

    def named(folder: Path, name: str = name) -> Given:
        write(folder / name)
        return Given(folder / name, Truth(head(), OBLIQUE))

    (right if "\n" not in name else right_or_refused)(f"places: named {name!a}", named)
for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
    raw = b"scan-\xff\xfe\xe9" + suffix.encode()

    def bytes_name(folder: Path, raw: bytes = raw) -> Given:
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + raw))
        write(folder / f"scan{raw.suffix if hasattr(raw, 'suffix') else os.fsdecode(raw)[8:]}").rename(path)
        return Given(path, Truth(head(), OBLIQUE))

    right(f"places: a name that is not UTF-8, {suffix}", bytes_name)
for length in (100, 200, 240, 250, 251, 255):
    for suffix in (".nii", ".nii.gz", ".nrrd"):

        def long(folder: Path, length: int = length, suffix: str = suffix) -> Given:
            return good("n" * (length - len(suffix)) + suffix)(folder)

        right(f"places: a name of {length} characters, {suffix}", long)
for length in (256, 300, 5000):

    def too_long(folder: Path, length: int = length) -> Given:
        return Given(folder / ("n" * length + ".nii"), names="nnn")

    refused(f"places: a name of {length} characters", too_long)


def deep(folder: Path) -> Given:
    """A path near the limit of 4096 bytes."""
    place = folder
    while len(str(place)) < 3600:
        place = place / ("d" * 200)
    place.mkdir(parents=True)
    return Given(nifti(place / "scan.nii.gz"), Truth(head(), OBLIQUE))


right("places: a path of 3800 characters", deep)
for word in ("", ".", "..", "/", "~nobody/x.nii", "~", "gone.nii", "gone/x.nii.gz", "scan", "scan.gz", "scan.dcm", "scan.mgz", "scan.img", "scan.hdr", "scan.txt", "http://example.org/scan.nii.gz", "scan.nii.gz/"):  # fmt: skip # noqa: E501

    def no_such(folder: Path, word: str = word) -> Given:
        return Given(Path(word), names="")

    refused(f"places: input {word or 'empty'}", no_such)
refused("places: a file as a folder", lambda folder: Given(nifti(folder / "a.nii") / "b.nii"))
for suffix in (".dcm", ".mgz", ".img", ".txt", ".gz", ""):

    def other_suffix(folder: Path, suffix: str = suffix) -> Path:
        return nifti(folder / "scan.nii").rename(folder / f"scan{suffix}")

    refused(f"places: a NIfTI file that ends in {suffix or 'nothing'}", other_suffix, "suffix")

# ---- Kinds ----


def made(kind: Callable[[Path], object], name: str = "scan.nii") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        kind(folder / name)
        return folder / name

    return make


def linked_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(before)


for suffix in (".nii", ".nii.gz", ".nrrd", ".mha", ".nhdr", ".mhd"):
    refused(f"places: a pipe, {suffix}", made(os.mkfifo, f"scan{suffix}"), "regular")
    refused(f"places: a folder, {suffix}", made(Path.mkdir, f"scan{suffix}"), "folder")
    refused(f"places: a link to itself, {suffix}", made(linked_to(f"scan{suffix}"), f"scan{suffix}"))
refused("places: a socket", made(_socket))
for target in ("/dev/zero", "/dev/null", "/dev/random", "/dev/tty"):
    refused(f"places: a link to {target}", made(linked_to(target)))
refused("places: a link to nowhere", made(linked_to("gone.nii")), "exist")


def through_link(folder: Path) -> Given:
    nifti(folder / "real.nii.gz")
    (folder / "scan.nii.gz").symlink_to("real.nii.gz")
    return Given(folder / "real.nii.gz", Truth(head(), OBLIQUE))


right("places: beside a link", through_link)


def sidecar(kind: Callable[[Path], object]) -> Callable[[Path], Given]:
    def make(folder: Path) -> Given:
        kind(folder / "scan.json")
        return Given(nifti(folder / "scan.nii.gz"), Truth(head(), OBLIQUE))

    return make


for word, kind in {"pipe": os.mkfifo, "folder": Path.mkdir, "link to itself": linked_to("scan.json"), "link to nowhere": linked_to("gone.json"), "link to /dev/zero": linked_to("/dev/zero"), "empty folder": lambda p: (p / "x").mkdir(parents=True)}.items():  # fmt: skip # noqa: E501
    right_or_refused(f"places: the sidecar is a {word}", sidecar(kind))


# ---- Meanwhile ----


def replaced(folder: Path) -> Given:
    """Another file takes the name as soon as the first was read; the record tells of what was read."""
    path = nifti(folder / "scan.nii.gz")
    other = nifti(folder.parent / "other.nii.gz", head(seed=5))

    def inside() -> None:
        from scorefusion import pipeline

        original = pipeline.prepare

        def prepare(*arguments: object) -> object:
            other.replace(path)
            return original(*arguments)

        pipeline.prepare = prepare

    return Given(path, Truth(head(), OBLIQUE), inside=inside, may_change=("scan.nii.gz",))


right("places: replaced after it was read", replaced)


def growing(folder: Path) -> Given:
    """Somebody still writes."""
    path = nrrd(folder / "scan.nrrd")

    def inside() -> None:
        def grow() -> None:
            while True:
                with path.open("ab") as stream:
                    stream.write(b"x")

        threading.Thread(target=grow, daemon=True).start()

    return Given(path, inside=inside, may_change=("scan.nrrd",), changes_early=True)


right_or_refused("places: growing while it is read", growing)
