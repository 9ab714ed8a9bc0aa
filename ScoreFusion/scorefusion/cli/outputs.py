"""Write the files of one result: all of them or none, and never over a file that is somebody else's."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from scorefusion.cli.stop import Stop
from scorefusion.errors import RequestError
from scorefusion.imaging.atomic import hidden_name, remove_leftovers
from scorefusion.progress import jsonable
from scorefusion.run.record import outputs_of, read_record

_HEADER_BYTES = 1024**2
_DATA_FIELD = re.compile(r"^[ \t]*(?:ElementDataFile[ \t]*=|data ?file:=?)[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)


def check_outputs(inputs: Sequence[Path], record: Path, outputs: Sequence[Path], stop: Stop) -> None:
    """Find out before the work whether its files can be written, and what they would replace.

    Raises:
        RequestError: an output would replace a file that belongs to an input, or another output; the record would
            replace anything but an older record of `outputs`; a folder is full or write-protected.
    """
    for output in (*outputs, record):
        for path in inputs:
            for file in belongings(path):
                if _are_same(file, output):
                    what = "is an input" if file == path else f"belongs to the input {str(path)!r}"
                    if output == record:
                        what = f"is where the record of the result goes, but it {what}"
                    msg = f"{str(output)!r} {what}. Nothing may take its place: choose another name for the output."
                    raise RequestError(msg)
    check_record(record, outputs)
    with _hidden_folders([record, *outputs], stop) as folders:
        for output in (record, *outputs):
            # An exact answer for every file system: some take Out.nii.gz and out.nii.gz for one name.
            try:
                (folders[output.parent] / output.name).touch(exist_ok=False)
            except FileExistsError as error:
                msg = f"{str(output)!r} would be written twice. Give every output its own name."
                raise RequestError(msg) from error
            except OSError as error:
                raise RequestError(_cannot_write(output, error)) from error


def check_record(record: Path, outputs: Sequence[Path]) -> None:
    """Raise RequestError if the record would replace anything but an older record of the same outputs."""
    if not os.path.lexists(record):
        return
    found = read_record(record)
    if found is None:
        is_what = "is a folder" if record.is_dir() else "is there already, and is no record of ScoreFusion"
        what = f"{str(record)!r} {is_what}"
    else:
        names = {output.name for output in outputs}
        kept = [name for name in outputs_of(found) if name not in names and os.path.lexists(record.parent / name)]
        if not kept or names & outputs_of(found).keys():
            return
        what = f"{str(record)!r} is the record of {kept[0]!r}"
    msg = f"{what}; the record of this result would replace it. Choose another name for the output."
    raise RequestError(msg)


def belongings(volume: Path) -> Iterator[Path]:
    """Every file that a volume consists of: itself, its sidecar, and the voxels of a header that has them apart."""
    from scorefusion.imaging.files import sidecar_path

    yield volume
    yield sidecar_path(volume)
    if volume.suffix.lower() in (".mhd", ".nhdr") and volume.is_file():
        with volume.open("rb") as stream:
            header = os.fsdecode(stream.read(_HEADER_BYTES))
        if field := _DATA_FIELD.search(header):
            for name in _data_files(volume.parent, field[1].strip(), header[field.end() :].splitlines()):
                yield volume.parent / name


def _data_files(folder: Path, value: str, further: Iterable[str]) -> Iterable[str]:
    """Names of files from a header's field: one name, a pattern with its range, or the word LIST and lines of names."""
    if value.upper().startswith("LIST"):
        return [line.strip() for line in further if line.strip()]
    if "%" in value:
        name, counted = re.subn(r"%[-+ 0#]*[0-9]*[diu]", "*", value.split()[0])
        return [str(path.relative_to(folder)) for path in folder.glob(name)] if counted else [value]
    return [value]


@contextmanager
def staged_outputs(record: Path, outputs: Sequence[Path], stop: Stop) -> Iterator[Callable[[Path], Path]]:
    """Give each file a temporary place; on leaving without an error, all are put in place together.

    Each is renamed onto its place, so at any moment there is the old file or the new one, both whole. The record goes
    first: a process that is killed in between leaves a record that, by its hashes, is not that of the image beside it.
    If one file cannot be put in place, those before it are taken back.

    Yields:
        A function from a file's path to the place to write it for now.
    """
    targets = [record, *outputs]
    with _hidden_folders(targets, stop) as folders:
        yield lambda target: folders[target.parent] / target.name
        with stop.shield():
            check_record(record, outputs)
            _put_in_place({target: folders[target.parent] / target.name for target in targets})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Readable JSON; NaN, which JSON lacks, becomes null."""
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False)
    # A file name that is not UTF-8 becomes an escape of JSON's own.
    path.write_bytes((text + "\n").encode("utf-8", "backslashreplace"))


@contextmanager
def _hidden_folders(targets: Sequence[Path], stop: Stop) -> Iterator[dict[Path, Path]]:
    """A temporary folder in each folder of the targets; what killed runs left there is cleared away."""
    with ExitStack() as stack:
        folders: dict[Path, Path] = {}
        for target in targets:
            if target.parent not in folders:
                try:
                    folder = stack.enter_context(stop.temporary(target.parent / hidden_name()))
                    remove_leftovers(folder)
                except OSError as error:
                    raise RequestError(_cannot_write(target, error)) from error
                folders[target.parent] = folder
        yield folders


def _put_in_place(staged: dict[Path, Path]) -> None:
    undo: list[Callable[[], object]] = []
    for target, source in staged.items():
        try:
            way_back = _way_back(target, source.with_name(f"{len(undo)}.before"))
            source.replace(target)
            undo.append(way_back)
        except OSError as error:
            for step in reversed(undo):
                step()
            raise RequestError(_cannot_write(target, error)) from error


def _way_back(target: Path, backup: Path) -> Callable[[], object]:
    """How to bring back what is there now. It stays where it is: the backup is a second name for it, or a copy."""
    if not os.path.lexists(target):
        return target.unlink
    try:
        os.link(target, backup, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(target, backup, follow_symlinks=False)
    return partial(backup.replace, target)


def _are_same(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file, by whatever links, spelling or case; or would, were it there."""
    try:
        return first.samefile(second)
    except ValueError:  # a header may name anything, such as a null byte
        return False
    except OSError:  # one of them does not exist
        return first.name == second.name and first.parent.resolve() == second.parent.resolve()


def _cannot_write(target: Path, error: OSError) -> str:
    return f"{str(target)!r} could not be written: {error.strerror or error}. Nothing was written; try another folder."
