"""Write the files of one result: all of them, or none."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from scorefusion.cli.stop import Stop
from scorefusion.errors import RequestError
from scorefusion.progress import jsonable

_VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


def sidecar_path(output: Path) -> Path:
    """``scan.nii.gz`` -> ``scan.json``."""
    for suffix in _VOLUME_SUFFIXES:
        if output.name.lower().endswith(suffix):
            return output.with_name(output.name[: -len(suffix)] + ".json")
    return output.with_suffix(".json")


def check_outputs(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Refuse two outputs in one file, an output that would replace an input, and one whose name is a folder's."""
    seen: set[Path] = set()
    for output in outputs:
        if output.is_dir():
            msg = f"{str(output)!r} is a folder. Choose another name for the output."
            raise RequestError(msg)
        resolved = output.resolve()
        if resolved in seen:
            msg = f"{str(output)!r} would be written twice. Give every output its own name."
            raise RequestError(msg)
        seen.add(resolved)
    for path in inputs:
        if path.resolve() in seen:
            msg = f"{str(path)!r} is an input and would be overwritten. Choose another name for the output."
            raise RequestError(msg)


@contextmanager
def staged_outputs(targets: Sequence[Path], stop: Stop) -> Iterator[Callable[[Path], Path]]:
    """Give each target a temporary place; on leaving without an error, all are put in place together.

    The temporary places are in the folders of the targets, since only renaming within a file system is atomic. If one
    file cannot be put in place, those before it are taken back, and what they replaced is there again.

    Yields:
        A function from a target to the place to write it for now.
    """
    token = secrets.token_hex(6)
    with ExitStack() as stack:
        folders: dict[Path, Path] = {}
        try:
            for target in targets:
                if target.parent not in folders:
                    folders[target.parent] = stack.enter_context(
                        stop.temporary(target.parent / f".scorefusion-{token}")
                    )
        except OSError as error:
            raise RequestError(_cannot_write(target, error)) from error
        yield lambda target: folders[target.parent] / target.name
        with stop.shield():
            _put_in_place(targets, folders)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Readable JSON; NaN, which JSON lacks, becomes null."""
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _put_in_place(targets: Sequence[Path], folders: dict[Path, Path]) -> None:
    undo: list[Callable[[], object]] = []
    for target in targets:
        staged, backup = folders[target.parent] / target.name, folders[target.parent] / f"{target.name}.before"
        try:
            if target.exists():
                target.replace(backup)
                undo.append(partial(backup.replace, target))
            staged.replace(target)
            undo.append(target.unlink)
        except OSError as error:
            for step in reversed(undo):
                step()
            raise RequestError(_cannot_write(target, error)) from error


def _cannot_write(target: Path, error: OSError) -> str:
    return f"{str(target)!r} could not be written: {error.strerror or error}. Nothing was written; try another folder."
