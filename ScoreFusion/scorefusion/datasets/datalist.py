"""A datalist: the cases of a study in three splits, as JSON in MONAI's manner.

An object whose keys `training`, `validation` and `test` hold lists of cases. A case is written in one of three forms:

    {"subject": "S01", "contrasts": {"t1": "S01_T1w.nii.gz", "flair": "S01_FLAIR.nii.gz"}, "masks": {"brain": "..."}}
    {"subject": "S01", "conditions": {"t1": "S01_T1w.nii.gz"}, "target": "S01_FLAIR.nii.gz", "contrast": "flair"}
    {"subject": "S01", "target": "S01_T1w.nii.gz", "contrast": "t1", "mask": "S01_brain.nii.gz"}

Relative paths count from the datalist's folder. `target` may be called `image`; `mask` is the brain's. Further keys,
all optional: `session`, `masks`, `skull_stripped`, `sharp_axes`, `weight`, `apart`, `frame`, `aligned` (see `Case`)
and `note`, which is for people.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scorefusion.datasets.case import Case, nearest
from scorefusion.documents import read_json
from scorefusion.errors import DocumentError, RequestError

#: Split: key in the file.
SECTIONS = {"train": "training", "val": "validation", "test": "test"}
PROJECT = "project"  # stands for the project's own test data
PROJECT_ALL = "project-all"  # and what was added to it later, in `more` beside it

_FACTS = ("session", "skull_stripped", "sharp_axes", "weight", "apart", "frame", "aligned")
_FORMS = ("contrasts", "conditions", "target", "image", "contrast", "masks", "mask")
_KNOWN_KEYS = ("subject", *_FORMS, *_FACTS, "note")
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "session": (str, "a text"),
    "skull_stripped": (bool, "true or false"),
    "sharp_axes": ((str, dict), "letters of RAS, or an object of contrast: letters"),
    "weight": ((int, float), "a number"),
    "apart": (str, "a text"),
    "frame": (int, "a whole number"),
    "aligned": (bool, "true or false"),
}


@dataclass(frozen=True)
class Datalist:
    """The cases of a study. Each person belongs into one split; `read_datalist` refuses others."""

    name: str
    training: tuple[Case, ...] = field(default=(), repr=False)
    validation: tuple[Case, ...] = field(default=(), repr=False)
    test: tuple[Case, ...] = field(default=(), repr=False)

    def cases(self, split: str) -> tuple[Case, ...]:
        """The cases of split train, val or test."""
        check_split(split)
        found: tuple[Case, ...] = getattr(self, SECTIONS[split])
        return found


def check_split(split: str) -> None:
    """Refuse a word that is no split."""
    if split not in SECTIONS:
        msg = f"unknown split {split!r}{nearest(split, SECTIONS)}; choose one of {', '.join(SECTIONS)}"
        raise RequestError(msg)


def read_datalist(path: Path, splits: Collection[str] = tuple(SECTIONS), *, strict: bool = True) -> Datalist:
    """Read a datalist file.

    Args:
        path: JSON, see the module's description.
        splits: which of train, val, test to read; the others stay empty, and their files need not be there.
        strict: refuse missing files and a person in two splits. False leaves both to `inspect`, which lists them all.

    Raises:
        RequestError: the file, or a case in it, cannot be used; the message names both.
    """
    for split in splits:
        check_split(split)
    path = Path(path)
    content = _load(path)
    sections: dict[str, list[Any]] = {}
    for section in SECTIONS.values():
        entries = content.get(section, [])
        if not isinstance(entries, list):
            msg = f"datalist {path}: '{section}' must be a list of cases, got {type(entries).__name__}"
            raise RequestError(msg)
        sections[section] = entries
    if not any(sections[SECTIONS[split]] for split in splits):
        wanted = " or ".join(f"'{SECTIONS[split]}'" for split in splits)
        msg = f"datalist {path} has no cases under {wanted}; add a list there, or choose another split"
        raise RequestError(msg)
    if strict:
        _check_people(path, sections)
    found = {
        SECTIONS[split]: tuple(
            _read_case(f"datalist {path}, {SECTIONS[split]} case {number}", path.parent, entry, strict)
            for number, entry in enumerate(sections[SECTIONS[split]])
        )
        for split in splits
    }
    return Datalist(str(content.get("name", path.stem)), **found)


def write_datalist(datalist: Datalist, path: Path) -> None:
    """Write a datalist; the file appears when it is complete.

    Files below the datalist's folder are named from there, so that both can be moved together; others by their full
    path.
    """
    path = Path(path).absolute()
    content: dict[str, Any] = {"name": datalist.name}
    for split, section in SECTIONS.items():
        content[section] = [_entry(case, path.parent) for case in datalist.cases(split)]
    if not path.parent.is_dir():
        msg = f"datalist {path} cannot be written: the folder {path.parent} does not exist; create it first"
        raise RequestError(msg)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        msg = f"datalist {path} cannot be written ({error.strerror}); choose another file"
        raise RequestError(msg) from error


def _load(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, foreign=True)
    except DocumentError as error:
        sections = ", ".join(f"'{section}'" for section in SECTIONS.values())
        msg = f"datalist {error}; is it a volume? Give a JSON file with lists under {sections}"
        raise RequestError(msg) from error
    if not isinstance(content, dict):
        msg = f"datalist {path} must be an object with lists under {', '.join(SECTIONS.values())}"
        raise RequestError(msg)
    known = (*SECTIONS.values(), "name")
    for key in content:
        # Other tools add keys of their own; one that is nearly a section is a slip that would lose cases silently.
        if key not in known and nearest(key, known) and isinstance(content[key], list):
            msg = f"datalist {path}: unknown key {key!r}{nearest(key, known)}; cases go under {', '.join(known[:3])}"
            raise RequestError(msg)
    return content


def _check_people(path: Path, sections: dict[str, list[Any]]) -> None:
    """No person in two splits: a score on someone the model was trained on says nothing."""
    seen: dict[str, str] = {}
    for section, entries in sections.items():
        for entry in entries:
            subject = _subject(entry, path.parent) if isinstance(entry, dict) else None
            if subject is not None and seen.setdefault(subject, section) != section:
                msg = (
                    f"datalist {path}: subject {subject} is in '{seen[subject]}' and in '{section}'; "
                    "keep each person in one split"
                )
                raise RequestError(msg)


def _subject(entry: dict[str, Any], folder: Path) -> str | None:
    """The person, or where nobody is named the target's file without its suffix, with its folder to tell namesakes."""
    if entry.get("subject") is not None:
        return str(entry["subject"])
    target = entry.get("target", entry.get("image"))
    if not isinstance(target, str):
        return None
    file = folder / target
    parent = file.relative_to(folder).parent if file.is_relative_to(folder) else file.parent
    return "_".join(part for part in (*parent.parts, file.name.partition(".")[0]) if part != parent.anchor)


def _read_case(where: str, folder: Path, entry: Any, must_exist: bool) -> Case:
    if not isinstance(entry, dict):
        msg = f"{where}: expected an object with 'contrasts' or 'target', got {type(entry).__name__}"
        raise RequestError(msg)
    unknown = sorted(set(entry) - set(_KNOWN_KEYS))
    if unknown:
        hint = nearest(unknown[0], _KNOWN_KEYS)
        msg = f"{where}: unknown keys {', '.join(unknown)}{hint}; known are {', '.join(sorted(_KNOWN_KEYS))}"
        raise RequestError(msg)
    facts = {key: entry[key] for key in _FACTS if entry.get(key) is not None}
    for key, value in facts.items():
        kind, words = _KINDS[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            msg = f"{where}: '{key}' is {value!r}; expected {words}"
            raise RequestError(msg)
    contrasts, masks = _contrasts(where, folder, entry), _paths(where, folder, entry, "masks")
    if entry.get("mask") is not None:
        masks["brain"] = _path(where, folder, "mask", entry["mask"])
    subject = _subject(entry, folder)
    if subject is None:
        msg = f"{where}: 'subject' is missing; name the person, the same for all visits"
        raise RequestError(msg)
    if must_exist:
        for key, file in (*contrasts.items(), *masks.items()):
            if not file.is_file():
                msg = f"{where}: {key} {file} does not exist"
                raise RequestError(msg)
    try:
        return Case(subject, contrasts, masks=masks, **facts)
    except RequestError as error:
        msg = f"{where}: {error}"
        raise RequestError(msg) from error


def _contrasts(where: str, folder: Path, entry: dict[str, Any]) -> dict[str, Path]:
    """Files by contrast, from any of the three forms."""
    if "contrasts" in entry:
        excess = [key for key in ("conditions", "target", "image", "contrast") if key in entry]
        if excess:
            msg = f"{where}: 'contrasts' already names all volumes, so '{excess[0]}' has no place beside it"
            raise RequestError(msg)
        return _paths(where, folder, entry, "contrasts")
    if "target" in entry and "image" in entry:
        msg = f"{where}: 'target' and 'image' mean the same; give one of them"
        raise RequestError(msg)
    target = entry.get("target", entry.get("image"))
    if target is None and "conditions" not in entry and "masks" in entry:
        return {}
    if not isinstance(target, str):
        msg = f"{where}: 'target' must name the sharp volume's file"
        raise RequestError(msg)
    contrast = entry.get("contrast") or "image"
    found = _paths(where, folder, entry, "conditions")
    if contrast in found:
        msg = f"{where}: {contrast!r} is a condition and the target's contrast, too; give the target's in 'contrast'"
        raise RequestError(msg)
    return {**found, contrast: _path(where, folder, "target", target)}


def _paths(where: str, folder: Path, entry: dict[str, Any], key: str) -> dict[str, Path]:
    files = entry.get(key) or {}
    if not isinstance(files, dict):
        msg = f"{where}: '{key}' must be an object of name: file, got {type(files).__name__}"
        raise RequestError(msg)
    return {name: _path(where, folder, f"{key} {name}", value) for name, value in files.items()}


def _path(where: str, folder: Path, key: str, value: Any) -> Path:
    if not isinstance(value, str) or not value:
        msg = f"{where}: '{key}' must name a file, got {value!r}"
        raise RequestError(msg)
    return folder / value


def _entry(case: Case, folder: Path) -> dict[str, Any]:
    """A case as it is written: the first form, without what is left at its default."""

    def name(file: Path) -> str:
        full = file.absolute()  # not resolved: a link stays the name its owner chose
        return (full.relative_to(folder) if full.is_relative_to(folder) else full).as_posix()

    entry: dict[str, Any] = {"subject": case.subject}
    for key, files in (("contrasts", case.contrasts), ("masks", case.masks)):
        if files:
            entry[key] = {kind: name(file) for kind, file in files.items()}
    for key in _FACTS:
        value = getattr(case, key)
        if value is not None and (key, value) != ("weight", 1.0):
            entry[key] = value
    return entry


# -- the project's own test data ---------------------------------------------------------------------------------------

_MODALITIES = {"T1w": "t1", "T1ce": "t1ce", "T2w": "t2", "FLAIR": "flair", "PD": "pd", "PDw": "pd"}
_MASK_KINDS = {"lesion": "lesion", "tumour_mask": "tumour", "tissue": "tissue", "labels": "labels"}

#: Subjects whose contrasts were made from thick axial slices (measured, see `spectrum`): contrast to sharp axes.
_THICK_SLICES: dict[str, dict[str, str]] = {
    **dict.fromkeys(("openms_07", "openms_19"), {"t1": "RA", "t1ce": "RA", "t2": "RA", "flair": "RAS"}),
    **dict.fromkeys(("tcga_DU7294", "tcga_FG6692"), {"t1": "RA", "t2": "RA", "flair": "RA"}),
}


def data_folder() -> Path | None:
    """The project's test data: `SCOREFUSION_TEST_DATA`, or `../shared/data` beside the checkout; None if it is not
    there."""
    named = os.environ.get("SCOREFUSION_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[4] / "shared" / "data"
    return folder if (folder / "manifest.json").is_file() else None


def find_datalist(
    name_or_path: str | Path, splits: Collection[str] = tuple(SECTIONS), *, strict: bool = True
) -> Datalist:
    """The project's test data by the name `PROJECT`, or a datalist file; arguments as of `read_datalist`."""
    if str(name_or_path) in (PROJECT, PROJECT_ALL) and not Path(name_or_path).exists():
        first = project_datalist()
        return first if str(name_or_path) == PROJECT else _both(first, project_datalist(_more_folder()))
    return read_datalist(Path(name_or_path), splits, strict=strict)


def _more_folder() -> Path:
    folder = data_folder()
    return Path("more") if folder is None else folder.parent / "more"


def _both(first: Datalist, second: Datalist) -> Datalist:
    sections = {key: (*getattr(first, key), *getattr(second, key)) for key in SECTIONS.values()}
    return Datalist(f"{first.name} and more", **sections)


def project_datalist(folder: Path | None = None) -> Datalist:
    """The project's test data, one case a person, in the splits of its manifest.json.

    Single slices and CT are left out. Cases whose contrasts are known to be off each other have `aligned=False`.
    """
    folder = folder or data_folder()
    if folder is None or not (folder / "manifest.json").is_file():
        msg = (
            "the project's test data was not found (no manifest.json); set SCOREFUSION_TEST_DATA to its folder, "
            "or give a datalist file of your own"
        )
        raise RequestError(msg)
    volumes = read_json(folder / "manifest.json")["volumes"]
    people: dict[str, list[dict[str, Any]]] = {}
    for volume in volumes:
        if len(volume["shape"]) == 3 and volume["modality"] in {**_MODALITIES, **_MASK_KINDS}:
            people.setdefault(volume["subject"], []).append(volume)
    sections: dict[str, list[Case]] = {section: [] for section in SECTIONS.values()}
    for subject, files in people.items():
        splits = {volume["split"] for volume in files}
        if len(splits) != 1:
            msg = f"{folder / 'manifest.json'}: subject {subject} is in splits {', '.join(sorted(splits))}"
            raise RequestError(msg)
        sections[SECTIONS[splits.pop()]].append(_manifest_case(folder, subject, files))
    return Datalist("project test data", **{section: tuple(cases) for section, cases in sections.items()})


def _manifest_case(folder: Path, subject: str, files: list[dict[str, Any]]) -> Case:
    images = [volume for volume in files if volume["modality"] in _MODALITIES]
    averaged = any("averaged" in volume["kind"] for volume in images)
    if any(volume["set"] in ("multi_misaligned", "multi_raw") for volume in images):
        aligned: bool | None = False
    else:
        aligned = True if len(images) > 1 else None
    return Case(
        subject,
        {_MODALITIES[volume["modality"]]: folder / volume["path"] for volume in images},
        masks={
            _MASK_KINDS[volume["modality"]]: folder / volume["path"]
            for volume in files
            if volume["modality"] in _MASK_KINDS
        },
        skull_stripped=images[0]["skull_stripped"] if images else None,
        sharp_axes=_THICK_SLICES.get(subject),
        apart="an average of 27 scans of one person, smoother than any single scan" if averaged else None,
        aligned=aligned,
    )
