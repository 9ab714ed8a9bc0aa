"""What a user gives, read and checked: volumes or files by input name, further stacks, an axis."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from scorefusion.bundle.folder import Bundle
from scorefusion.errors import RequestError
from scorefusion.imaging.files import read_volume, sidecar_path
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Reporter
from scorefusion.run.record import contradiction

Input = Volume | str | os.PathLike[str]


def axis_number(axis: int | str | None) -> int | None:
    """0, 1 or 2 of "i", "j", "k"; a number stays, None too."""
    if isinstance(axis, str):
        if axis.lower() not in ("i", "j", "k", "0", "1", "2"):
            msg = f"axis must be i, j or k (or 0, 1, 2), got '{axis}'."
            raise RequestError(msg)
        return "ijk012".index(axis.lower()) % 3
    return axis


def read_inputs(inputs: Input | Mapping[str, Input], bundle: Bundle, frame: int | None) -> dict[str, Volume]:
    """Volumes by condition name, in the bundle's order."""
    conditions = bundle.section["conditions"]
    names = [condition["name"] for condition in conditions]
    if not isinstance(inputs, Mapping):
        inputs = {names[0]: inputs}
    unknown = sorted(set(inputs) - set(names))
    if unknown:
        msg = f"Model '{bundle.id}' has no input {', '.join(map(repr, unknown))}; its inputs are {', '.join(names)}."
        raise RequestError(msg)
    missing = [c["name"] for c in conditions if c["name"] not in inputs and not c.get("optional")]
    if missing or not inputs:
        wanted = missing or names
        msg = f"Model '{bundle.id}' needs the input {', '.join(wanted)}; give it as {wanted[0]}=FILE."
        raise RequestError(msg)
    volumes = {}
    for name in names:
        if name in inputs:
            volumes[name] = _read_input(inputs[name], frame)
    return volumes


def _read_input(given: Input, frame: int | None) -> Volume:
    volume = given if isinstance(given, Volume) else read_volume(given, frame=frame)
    if volume.data.shape[0] != 1:
        msg = f"{volume.name} has {volume.data.shape[0]} channels; one is expected. Choose one of them first."
        raise RequestError(msg)
    volume.check_voxels()
    return volume


def read_stacks(stacks: Sequence[Input], bundle: Bundle) -> list[Volume]:
    """Further stacks of the scan to restore, where the model restores."""
    if stacks and bundle.section["task"] != "super_resolution":
        msg = f"Model '{bundle.id}' translates one scan: further stacks are for super-resolution. Leave them out."
        raise RequestError(msg)
    if isinstance(stacks, (str, os.PathLike, Volume)):
        msg = "stacks is a list, also for one further stack: stacks=[FILE]."
        raise RequestError(msg)
    return [_read_input(given, None) for given in stacks]


def check_records(volumes: Mapping[str, Volume], report: Reporter) -> None:
    """Say so if an input is one of our own results, but not the one that the record beside it tells of."""
    for volume in volumes.values():
        path = None if volume.source is None else Path(volume.source)
        if path is not None and path.is_file() and (problem := contradiction(path, sidecar_path(path))):
            report.warning("record-differs", problem)
