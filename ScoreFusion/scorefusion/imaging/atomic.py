"""Files that appear whole or not at all: written in a hidden folder beside their place, then renamed onto it.

A process that is killed leaves its hidden folder behind. The next run in the same place removes it, once it is sure
that nobody writes there any more.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_NAME = re.compile(r"\.scorefusion-([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}")
_NOBODY_WRITES_SO_LONG = 24 * 3600.0  # seconds; a hidden folder is in use for seconds, at most minutes


def hidden_name() -> str:
    """A new name for a hidden folder. It tells where its process runs, so that others know whether that still lives."""
    return f".scorefusion-{_here()}-{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def hidden_folder(parent: Path) -> Iterator[Path]:
    """A new folder on the same file system as `parent`, where the last step is a rename; removed at the end."""
    folder = parent / hidden_name()
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(own: Path) -> None:
    """Remove the hidden folders beside `own`, a hidden folder of this process, whose processes are dead.

    Safe beside parallel runs, on this machine and on others that share the file system: what another machine may be
    writing is removed only when it is a day old, by the clock of the file system.
    """
    mine = own.stat()
    with suppress(OSError), os.scandir(own.parent) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                its = entry.stat(follow_symlinks=False)
                old = mine.st_mtime - its.st_mtime > _NOBODY_WRITES_SO_LONG
                if its.st_uid == mine.st_uid and _is_dead(match[1], int(match[2]), old):
                    shutil.rmtree(entry.path, ignore_errors=True)


def _is_dead(where: str, process: int, old: bool) -> bool:
    """Whether the process of a hidden folder is gone for sure."""
    if where != _here() or not sys.platform.startswith("linux"):
        return old
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


@cache
def _here() -> str:
    """The set of processes that this one's number is unique in: a boot of a Linux kernel, and a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        facts = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "0" * 8  # elsewhere only age tells
    return hashlib.sha256(facts.encode()).hexdigest()[:8]
