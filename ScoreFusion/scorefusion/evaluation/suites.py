"""What is scored: single volumes or people with several contrasts, from a datalist or from the project's test data."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from scorefusion.datasets.case import Case
from scorefusion.datasets.datalist import SECTIONS, Datalist, data_folder, project_datalist, read_datalist
from scorefusion.documents import read_json
from scorefusion.errors import RequestError, VolumeError
from scorefusion.evaluation.rows import title_of
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.volume import Volume

#: Suites over the test data: subject and contrast. The split is the manifest's: one person, one split.
SUITES: dict[str, tuple[tuple[str, str], ...]] = {
    "test": (("mass_W03", "t1"), ("pycortex_S1", "t1"), ("brats_MET00110", "flair"), ("colin27", "t1")),
    "val": (("mass_W05", "t1"), ("mass_W08", "t1"), ("sag_anon", "t1"), ("openms_19", "flair")),
}

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
class SuiteCase:
    """One contrast of a case, which serves as the truth."""

    case: Case
    key: str  # of `case.contrasts`

    def __post_init__(self) -> None:
        if self.key not in self.case.contrasts:
            has = ", ".join(self.case.contrasts) or "none"
            msg = f"case {self.case.case_id} has no contrast {self.key!r}; it has {has}"
            raise RequestError(msg)

    @property
    def subject(self) -> str:
        """The person, with the visit where there are several: two visits are two rows."""
        return self.case.case_id

    @property
    def path(self) -> Path:
        """The sharp volume."""
        return self.case.contrasts[self.key]

    @property
    def contrast(self) -> str | None:
        """None where nobody said which it is."""
        return None if self.key == "image" else self.key

    @property
    def title(self) -> str:
        """For people."""
        return title_of(self.subject, self.contrast)


@dataclass(frozen=True)
class Suite:
    """Truths and where they came from."""

    name: str
    split: str
    cases: tuple[SuiteCase, ...] = field(repr=False)

    @property
    def data_hash(self) -> str:
        """SHA-256 over the contents of all volumes and brain masks, in order; 12 digits."""
        return hash_of(path for case in self.cases for path in (case.path, case.case.masks.get("brain")))


def named_suite(name: str, folder: Path | None = None) -> Suite:
    """One of `SUITES`, found through the data's manifest."""
    if name not in SUITES:
        msg = f"there is no suite {name!r}; choose one of {', '.join(SUITES)}, or give a datalist file"
        raise RequestError(msg)
    cases = _of_split(name, project_datalist(_test_data(name, folder)), [subject for subject, _ in SUITES[name]], name)
    return Suite(name, name, tuple(SuiteCase(c, key) for c, (_, key) in zip(cases, SUITES[name], strict=True)))


def suite_of(datalist: Datalist, split: str = "test", contrasts: Collection[str] | None = None) -> Suite:
    """Each contrast of each case of a split as a truth of its own; `contrasts` = only these."""
    pairs = [(case, key) for case in datalist.cases(split) for key in case.contrasts]
    cases = tuple(SuiteCase(case, key) for case, key in pairs if contrasts is None or key in contrasts)
    if not cases:
        wanted = f" with {' or '.join(contrasts)}" if contrasts is not None else ""
        msg = f"datalist {datalist.name} has no volume{wanted} under '{SECTIONS[split]}'; choose another split"
        raise RequestError(msg)
    return Suite(datalist.name, split, cases)


def find_suite(datalist: Path | None, name: str | None, split: str, subjects: Sequence[str]) -> Suite:
    """What `evaluate` and `downstream` score: a datalist or a named suite, all of it or some subjects."""
    if (datalist is None) == (name is None):
        msg = "give either a datalist file or --suite test (or val), not both and not neither"
        raise RequestError(msg)
    suite = named_suite(name or "") if datalist is None else suite_of(read_datalist(datalist, [split]), split)
    _check_known(suite.name, subjects, [case.subject for case in suite.cases])
    return replace(suite, cases=tuple(case for case in suite.cases if not subjects or case.subject in subjects))


def read_one(path: Path, frame: int | None = None, like: Volume | None = None) -> Volume:
    """A volume of one channel, its axes in RAS+ order.

    Raises:
        VolumeError: it has several channels, or does not lie on the grid of `like`.
    """
    volume, _ = read_volume(path, frame=frame).canonical()
    if volume.data.shape[0] != 1:
        msg = f"{volume.name} has {volume.data.shape[0]} channels; give one volume a case (key 'frame' for 4D files)"
        raise VolumeError(msg)
    if like is not None and not volume.grid.is_close(like.grid, tolerance_mm=0.01):
        msg = (
            f"the mask {path} is not on the grid of {like.name} ({volume.spatial_shape} against {like.spatial_shape} "
            "voxels, or another place); resample it onto that grid, or take it off the case"
        )
        raise VolumeError(msg)
    return volume


def read_mask(case: Case, like: Volume) -> NDArray[Any] | None:
    """The brain mask of a case, `(I, J, K)` on the grid of `like` (axes in RAS+ order); None without one."""
    return read_one(case.masks["brain"], like=like).data[0] if "brain" in case.masks else None


# -- pairs -------------------------------------------------------------------------------------------------------------


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
        known = [name for case in self.cases for name in dict.fromkeys((case.case_id, case.subject))]
        _check_known(self.name, subjects, known)
        kept = (case for case in self.cases if not subjects or {case.case_id, case.subject} & set(subjects))
        return replace(self, cases=tuple(kept))


def find_pair_suite(
    datalist: Path | None,
    name: str | None,
    split: str,
    subjects: Sequence[str],
    *,
    leave_one_out: bool = False,
    folder: Path | None = None,
) -> PairSuite:
    """A datalist, a named suite, or a named suite's persons as a datalist has them; all of it or some persons.

    Args:
        leave_one_out: models of folds are given, so the cases of all splits of a datalist may teach, apart from the
            one scored; else its training cases do.
        folder: of the test data; where `SCOREFUSION_TEST_DATA` says if left out.
    """
    if name is not None:
        return _named_pairs(name, datalist, folder).only(subjects)
    if datalist is None:
        msg = f"give a datalist file or --suite {', '.join(PAIR_SUITES)}"
        raise RequestError(msg)
    everyone = read_datalist(datalist, strict=False)
    teachers = [case for section in (SECTIONS if leave_one_out else ("train",)) for case in everyone.cases(section)]
    there = tuple(case for case in teachers if all(file.is_file() for file in case.files.values()))
    return PairSuite(everyone.name, split, read_datalist(datalist, [split]).cases(split), there).only(subjects)


def _named_pairs(name: str, datalist: Path | None, folder: Path | None) -> PairSuite:
    if name not in PAIR_SUITES:
        msg = f"suite {name!r} is none for translation models; choose one of {', '.join(PAIR_SUITES)}, or a datalist"
        raise RequestError(msg)
    if datalist is not None and name == "jif-test":
        msg = f"suite {name!r} consists of the test data's single slices; leave the datalist out"
        raise RequestError(msg)
    folder = _test_data(name, folder)
    if name == "jif-test":
        return _slice_suite(name, folder)
    source = project_datalist(folder) if datalist is None else read_datalist(datalist)
    cases = _of_split(name, source, PAIR_SUITES[name], _SPLITS.get(name))
    # Left out one at a time, those of other splits teach each other; the other persons of the test split teach nobody.
    teachers = {case.subject: case for case in (*source.training, *(() if name in _SPLITS else cases))}
    aligned = tuple(case for case in teachers.values() if case.aligned)
    return PairSuite(name, _SPLITS.get(name, "leave one out"), cases, aligned)


def _slice_suite(name: str, folder: Path) -> PairSuite:
    """The coronal slice pairs: single slices, which the project's datalist leaves out."""
    cases: dict[str, dict[str, Case]] = {"train": {}, "test": {}}
    for volume in read_json(folder / "manifest.json")["volumes"]:
        if volume["set"] == "pairs2d" and volume["modality"] in _MODALITIES:
            person = cases.setdefault(volume["split"], {})
            before = person[volume["subject"]].contrasts if volume["subject"] in person else {}
            files = {**before, _MODALITIES[volume["modality"]]: folder / volume["path"]}
            person[volume["subject"]] = Case(volume["subject"], files, skull_stripped=False, aligned=True)
    scored = tuple(case for subject, case in cases["test"].items() if subject in PAIR_SUITES[name])
    absent = sorted(set(PAIR_SUITES[name]) - {case.subject for case in scored})
    if absent:
        msg = f"the test data has no slices of {', '.join(absent)} in split 'test', which suite {name!r} asks for"
        raise RequestError(msg)
    return PairSuite(name, "test", scored, tuple(cases["train"].values()), _CORONAL)


def _of_split(suite: str, source: Datalist, subjects: Sequence[str], split: str | None) -> tuple[Case, ...]:
    """These subjects, who must be in this split (None = in any)."""
    sections = SECTIONS if split is None else (split,)
    home = {case.subject: case for section in sections for case in source.cases(section)}
    if absent := [subject for subject in subjects if subject not in home]:
        msg = f"{source.name} has no {absent[0]} in split {split or 'any'!r}, which suite {suite!r} asks for"
        raise RequestError(msg)
    return tuple(home[subject] for subject in subjects)


def _test_data(name: str, folder: Path | None) -> Path:
    folder = folder or data_folder()
    if folder is None or not (folder / "manifest.json").is_file():
        msg = f"suite {name!r} needs the project's test data, and its manifest.json was not found; set "
        msg += "SCOREFUSION_TEST_DATA to the folder, or give a datalist file of your own"
        raise RequestError(msg)
    return folder


def _check_known(where: str, subjects: Sequence[str], known: Sequence[str]) -> None:
    if unknown := sorted(set(subjects) - set(known)):
        msg = f"{where} has no subject {', '.join(unknown)}; it has {', '.join(known)}"
        raise RequestError(msg)


def hash_of(paths: Iterable[Path | None]) -> str:
    """SHA-256 over the contents of files, in order; 12 digits."""
    digest = hashlib.sha256()
    for path in paths:
        if path is not None:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
