"""Damage: cut off, bits flipped, padded, of another format, changing or gone while it is read."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

from corpus.framework import Given, refused, right, right_or_refused
from corpus.makers import good, head

FILES: dict[str, tuple[str, dict]] = {
    "nii": ("scan.nii", {}),
    "nii.gz": ("scan.nii.gz", {}),
    "nrrd": ("scan.nrrd", {}),
    "nrrd gzip": ("scan.nrrd", {"encoding": "gzip"}),
    "nrrd bzip2": ("scan.nrrd", {"encoding": "bzip2"}),
    "nhdr gzip": ("scan.nhdr", {"encoding": "gzip"}),
    "mha": ("scan.mha", {}),
    "mha compressed": ("scan.mha", {"compressed": True}),
    "mhd compressed": ("scan.mhd", {"compressed": True}),
}
CHECKED = ("nii.gz", "nrrd gzip", "nrrd bzip2", "nhdr gzip", "mha compressed", "mhd compressed")
"""Formats with a checksum over the voxels."""


def changed(kind: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Given]:
    """A sound file whose bytes, of the voxels where they lie apart, have been changed."""
    name, how = FILES[kind]

    def make(folder: Path) -> Given:
        given = good(name, head((14, 13, 11), "i2"), **how)(folder)
        path = next((p for p in folder.iterdir() if p.suffix in (".raw", ".zraw")), given.scan)
        path.write_bytes(change(path.read_bytes()))
        return given

    return make


def flip(seed: int) -> Callable[[bytes], bytes]:
    """One bit, somewhere in the last nine tenths: behind the text header, where there is one."""

    def change(raw: bytes) -> bytes:
        rng = random.Random(seed)
        start = (
            raw.find(b"\n\n") + 2 if raw.startswith(b"NRRD") else raw.find(b"LOCAL\n") + 6 if b"LOCAL\n" in raw else 0
        )
        at = rng.randrange(start, len(raw))
        return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]

    return change


for kind in CHECKED:
    for seed in range(10):
        right_or_refused(f"damage: {kind}, flipped bit {seed}", changed(kind, flip(seed)))
    # The last bits of bzip2 are padding.
    add = right_or_refused if "bzip2" in kind else refused
    add(f"damage: {kind}, last byte flipped", changed(kind, lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])))
for kind in ("nii.gz", "nrrd gzip"):
    refused(f"damage: {kind}, CRC of zeros", changed(kind, lambda raw: raw[:-8] + bytes(4) + raw[-4:]))
    refused(f"damage: {kind}, wrong length at its end", changed(kind, lambda raw: raw[:-4] + bytes(4)))

for kind in FILES:
    for share in (0.0, 0.02, 0.5, 0.95):
        refused(
            f"damage: {kind}, {share:.0%} left", changed(kind, lambda raw, share=share: raw[: int(len(raw) * share)])
        )
    refused(f"damage: {kind}, last byte missing", changed(kind, lambda raw: raw[:-1]))
    # "bjectType = Image" is as good as none.
    add = right_or_refused if kind.startswith("mha") else refused
    add(f"damage: {kind}, first byte missing", changed(kind, lambda raw: raw[1:]))
    right_or_refused(f"damage: {kind}, a thousand zeros behind", changed(kind, lambda raw: raw + bytes(1000)))
    right_or_refused(f"damage: {kind}, text behind", changed(kind, lambda raw: raw + b"trailing words"))
for kind in ("nii", "nii.gz", "nrrd", "mha"):
    for content in ("text", "html", "png", "zip", "zeros"):
        raw = {"text": b"hello\n" * 100, "html": b"<!DOCTYPE html><html>404 Not Found</html>", "zeros": bytes(4000),
               "png": b"\x89PNG\r\n\x1a\n" + bytes(500), "zip": b"PK\x03\x04" + bytes(500)}[content]  # fmt: skip
        refused(f"damage: {kind} that is {content}", changed(kind, lambda _, raw=raw: raw))
right_or_refused("damage: nii.gz that is not compressed", changed("nii.gz", gzip.decompress))
right_or_refused("damage: nii that is compressed", changed("nii", gzip.compress))
right_or_refused("damage: nii.gz compressed twice", changed("nii.gz", gzip.compress))
right("damage: nii.gz in two members", changed("nii.gz", lambda raw: _two_members(gzip.decompress(raw))))


def _two_members(raw: bytes) -> bytes:
    return gzip.compress(raw[:1000]) + gzip.compress(raw[1000:])


def bomb(name: str, how: dict) -> Callable[[Path], Given]:
    """A gigabyte of zeros behind the voxels, in a megabyte of file."""

    def make(folder: Path) -> Given:
        given = good(name, **how)(folder)
        raw = given.scan.read_bytes()
        given.scan.write_bytes(raw + gzip.compress(bytes(1 << 27)) * 8)
        return given

    return make


refused("damage: nii.gz, a gigabyte of zeros behind", bomb("scan.nii.gz", {}))
refused("damage: nrrd gzip, a gigabyte of zeros behind", bomb("scan.nrrd", {"encoding": "gzip"}))
