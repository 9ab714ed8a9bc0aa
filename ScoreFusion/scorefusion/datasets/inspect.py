"""What is wrong with a datalist, found before it costs a night: all of it at once, errors first.

Two passes. The first reads headers: missing files, grids, sizes, people in two splits; seconds for thousands of files.
The second reads voxels: damage, NaN, constant volumes, the same scan under two names, and axes without real detail,
which are a trap for super-resolution (`spectrum`).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scorefusion.datasets.case import AXES, Case
from scorefusion.datasets.common_grid import same_grid
from scorefusion.datasets.datalist import SECTIONS, Datalist
from scorefusion.datasets.spectrum import AxisReading, read_axes
from scorefusion.errors import VolumeError
from scorefusion.imaging.files import read_grid, read_volume
from scorefusion.imaging.grid import Grid, Reorientation
from scorefusion.progress import Reporter

#: Voxels this much longer than the finest side are slices: nothing sharp can be learned across them.
THICK = 2.0


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or may be.

    Attributes:
        kind: an error would stop the training or falsify its result; a warning wants a decision.
        where: case and file in words.
        message: what was found and what to do.
    """

    kind: Literal["error", "warning"]
    where: str
    message: str


@dataclass(frozen=True)
class VoxelFacts:
    """What the voxels of one file say.

    Attributes:
        digest: SHA-256 of the voxels, so that another compression or header does not hide a copy.
        reading: of the spectrum, along axes near RAS; None if it was not asked for or the volume is too small.
        trouble: why the file cannot be used; None if it can.
    """

    digest: str = ""
    reading: AxisReading | None = None
    trouble: str | None = None


@dataclass(frozen=True)
class _File:
    """One volume of a case that is going to be used."""

    split: str
    case: Case
    contrast: str
    path: Path

    @property
    def where(self) -> str:
        return f"{self.case.case_id} {self.contrast}"


def inspect(
    datalist: Datalist,
    contrasts_needed: Collection[str] = (),
    super_resolution: bool = False,
    min_size: int = 32,
    *,
    voxels: bool = True,
    workers: int = 1,
    reporter: Reporter | None = None,
) -> list[Problem]:
    """Everything that is wrong with a datalist, errors first.

    Args:
        datalist: read with `strict=False`, so that what a strict reading refuses is listed here with the rest.
        contrasts_needed: contrasts that will be used; others are not looked at. Empty takes all.
        super_resolution: each contrast is used by itself and as a sharp target: axes without detail are warned of, and
            contrasts need not lie on each other. False: contrasts of a case are paired.
        min_size: fewest voxels along the shortest axis.
        voxels: False leaves the second pass out.
        workers: files that are read at the same time.
        reporter: progress and cancellation.
    """
    reporter = reporter or Reporter()
    cases = [(split, case) for split in SECTIONS for case in datalist.cases(split)]
    wanted = {*contrasts_needed, "image"} if contrasts_needed else None
    files = [
        _File(split, case, contrast, path)
        for split, case in cases
        for contrast, path in case.contrasts.items()
        if wanted is None or contrast in wanted
    ]
    problems = [*_people(datalist), *_contrasts(cases, contrasts_needed), *_namesakes(files)]
    readable: dict[int, Grid] = {}
    for number, file in enumerate(files):
        reporter.progress("reading headers", number, len(files))
        try:
            grid = read_grid(file.path, file.case.frame)
        except VolumeError as error:
            problems.append(Problem("error", file.where, str(error)))
            continue
        readable[number] = grid
        problems += _sizes(file, grid, min_size, super_resolution)
    problems += _masks([case for _, case in cases], files, readable)
    if not super_resolution:
        problems += _grids(files, readable)
        problems += _alignment(datalist.name, cases, wanted)
    if voxels:
        problems += _voxels([files[number] for number in readable], super_resolution, workers, reporter)
    return sorted(problems, key=lambda problem: problem.kind != "error")  # stable: otherwise in the order found


def examine(path: Path, frame: int | None = None, spectrum: bool = True) -> VoxelFacts:
    """Read one volume and say what its voxels tell. Depends on nothing else, so many may run side by side.

    Args:
        path: of the file.
        frame: which volume of a 4D file.
        spectrum: measure which axes have real detail, too.
    """
    try:
        volume, _ = read_volume(path, frame).canonical()
    except VolumeError as error:
        return VoxelFacts(trouble=str(error))
    digest = hashlib.sha256(repr(volume.spatial_shape).encode() + volume.data.tobytes()).hexdigest()
    measurable = spectrum and min(volume.spatial_shape) >= 8
    return VoxelFacts(digest, read_axes(volume.data[0]) if measurable else None)


# -- people and names --------------------------------------------------------------------------------------------------


def _people(datalist: Datalist) -> Iterator[Problem]:
    homes: dict[str, set[str]] = defaultdict(set)
    for split in SECTIONS:
        for case in datalist.cases(split):
            homes[case.subject].add(split)
    for subject, splits in homes.items():
        if len(splits) > 1:
            names = " and ".join(split for split in SECTIONS if split in splits)
            message = f"is in {names}; keep each person in one split (`scorefusion data split` does)"
            yield Problem("error", subject, message)


def _contrasts(cases: list[tuple[str, Case]], needed: Collection[str]) -> Iterator[Problem]:
    if not needed:
        return
    for contrast in needed:
        if not any(contrast in case.contrasts or "image" in case.contrasts for _, case in cases):
            yield Problem("warning", contrast, f"no case has it; there are {len(cases)} cases")
    scanned = [case for _, case in cases if case.contrasts]  # the others are label maps, for synthetic scans
    without = [case.case_id for case in scanned if not {*needed, "image"} & set(case.contrasts)]
    if without:
        message = f"{len(without)} of {len(scanned)} cases have none of {', '.join(needed)} and are not used"
        yield Problem("warning", _some(without), message)


def _namesakes(files: list[_File]) -> Iterator[Problem]:
    """One file in two places. Copies are found by their voxels."""
    owners: dict[Path, _File] = {}
    for file in files:
        first = owners.setdefault(file.path.absolute(), file)
        if first is not file:
            yield Problem("error", file.where, f"is the same file as {first.where}: {file.path}")


# -- headers -----------------------------------------------------------------------------------------------------------


def _sizes(file: _File, grid: Grid, min_size: int, super_resolution: bool) -> Iterator[Problem]:
    if min(grid.spatial_shape) < min_size:
        shape = " x ".join(str(size) for size in grid.spatial_shape)
        message = f"has {shape} voxels; at least {min_size} along each axis are needed"
        yield Problem("error", file.where, message)
    straight = Reorientation.to_canonical(grid).apply_to_grid(grid)
    thick = [axis for axis in range(3) if straight.spacing[axis] >= THICK * min(straight.spacing)]
    claimed = file.case.sharp_axes_of(file.contrast)
    doubtful = "".join(AXES[axis] for axis in thick if claimed is None or AXES[axis] in claimed)
    if super_resolution and doubtful:
        spacing = " x ".join(f"{value:.3g}" for value in straight.spacing)
        rest = "".join(letter for letter in AXES if letter not in doubtful and (claimed is None or letter in claimed))
        message = f'voxels are {spacing} mm: nothing sharp along {doubtful}; set "sharp_axes": "{rest}"'
        yield Problem("warning", file.where, message)


def _masks(cases: list[Case], files: list[_File], readable: dict[int, Grid]) -> Iterator[Problem]:
    used = {id(file.case) for file in files}
    grids: dict[int, list[Grid]] = defaultdict(list)
    for number, grid in readable.items():
        grids[id(files[number].case)].append(grid)
    for case in cases:
        if case.contrasts and id(case) not in used:
            continue
        for name, path in case.masks.items():
            where = f"{case.case_id} {name} mask"
            try:
                grid = read_grid(path)
            except VolumeError as error:
                yield Problem("error", where, str(error))
                continue
            known = grids[id(case)]
            if known and not any(same_grid(grid, other) for other in known) and not _lies_elsewhere(grid, case):
                message = f"lies on the grid of no contrast of the case, so it cannot be used with them: {path}"
                yield Problem("warning", where, message)


def _lies_elsewhere(grid: Grid, case: Case) -> bool:
    """Whether a contrast that is not used has this grid."""
    for path in case.contrasts.values():
        try:
            if same_grid(grid, read_grid(path, case.frame)):
                return True
        except VolumeError:
            continue
    return False


def _grids(files: list[_File], readable: dict[int, Grid]) -> Iterator[Problem]:
    first: dict[int, tuple[_File, Grid]] = {}
    for number, grid in readable.items():
        file = files[number]
        other, expected = first.setdefault(id(file.case), (file, grid))
        if not same_grid(grid, expected):
            message = (
                f"is on another grid than {other.contrast} ({_words(grid)} against {_words(expected)}), so the two "
                "cannot be paired; run `scorefusion data register`"
            )
            yield Problem("error", file.where, message)


def _alignment(name: str, cases: list[tuple[str, Case]], wanted: set[str] | None) -> Iterator[Problem]:
    paired = [case for _, case in cases if len([key for key in case.contrasts if wanted is None or key in wanted]) > 1]
    for case in paired:
        if case.aligned is False:
            message = (
                "its contrasts are known to be off each other, so they are not paired; run `scorefusion data register` "
                "and use the list that it writes"
            )
            yield Problem("warning", case.case_id, message)
    unknown = [case.case_id for case in paired if case.aligned is None]
    if unknown:
        message = (
            f"of {len(unknown)} {'case' if len(unknown) == 1 else 'cases'} nobody has checked that the contrasts lie "
            f"on each other ({_some(unknown)}); `scorefusion data register` measures it and moves what is off"
        )
        yield Problem("warning", name, message)


# -- voxels ------------------------------------------------------------------------------------------------------------


def _voxels(files: list[_File], super_resolution: bool, workers: int, reporter: Reporter) -> Iterator[Problem]:
    copies: dict[str, _File] = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:  # unpacking and Fourier transforms run outside Python's lock
        found = pool.map(lambda file: examine(file.path, file.case.frame, super_resolution), files)
        try:
            for number, (file, facts) in enumerate(zip(files, found, strict=True)):
                reporter.progress("reading voxels", number, len(files))
                if facts.trouble is not None:
                    yield Problem("error", file.where, facts.trouble)
                    continue
                first = copies.setdefault(facts.digest, file)
                if first is not file and first.path.absolute() != file.path.absolute():
                    yield _copy(file, first)
                if super_resolution and facts.reading is not None:
                    yield from _detail(file, facts.reading)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    reporter.progress("reading voxels", len(files), len(files))


def _copy(file: _File, first: _File) -> Problem:
    if file.case.subject != first.case.subject:
        message = (
            f"has the same voxels as {first.where}: one person under two names; keep one, or give both one subject"
        )
    else:
        message = f"has the same voxels as {first.where}; one of the two is the wrong file"
    return Problem("error", file.where, message)


def _detail(file: _File, reading: AxisReading) -> Iterator[Problem]:
    """Axes that would be learned as sharp and are not."""
    claimed = file.case.sharp_axes_of(file.contrast)
    empty = "".join(letter for letter, flag in zip(AXES, reading.interpolated, strict=True) if flag)
    if claimed is None and empty:
        sharp = "".join(letter for letter in AXES if letter not in empty)
        message = (
            f"looks interpolated along {' and '.join(empty)} (almost no fine detail): a network would learn to blur "
            f'there. Set "sharp_axes": "{sharp}" for it in the datalist'
        )
        yield Problem("warning", file.where, message)
    elif claimed is not None and set(empty) & set(claimed):
        wrong = " and ".join(letter for letter in claimed if letter in empty)
        message = f'"sharp_axes" is "{claimed}", but along {wrong} there is almost no fine detail'
        yield Problem("warning", file.where, message)
    elif reading.smooth:
        yield Problem("warning", file.where, "is smooth along all axes (averaged or blurred): a weak target")


def _words(grid: Grid) -> str:
    shape = " x ".join(str(size) for size in grid.spatial_shape)
    return f"{shape} voxels of {' x '.join(f'{value:.3g}' for value in grid.spacing)} mm"


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
