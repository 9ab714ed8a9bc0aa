"""Whose translations are scored, and from whom the baselines learn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scorefusion.datasets.case import Case
from scorefusion.datasets.datalist import SECTIONS, data_folder, project_datalist, read_datalist
from scorefusion.errors import RequestError
from scorefusion.evaluation.translation.direction import Direction

#: Persons of the test data whose contrasts lie on one grid, by suite. `translation-loso` scores each by a model that
#: has not seen this person.
PAIR_SUITES: dict[str, tuple[str, ...]] = {
    "translation-test": ("tcga_DU7294",),
    "translation-val": ("openms_19",),
    "translation-loso": ("openms_07", "openms_19", "tcga_FG6692", "tcga_DU7294"),
    "jif-test": ("jif_S16", "jif_S17", "jif_S19"),
}
_SPLITS = {"translation-test": "test", "translation-val": "val", "jif-test": "test"}
_CORONAL = 1
_MODALITIES = {"T1w": "t1", "T2w": "t2"}


@dataclass(frozen=True)
class PairSuite:
    """Cases to score, and cases from which a baseline may learn (never from the person it is scored on).

    Attributes:
        slice_axis: the files are single slices normal to this axis (their first axis runs along the lower of the other
            two); None = volumes.
    """

    name: str
    split: str
    cases: tuple[Case, ...] = field(repr=False)
    training: tuple[Case, ...] = field(default=(), repr=False)
    slice_axis: int | None = None

    def teachers(self, case: Case) -> tuple[Case, ...]:
        """Whom a baseline for this case learns from."""
        return tuple(other for other in self.training if other.subject != case.subject)

    def only(self, subjects: Sequence[str]) -> PairSuite:
        """These persons only, if any are named."""
        unknown = sorted(set(subjects) - {case.case_id for case in self.cases} - {case.subject for case in self.cases})
        if unknown:
            known = ", ".join(case.case_id for case in self.cases)
            msg = f"{self.name} has no subject {', '.join(unknown)}; it has {known}"
            raise RequestError(msg)
        named = set(subjects)
        kept = tuple(case for case in self.cases if not named or named & {case.case_id, case.subject})
        return replace(self, cases=kept)

    def fitting(self, direction: Direction) -> PairSuite:
        """Cases that have all contrasts; to score, every one must.

        Raises:
            RequestError: a case lacks a contrast, or its contrasts are known to be off each other.
        """
        for case in self.cases:
            direction.match(case)
            if case.aligned is False:
                msg = (
                    f"the contrasts of {case.case_id} are known to be off each other, so a score would measure the "
                    "shift; align them first: scorefusion data register"
                )
                raise RequestError(msg)
        usable = tuple(c for c in self.training if not direction.missing(c) and c.aligned is not False)
        return replace(self, training=usable)

    def data_hash(self, direction: Direction) -> str:
        """SHA-256 over the contents of all volumes that are scored and their masks, in order; 12 digits."""
        digest = hashlib.sha256()
        for case in self.cases:
            sources, target = direction.match(case)
            for path in (*(case.contrasts[name] for name in (*sources.values(), target)), *case.masks.values()):
                digest.update(path.read_bytes())
        return digest.hexdigest()[:12]


def named_pair_suite(name: str, folder: Path | None = None, datalist: Path | None = None) -> PairSuite:
    """One of `PAIR_SUITES`, found through the data's manifest.

    Args:
        name: of the suite.
        folder: of the test data; where `SCOREFUSION_TEST_DATA` says if left out.
        datalist: take the volumes from this file instead, such as `scorefusion data register project` writes: then
            whom it has registered may teach, too.
    """
    if datalist is not None and name == "jif-test":
        msg = f"suite {name!r} consists of the test data's single slices; leave the datalist out"
        raise RequestError(msg)
    folder = folder or data_folder()
    if folder is None or not (folder / "manifest.json").is_file():
        msg = (
            f"suite {name!r} needs the project's test data, and its manifest.json was not found; set "
            "SCOREFUSION_TEST_DATA to the folder, or give a datalist file of your own"
        )
        raise RequestError(msg)
    if name == "jif-test":
        return _slice_suite(name, folder)
    source = project_datalist(folder) if datalist is None else read_datalist(datalist)
    home = {case.subject: (split, case) for split in SECTIONS for case in source.cases(split)}
    wanted = PAIR_SUITES[name]
    split = _SPLITS.get(name, "leave one out")
    for subject in wanted:
        if subject not in home or (name in _SPLITS and home[subject][0] != split):
            msg = f"{source.name} has no {subject} in split {split!r}, which suite {name!r} asks for"
            raise RequestError(msg)
    cases = tuple(home[subject][1] for subject in wanted)
    # Left out one at a time, those of other splits teach each other; the other persons of the test split teach nobody.
    teachers = {case.subject: case for case in (*source.training, *(() if name in _SPLITS else cases))}
    return PairSuite(name, split, cases, tuple(case for case in teachers.values() if case.aligned))


def datalist_suite(path: Path, split: str = "test", *, leave_one_out: bool = False) -> PairSuite:
    """The cases of one split of a datalist; baselines learn from its training cases, as far as their files are there.

    Args:
        leave_one_out: models of folds are given, so the cases of all splits may teach, apart from the one scored.
    """
    cases = read_datalist(path, [split]).cases(split)
    everyone = read_datalist(path, strict=False)
    sections = SECTIONS if leave_one_out else ("train",)
    there = tuple(
        case
        for section in sections
        for case in everyone.cases(section)
        if all(file.is_file() for file in case.files.values())
    )
    return PairSuite(everyone.name, split, cases, there)


def _slice_suite(name: str, folder: Path) -> PairSuite:
    """The coronal slice pairs: single slices, which the project's datalist leaves out."""
    volumes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["volumes"]
    files: dict[tuple[str, str], dict[str, Path]] = {}
    for volume in volumes:
        if volume["set"] == "pairs2d" and volume["modality"] in _MODALITIES:
            person = files.setdefault((volume["split"], volume["subject"]), {})
            person[_MODALITIES[volume["modality"]]] = folder / volume["path"]
    cases = {
        split: tuple(
            Case(subject, contrasts, skull_stripped=False, aligned=True)
            for (where, subject), contrasts in files.items()
            if where == split
        )
        for split in ("train", "test")
    }
    absent = sorted(set(PAIR_SUITES[name]) - {case.subject for case in cases["test"]})
    if absent:
        msg = f"the test data has no slices of {', '.join(absent)} in split 'test', which suite {name!r} asks for"
        raise RequestError(msg)
    scored = tuple(case for case in cases["test"] if case.subject in PAIR_SUITES[name])
    return PairSuite(name, "test", scored, cases["train"], _CORONAL)
