"""Cases out of folders as they are handed around: BIDS, BraTS, IXI.

Names alone are read, no volume is opened. What is not taken is told: `Found.notes` are sentences for people.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from scorefusion.datasets.case import Case, nearest
from scorefusion.errors import RequestError

_NIFTI = r"\.nii(?:\.gz)?$"


@dataclass(frozen=True)
class Found:
    """What a folder held.

    Attributes:
        layout: bids, brats or ixi.
        cases: sorted by subject and session.
        notes: what was left out and why, for people.
    """

    layout: str
    cases: tuple[Case, ...] = field(repr=False)
    notes: tuple[str, ...] = field(repr=False)


def find_cases(folder: Path, layout: str = "auto") -> Found:
    """All cases below a folder.

    Args:
        folder: its top.
        layout: bids, brats, ixi, or auto, which looks at the names.

    Raises:
        RequestError: no such folder, no such layout, or nothing in it that follows one.
    """
    folder = Path(folder)
    if layout != "auto" and layout not in LAYOUTS:
        msg = f"unknown layout {layout!r}{nearest(layout, LAYOUTS)}; choose one of auto, {', '.join(LAYOUTS)}"
        raise RequestError(msg)
    _check_folder(folder)
    if layout == "auto":
        likely = [name for name, follows in _SIGNS.items() if follows(folder)]
        if len(likely) > 1:
            msg = f"{folder} follows several layouts ({', '.join(likely)}); say which: --layout {likely[0]}"
            raise RequestError(msg)
        if not likely:
            raise RequestError(_nothing(folder, "a known layout", [reader.example for reader in LAYOUTS.values()]))
        layout = likely[0]
    return LAYOUTS[layout].read(folder)


# -- BIDS --------------------------------------------------------------------------------------------------------------

_BIDS_SUFFIXES = {"T1w": "t1", "T2w": "t2", "FLAIR": "flair", "PDw": "pd", "PD": "pd"}


def read_bids(folder: Path) -> Found:
    """A BIDS dataset: `sub-*/[ses-*/]anat/sub-*_T1w.nii.gz`, T2w, FLAIR, PDw; T1w with `ce-*` is t1ce.

    `derivatives` and `sourcedata` are left alone. Of several runs or acquisitions of a contrast the first is taken.
    """
    cases: list[Case] = []
    notes, other = [], _Tally()
    for person in _folders(folder, r"sub-[a-zA-Z0-9]+"):
        visits = [(path, path.name[len("ses-") :]) for path in _folders(person, r"ses-[a-zA-Z0-9]+")]
        before = len(cases)
        for visit, session in [(person, None), *visits]:
            candidates: dict[str, list[Path]] = defaultdict(list)
            for path in _files(visit / "anat"):
                contrast, reason = _bids_contrast(path)
                if contrast is not None:
                    candidates[contrast].append(path)
                elif reason is not None:
                    notes.append(f"{_below(path, folder)} was left out: {reason}")
                else:
                    other.add(path, re.sub(_NIFTI, "", path.name).rpartition("_")[2])
            if candidates:
                chosen, left_out = _first_of_each(candidates, folder)
                cases.append(Case(person.name, chosen, session))
                notes.extend(left_out)
        if len(cases) == before:
            notes.append(f"{person.name} has no T1w, T2w, FLAIR or PDw under anat, so it is no case")
    return _found("bids", folder, cases, [*notes, *other.notes("no contrast that is used")])


def _bids_contrast(path: Path) -> tuple[str | None, str | None]:
    """The contrast of an anatomical file, or why a file of a known suffix is not taken."""
    *entities, suffix = re.sub(_NIFTI, "", path.name).split("_")
    if suffix not in _BIDS_SUFFIXES:
        return None, None
    keys = dict(entity.partition("-")[::2] for entity in entities)
    contrast = _BIDS_SUFFIXES[suffix]
    if keys.get("part", "mag") != "mag":
        return None, f"part-{keys['part']} is not the magnitude"
    if "ce" in keys:
        if contrast != "t1":
            return None, f"contrast agent with {suffix} has no word here"
        return "t1ce", None
    return contrast, None


def _first_of_each(candidates: dict[str, list[Path]], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The plainest file of each contrast (fewest entities, lowest run), and notes about the rest."""

    def rank(path: Path) -> tuple[int, int, str]:
        run = re.search(r"_run-(\d+)", path.name)
        return path.name.count("_") - bool(run), int(run[1]) if run else 0, path.name

    chosen, notes = {}, []
    for contrast, paths in candidates.items():
        first, *rest = sorted(paths, key=rank)
        chosen[contrast] = first
        notes += [f"{_below(path, folder)} was left out: {first.name} is taken as {contrast}" for path in rest]
    return chosen, notes


# -- BraTS -------------------------------------------------------------------------------------------------------------

_BRATS_2021 = r"BraTS2021_\d{5}"
_BRATS_2023 = r"BraTS-[A-Za-z]+-\d{4,5}-\d{3}"
_BRATS_ENDINGS = {
    "_t1": "t1", "_t1ce": "t1ce", "_t2": "t2", "_flair": "flair", "_seg": "tumour",
    "-t1n": "t1", "-t1c": "t1ce", "-t2w": "t2", "-t2f": "flair", "-seg": "tumour",
}  # fmt: skip


def read_brats(folder: Path) -> Found:
    """A folder of BraTS cases: 2021 (`BraTS2021_00000/..._flair.nii.gz`) or 2023 (`BraTS-GLI-00000-000/...-t2f`).

    From 2023 on the last number counts the visits of one person. The volumes are skull-stripped; that they lie on each
    other is the challenge's aim and not always so, hence `aligned` stays unknown.
    """
    cases, notes = [], []
    for home in _folders_here_or_below(folder, f"{_BRATS_2021}|{_BRATS_2023}"):
        files: dict[str, Path] = {}
        for path in _files(home):
            ending = re.sub(_NIFTI, "", path.name)[len(home.name) :]
            if not path.name.startswith(home.name) or ending not in _BRATS_ENDINGS:
                notes.append(f"{_below(path, folder)} was left out: its name is none of a BraTS case")
            else:
                files[_BRATS_ENDINGS[ending]] = path
        masks = {"tumour": files.pop("tumour")} if "tumour" in files else {}
        if not files:
            notes.append(f"{home.name} holds no contrast, so it is no case")
            continue
        missing = [contrast for contrast in ("t1", "t1ce", "t2", "flair") if contrast not in files]
        if missing:
            notes.append(f"{home.name} has no {', '.join(missing)}")
        subject, session = home.name, None
        if re.fullmatch(_BRATS_2023, home.name):
            subject, _, session = home.name.rpartition("-")
        cases.append(Case(subject, files, session, masks=masks, skull_stripped=True))
    return _found("brats", folder, cases, notes)


# -- IXI ---------------------------------------------------------------------------------------------------------------

_IXI = re.compile(r"(IXI\d{3})-[A-Za-z]+-\d{4}-([\w-]+)" + _NIFTI)
_IXI_KINDS = {"T1": "t1", "T2": "t2", "PD": "pd"}


def read_ixi(folder: Path) -> Found:
    """IXI files (`IXI002-Guys-0828-T1.nii.gz`, T2, PD), in one folder or in `IXI-T1`, `IXI-T2`, `IXI-PD`.

    Whole heads. T1 lies on another grid than T2 and PD: register before pairing.
    """
    notes, other = [], _Tally()
    people: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in _ixi_files(folder):
        match = _IXI.match(path.name)
        assert match is not None
        subject, kind = match[1], match[2]
        if kind not in _IXI_KINDS:
            other.add(path, kind.partition("-")[0])  # DTI-00, DTI-01, ...
        elif _IXI_KINDS[kind] in people[subject]:
            taken = people[subject][_IXI_KINDS[kind]].name
            notes.append(f"{_below(path, folder)} was left out: {taken} is taken as {_IXI_KINDS[kind]} of {subject}")
        else:
            people[subject][_IXI_KINDS[kind]] = path
    cases = [Case(subject, files, skull_stripped=False) for subject, files in people.items() if files]
    for case in cases:
        missing = [contrast for contrast in ("t1", "t2", "pd") if contrast not in case.contrasts]
        if missing:
            notes.append(f"{case.subject} has no {', '.join(missing)}")
    return _found("ixi", folder, cases, [*notes, *other.notes("no contrast that is used")])


def _ixi_files(folder: Path) -> Iterator[Path]:
    for home in (folder, *_folders(folder, r".*")):
        yield from (path for path in _files(home) if _IXI.match(path.name))


# -- what they share ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    read: Callable[[Path], Found]
    example: str


LAYOUTS = {
    "bids": _Layout(read_bids, "sub-01/anat/sub-01_T1w.nii.gz"),
    "brats": _Layout(read_brats, "BraTS2021_00000/BraTS2021_00000_flair.nii.gz"),
    "ixi": _Layout(read_ixi, "IXI002-Guys-0828-T1.nii.gz"),
}

#: Whether the names in a folder look like a layout; stops at the first that does.
_SIGNS: dict[str, Callable[[Path], bool]] = {
    "bids": lambda folder: any(any(folder.glob(pattern)) for pattern in ("sub-*/anat", "sub-*/ses-*/anat")),
    "brats": lambda folder: any(_folders_here_or_below(folder, f"{_BRATS_2021}|{_BRATS_2023}")),
    "ixi": lambda folder: any(True for _ in _ixi_files(folder)),
}


class _Tally:
    """Counts files of one kind, for one note about all of them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._example: dict[str, Path] = {}

    def add(self, path: Path, kind: str) -> None:
        self._counts[kind] += 1
        self._example.setdefault(kind, path)

    def notes(self, why: str) -> list[str]:
        return [
            f"{count} {kind} {'file was' if count == 1 else 'files were'} left out: {why} "
            f"(such as {self._example[kind].name})"
            for kind, count in sorted(self._counts.items())
        ]


def _found(layout: str, folder: Path, cases: list[Case], notes: Iterable[str]) -> Found:
    _check_folder(folder)
    if not cases:
        raise RequestError(_nothing(folder, f"layout {layout!r}", [LAYOUTS[layout].example]))
    ordered = sorted(cases, key=lambda case: (case.subject, case.session or ""))
    return Found(layout, tuple(replace(case, contrasts=_ordered(case)) for case in ordered), tuple(notes))


def _ordered(case: Case) -> dict[str, Path]:
    """Contrasts in one order for all cases, whatever the order of files."""
    return {key: case.contrasts[key] for key in ("t1", "t1ce", "t2", "flair", "pd") if key in case.contrasts}


def _nothing(folder: Path, what: str, examples: list[str]) -> str:
    return (
        f"nothing in {folder} follows {what}; expected names such as {' or '.join(examples)}. Give the folder that "
        "holds them, or write the datalist yourself (docs/data.md shows how)"
    )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        msg = f"{folder} is no folder; give the top folder of the scans"
        raise RequestError(msg)


def _files(folder: Path) -> list[Path]:
    """NIfTI files in a folder by name; those that begin with a dot are leftovers of file systems."""
    if not folder.is_dir():
        return []
    names = sorted(folder.iterdir())
    return [path for path in names if re.search(_NIFTI, path.name) and path.name[0] != "." and path.is_file()]


def _folders(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if re.fullmatch(pattern, path.name) and path.is_dir()]


def _folders_here_or_below(folder: Path, pattern: str) -> list[Path]:
    """Folders of such a name in `folder`, or one level further down, where archives unpack to."""
    here = _folders(folder, pattern)
    return here or [path for home in _folders(folder, r"[^.].*") for path in _folders(home, pattern)]


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
