"""Bringing the contrasts of a person onto each other, with a report that says how well that went.

A network that learns one contrast from another learns every offset between them, too. So before contrasts are paired,
each is moved rigidly onto one of them, and what came out is measured again. Nothing is made worse: a contrast that
already lies well stays the file it is, and a motion that does not help is not used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scorefusion.datasets.case import Case, nearest
from scorefusion.datasets.common_grid_report import (
    ALREADY_ALIGNED,
    NOT_IMPROVED,
    REFERENCE,
    REGISTERED,
    ContrastReport,
    RegistrationReport,
    shifts_in_words,
)
from scorefusion.datasets.datalist import SECTIONS, Datalist
from scorefusion.errors import RequestError, VolumeError
from scorefusion.imaging.alignment import Alignment, interior, measure_alignment
from scorefusion.imaging.files import read_grid, read_volume, write_volume
from scorefusion.imaging.grid import Reorientation
from scorefusion.imaging.registration import Motion, find_motion, move
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Reporter, jsonable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scorefusion.imaging.grid import Grid


def register_case(
    case: Case,
    reference: str,
    folder: Path,
    *,
    interpolation: str = "cubic",
    seed: int = 0,
    force: bool = False,
) -> RegistrationReport:
    """Bring all contrasts of a case onto one of them.

    Written to `folder/<case_id>`: the contrasts that were moved (float32 NIfTI), and `registration.json` and `.md`.
    Masks on the reference's grid stay as they are; those on the grid of another contrast go where it goes (nearest
    neighbour).

    Args:
        case: at least the reference.
        reference: the contrast whose grid all others come to.
        folder: for the results; must exist.
        interpolation: cubic keeps detail; linear cannot overshoot.
        seed: of the voxels sampled; the same seed gives the same files.
        force: move contrasts that already lie well, too.

    Raises:
        RequestError: there is no such contrast, or no such interpolation.
        VolumeError: a file cannot be used, or two contrasts do not show the same place.
    """
    if reference not in case.contrasts:
        has = ", ".join(case.contrasts) or "no contrast"
        msg = (
            f"case {case.case_id} has no {reference!r}{nearest(reference, case.contrasts)} to register to; it has {has}"
        )
        raise RequestError(msg)
    if interpolation not in ("cubic", "linear"):
        msg = f"unknown interpolation {interpolation!r}; choose cubic or linear"
        raise RequestError(msg)
    out = _make_folder(Path(folder) / case.case_id)
    fixed = read_volume(case.contrasts[reference], case.frame)
    rows: dict[str, ContrastReport] = {reference: ContrastReport(reference, REFERENCE, case.contrasts[reference])}
    if case.frame is not None:  # the others become files of one volume each, and a case has one frame for all
        rows[reference] = replace(rows[reference], file=write_volume(fixed, out / f"{reference}.nii.gz"))
    warnings: list[str] = []
    for contrast, path in case.contrasts.items():
        if contrast == reference:
            continue
        begin = time.monotonic()
        moving = read_volume(path, case.frame)
        kept = path if case.frame is None else None
        row = _register(contrast, kept, moving, fixed, out, interpolation, seed, force)
        rows[contrast] = replace(row, seconds=time.monotonic() - begin)
        warnings += _doubts(rows[contrast], case)
    masks, doubts = _carry_masks(case, fixed.grid, rows, out)
    done = replace(
        case,
        contrasts={contrast: rows[contrast].file for contrast in case.contrasts},
        masks=masks,
        frame=None,
        aligned=all(row.after.at_peak for row in rows.values() if row.after is not None),
    )
    report = RegistrationReport(
        done,
        reference,
        repr(fixed.grid).removeprefix("Grid(").removesuffix(")"),
        f"Rigid, by Mattes mutual information (SimpleITK {_version()}, seed {seed}), {interpolation} interpolation.",
        tuple(rows[contrast] for contrast in case.contrasts),
        (*warnings, *doubts),
    )
    content = json.dumps(jsonable(report.to_dict()), indent=2, ensure_ascii=False)
    (out / "registration.json").write_text(content + "\n", encoding="utf-8")
    (out / "registration.md").write_text(report.markdown(), encoding="utf-8")
    return report


def align_datalist(
    datalist: Datalist,
    reference: str,
    folder: Path,
    *,
    interpolation: str = "cubic",
    seed: int = 0,
    force: bool = False,
    reporter: Reporter | None = None,
    on_report: Callable[[RegistrationReport], None] | None = None,
) -> Datalist:
    """Register every case that has the reference and something to put on it; the others stay as they are.

    So do cases that the datalist says are aligned, unless `force` is set.

    Args:
        datalist: any.
        reference: see `register_case`, as for the arguments not named here.
        folder: gets a folder for each case.
        reporter: progress, warnings, cancellation.
        on_report: receives each report.

    Returns:
        The same cases in the same splits, with the files as they are now.
    """
    everyone = [case for split in SECTIONS for case in datalist.cases(split)]
    ids = [case.case_id for case in everyone]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        msg = f"several cases are called {', '.join(twice)}, so their results would overwrite each other; add 'session'"
        raise RequestError(msg)
    reporter = reporter or Reporter()
    _make_folder(Path(folder))
    done = 0
    sections: dict[str, tuple[Case, ...]] = {}
    for split, section in SECTIONS.items():
        cases = []
        for case in datalist.cases(split):
            reporter.progress(f"registering {case.case_id}", done, len(everyone))
            known = case.aligned is True and not force
            if reference in case.contrasts and len(case.contrasts) > 1 and not known:
                report = register_case(case, reference, folder, interpolation=interpolation, seed=seed, force=force)
                for warning in report.warnings:
                    reporter.warning("registration", f"{case.case_id}: {warning}")
                if on_report is not None:
                    on_report(report)
                case = report.case
            cases.append(case)
            done += 1
        sections[section] = tuple(cases)
    reporter.progress("registered", done, len(everyone))
    return Datalist(datalist.name, **sections)


def _register(
    contrast: str,
    path: Path | None,
    moving: Volume,
    fixed: Volume,
    out: Path,
    interpolation: str,
    seed: int,
    force: bool,
) -> ContrastReport:
    """Move one contrast, unless it lies well or the motion does not help. Without a `path` it is written anyway."""
    in_place = same_grid(moving.grid, fixed.grid)
    target = out / f"{contrast}.nii.gz"
    # On one grid this only brings the axes into the same order, and nothing may be interpolated.
    there = move(moving, Motion.none(), fixed.grid, "nearest" if in_place else "linear")
    before = _measure(there, fixed)
    if before is not None and in_place and before.at_peak and not force:
        file = path or write_volume(moving, target)
        return ContrastReport(contrast, ALREADY_ALIGNED, file, before=before, after=before)
    motion = find_motion(moving, fixed, seed)
    moved = move(moving, motion, fixed.grid, interpolation)
    common = interior(there, fixed) & interior(moved, fixed)
    before = _measure(there, fixed, common)
    after = measure_alignment(moved, fixed, common if before is not None else None)
    if before is None or after.nmi >= before.nmi:
        return ContrastReport(contrast, REGISTERED, write_volume(moved, target), motion, before, after)
    if in_place:
        return ContrastReport(contrast, NOT_IMPROVED, path or write_volume(moving, target), before=before, after=before)
    as_it_lay = move(moving, Motion.none(), fixed.grid, interpolation)
    return ContrastReport(contrast, NOT_IMPROVED, write_volume(as_it_lay, target), before=before, after=before)


def _measure(there: Volume, fixed: Volume, inside: NDArray[np.bool_] | None = None) -> Alignment | None:
    """How well the headers alone put one on the other; None where they hardly overlap."""
    try:
        return measure_alignment(there, fixed, inside)
    except VolumeError:
        return None


def _doubts(row: ContrastReport, case: Case) -> list[str]:
    """What a person should look at."""
    found = []
    if row.outcome == NOT_IMPROVED:
        found.append(
            f"registering {row.contrast} made it worse, so it stays where its header puts it; look at "
            f"{case.contrasts[row.contrast]}"
        )
    if row.after is not None and not row.after.at_peak:
        found.append(
            f"{row.contrast} is still off the reference: the best shift is {shifts_in_words(row.after)} voxels along "
            "i, j, k; do not pair them before you have looked"
        )
    if row.motion.rotation_degrees > 20 or max(abs(value) for value in row.motion.translation_mm) > 50:
        found.append(f"{row.contrast} was moved very far; check that it is the same head the same way up")
    return found


def _carry_masks(
    case: Case, grid: Grid, rows: Mapping[str, ContrastReport], out: Path
) -> tuple[dict[str, Path], list[str]]:
    """Masks on the reference's grid, or moved with the contrast they were drawn on."""
    masks, doubts = {}, []
    grids = {contrast: read_grid(path, case.frame) for contrast, path in case.contrasts.items()}
    for name, path in case.masks.items():
        lies_on = read_grid(path)
        masks[name] = path
        if same_grid(lies_on, grid):
            continue
        owner = next((contrast for contrast, other in grids.items() if same_grid(lies_on, other)), None)
        if owner is None:
            doubts.append(f"mask {name} ({path}) lies on the grid of no contrast, so it was left as it is")
            continue
        try:
            moved = move(read_volume(path), rows[owner].motion, grid, "nearest")
        except VolumeError as error:
            doubts.append(f"mask {name} was left as it is: {error}")
            continue
        masks[name] = write_volume(moved, out / f"{name}.nii.gz")
    return masks, doubts


def same_grid(a: Grid, b: Grid, tolerance_mm: float = 0.01) -> bool:
    """Whether the voxels of both coincide, whatever the order of their axes."""
    ours, theirs = (Reorientation.to_canonical(grid).apply_to_grid(grid) for grid in (a, b))
    return ours.is_close(theirs, tolerance_mm)


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        msg = f"folder {folder} cannot be made ({error.strerror}); create the one above it, or choose another place"
        raise RequestError(msg) from error
    return folder


def _version() -> str:
    import SimpleITK as sitk

    return str(sitk.__version__)
