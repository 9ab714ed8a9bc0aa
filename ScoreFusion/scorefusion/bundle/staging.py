"""Folders that appear whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged_folder(parent: Path) -> Iterator[Path]:
    """A hidden new folder on the same file system as its future place; removed at the end unless it was moved away."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f".incoming-{secrets.token_hex(6)}"
    folder.mkdir()  # not tempfile.mkdtemp: its 0700 would stay on a model shared between users
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(staged: Path, final: Path) -> None:
    """Rename a staged folder to its place. What stood there is put back if that fails, and removed if it succeeds."""
    if not final.exists():
        staged.rename(final)
        return
    old = final.with_name(f".outgoing-{secrets.token_hex(6)}")
    final.rename(old)
    try:
        staged.rename(final)
    except BaseException:
        old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)
