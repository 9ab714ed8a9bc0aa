"""Whom the guides are tried on: people with a sharp T1w and other contrasts, coarsened where they have real detail."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scorefusion.datasets.case import AXES, Case
from scorefusion.datasets.datalist import SECTIONS, Datalist, find_datalist
from scorefusion.datasets.spectrum import read_axes
from scorefusion.errors import RequestError
from scorefusion.evaluation.benchmark import Subject, prepare
from scorefusion.evaluation.simulate import Setting
from scorefusion.evaluation.suites import SuiteCase, read_one
from scorefusion.imaging.foreground import foreground_box, foreground_mask
from scorefusion.imaging.grid import Box, Grid
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Reporter

#: The guide that nearly every exam has; every other contrast is made coarse and restored.
GUIDE = "t1"
#: Slices farther apart than this are no truth to score against, mm.
THICKEST_TRUTH = 2.0
#: How far a guide reaches beyond a truth that was cut to a cube, mm.
REACH = 12.0


@dataclass(frozen=True)
class Exam:
    """One contrast of a person to restore, and whose T1w is the wrong one for it."""

    target: SuiteCase
    setting: Setting
    stranger: Case | None = None


@dataclass(frozen=True, eq=False)
class Guided(Subject):
    """A truth with its coarse scan, and the sharp scans beside it, each on its own grid (axes in RAS+ order).

    Attributes:
        guides: the person's other contrasts by name.
        stranger: another person's T1w, its middle where the person's own has it; None where nobody else has one.
        stranger_name: that person.
    """

    guides: Mapping[str, Volume] = field(default_factory=dict)
    stranger: Volume | None = None
    stranger_name: str | None = None


def find_exams(
    datalist: str | Path, split: str, contrasts: Collection[str], subjects: Sequence[str], reporter: Reporter
) -> tuple[str, list[Exam]]:
    """The datalist's name, and each contrast (but the T1w) of each person of a split with a T1w, at each acquisition.

    Args:
        datalist: a file, "project" or "project-all".
        split: train, val or test.
        contrasts: that the model sharpens.
        subjects: these only; empty = all.
        reporter: hears what is left out, and why.

    Raises:
        RequestError: nobody is left.
    """
    everyone = find_datalist(datalist, strict=False)
    exams: list[Exam] = []
    for case in everyone.cases(split):
        if GUIDE not in case.contrasts or (subjects and case.subject not in subjects):
            continue
        for contrast in case.contrasts:
            if contrast != GUIDE and contrast in contrasts:
                target = SuiteCase(case, contrast)
                settings = list(acquisitions(target, reporter))
                exams += [Exam(target, setting, _stranger(case, everyone)) for setting in settings]
    if not exams:
        who = f" (of {', '.join(subjects)})" if subjects else ""
        msg = (
            f"datalist {everyone.name} has nobody under '{SECTIONS[split]}'{who} with a sharp t1 and a sharp scan of "
            f"another contrast ({', '.join(sorted(contrasts))}); choose another split or datalist"
        )
        raise RequestError(msg)
    return everyone.name, exams


def acquisitions(target: SuiteCase, reporter: Reporter) -> Iterator[Setting]:
    """Scans of a truth that lose only detail that it has: 4 x 4 (x 4) voxels, and slices of 5 mm along one axis."""
    volume = read_one(target.path, target.case.frame)
    if max(volume.spacing) > THICKEST_TRUTH:
        reporter.warning(
            "no-truth", f"{target.title} has slices of {max(volume.spacing):.3g} mm, which is no truth; it is left out"
        )
        return
    letters = target.case.sharp_axes_of(target.key)
    if letters is None:
        dull = read_axes(volume.data[0]).interpolated
        letters = "".join(letter for letter, off in zip(AXES, dull, strict=True) if not off)
    if letters == AXES:
        yield Setting("iso", 4)
    elif len(letters) == 2:
        yield Setting("inplane", 4, next(axis for axis, letter in enumerate(AXES) if letter not in letters))
    across = next((letter for letter in "SAR" if letter in letters), None)
    if across is not None:
        yield Setting("thick", 5, AXES.index(across))


def read_exam(exam: Exam, crop: str) -> Guided:
    """Read a person's truth and guides, and scan the truth coarsely; `crop` as of `benchmark.prepare`."""
    subject, case = prepare(exam.target, exam.setting, crop), exam.target.case
    guides = {
        name: replace(read_one(path, case.frame), contrast=None)
        for name, path in case.contrasts.items()
        if name != exam.target.key
    }
    stranger = None
    if exam.stranger is not None:
        other = read_one(exam.stranger.contrasts[GUIDE], exam.stranger.frame)
        stranger = replace(_shifted(other, _middle(guides[GUIDE]) - _middle(other)), contrast=None)
    if crop.isdecimal():
        grid = subject.truth.grid
        guides = {name: around(guide, grid) for name, guide in guides.items()}
        stranger = None if stranger is None else around(stranger, grid)
    name = None if exam.stranger is None else exam.stranger.case_id
    return Guided(**vars(subject), guides=guides, stranger=stranger, stranger_name=name)


def around(volume: Volume, grid: Grid, reach: float = REACH) -> Volume:
    """The part of `volume` within `reach` mm of a grid, as far as it has it."""
    ends = np.stack(np.meshgrid(*((-0.5, size - 0.5) for size in grid.spatial_shape), indexing="ij"), -1).reshape(-1, 3)
    index = volume.grid.world_to_index(grid.index_to_world(ends))
    margin = reach / np.array(volume.spacing)
    first = np.clip(np.floor(index.min(axis=0) - margin), 0, np.array(volume.spatial_shape) - 1).astype(int).tolist()
    last = np.clip(np.ceil(index.max(axis=0) + margin) + 1, 1, volume.spatial_shape).astype(int).tolist()
    return volume.crop(Box((first[0], first[1], first[2]), (last[0], last[1], last[2])))


def turned(volume: Volume, millimetres: float, degrees: float) -> Volume:
    """The same voxels with a header that is off: shifted along (1, 1, 1) and turned about (2, 3, 6) through the middle
    of the head, as after a motion between two scans."""
    axis, angle = np.array([2.0, 3.0, 6.0]) / 7.0, np.deg2rad(degrees)
    cross = np.cross(np.eye(3), -axis)
    motion, middle = np.eye(4), _middle(volume)
    motion[:3, :3] += np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
    motion[:3, 3] = middle - motion[:3, :3] @ middle + millimetres / np.sqrt(3.0)
    return replace(volume, affine=motion @ volume.affine)


def _stranger(case: Case, everyone: Datalist) -> Case | None:
    """The first other person with a T1w, with or without a skull as this one, whoever may be known best first: a model
    that even knows the wrong guide has no excuse."""
    others = (other for split in SECTIONS for other in everyone.cases(split) if other.subject != case.subject)
    fit = (other for other in others if GUIDE in other.contrasts and other.skull_stripped == case.skull_stripped)
    return next((other for other in fit if other.contrasts[GUIDE].is_file()), None)


def _middle(volume: Volume) -> NDArray[np.float64]:
    """RAS mm, of the box around the head."""
    box = foreground_box(foreground_mask(volume.data))
    return volume.grid.index_to_world((np.array(box.start) + np.array(box.stop) - 1) / 2)


def _shifted(volume: Volume, by: NDArray[np.float64]) -> Volume:
    """The same voxels elsewhere, mm."""
    motion = np.eye(4)
    motion[:3, 3] = by
    return replace(volume, affine=motion @ volume.affine)
