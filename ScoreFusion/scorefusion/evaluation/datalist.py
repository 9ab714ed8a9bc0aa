"""What is scored: the cases of a datalist file, or of the named suites over the project's test data.

A datalist is JSON in MONAI's manner: an object whose keys `training`, `validation`, `test` hold lists of cases.

    {"name": "my study",
     "test": [{"subject": "S01", "target": "S01_T1w.nii.gz", "contrast": "t1", "mask": "S01_brain.nii.gz"}]}

`target` (or `image`) is the sharp volume; paths count from the file's folder. Optional: `contrast`, `mask` (brain,
same grid), `skull_stripped` (true or false), `apart` (a reason: reported, but kept out of the mean), `frame` (of a 4D
file).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scorefusion.errors import RequestError

SECTIONS = {"train": "training", "val": "validation", "test": "test"}
_CASE_KEYS = {"subject", "target", "image", "contrast", "mask", "skull_stripped", "apart", "frame", "note"}

#: Suites over the test data: subject, modality, and for some why they stay out of the mean. The split is the
#: manifest's: one person, one split.
SUITES: dict[str, tuple[tuple[str, str, str | None], ...]] = {
    "test": (
        ("mass_W03", "T1w", None),
        ("pycortex_S1", "T1w", None),
        ("brats_MET00110", "FLAIR", None),
        ("colin27", "T1w", "an average of 27 scans of one person, smoother than any single scan"),
    ),
    "val": (
        ("mass_W05", "T1w", None),
        ("mass_W08", "T1w", None),
        ("sag_anon", "T1w", None),
        ("openms_19", "FLAIR", None),
    ),
}
_CONTRASTS = {"T1w": "t1", "T1ce": "t1ce", "T2w": "t2", "FLAIR": "flair", "PD": "pd"}


@dataclass(frozen=True)
class Case:
    """One volume of one person that serves as the truth."""

    subject: str
    path: Path
    contrast: str | None = None
    mask: Path | None = None
    skull_stripped: bool | None = None
    apart: str | None = None  # why it stays out of the mean
    frame: int | None = None

    @property
    def title(self) -> str:
        """For a table's row."""
        return f"{self.subject} {self.contrast.upper()}" if self.contrast else self.subject


@dataclass(frozen=True)
class Suite:
    """Cases with the name of their set and a hash of the files, for the caption."""

    name: str
    split: str
    cases: tuple[Case, ...] = field(repr=False)

    @property
    def data_hash(self) -> str:
        """SHA-256 over the contents of all volumes and masks, in order; 12 digits."""
        digest = hashlib.sha256()
        for case in self.cases:
            for path in (case.path, case.mask):
                if path is not None:
                    digest.update(path.read_bytes())
        return digest.hexdigest()[:12]


def data_folder() -> Path | None:
    """The project's test data: `SCOREFUSION_TEST_DATA`, or `../shared/data` beside the checkout; None if it is not
    there."""
    named = os.environ.get("SCOREFUSION_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[4] / "shared" / "data"
    return folder if (folder / "manifest.json").is_file() else None


def named_suite(name: str, folder: Path | None = None) -> Suite:
    """One of `SUITES`, found through the data's manifest."""
    if name not in SUITES:
        msg = f"there is no suite {name!r}; choose one of {', '.join(SUITES)}, or give a datalist file"
        raise RequestError(msg)
    folder = folder or data_folder()
    if folder is None or not (folder / "manifest.json").is_file():
        msg = (
            f"suite {name!r} needs the project's test data, and its manifest.json was not found; set "
            "SCOREFUSION_TEST_DATA to the folder, or give a datalist file of your own"
        )
        raise RequestError(msg)
    volumes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["volumes"]
    cases = []
    for subject, modality, apart in SUITES[name]:
        entry = next((v for v in volumes if v["subject"] == subject and v["modality"] == modality), None)
        if entry is None:
            msg = f"{folder / 'manifest.json'} has no {modality} of {subject}, which suite {name!r} asks for"
            raise RequestError(msg)
        if entry["split"] != name:
            msg = f"{subject} is in split {entry['split']!r} of the manifest, so it cannot be scored in suite {name!r}"
            raise RequestError(msg)
        path, contrast = folder / entry["path"], _CONTRASTS.get(modality)
        cases.append(Case(subject, path, contrast, skull_stripped=entry["skull_stripped"], apart=apart))
    return Suite(name, name, tuple(cases))


def read_datalist(path: Path, split: str = "test") -> Suite:
    """The cases of one split of a datalist file."""
    if split not in SECTIONS:
        msg = f"unknown split {split!r}; choose one of {', '.join(SECTIONS)}"
        raise RequestError(msg)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = (
            f"datalist {path} cannot be read ({error.strerror}); give a JSON file with a list under '{SECTIONS[split]}'"
        )
        raise RequestError(msg) from error
    except json.JSONDecodeError as error:
        msg = f"datalist {path} is not valid JSON (line {error.lineno}: {error.msg})"
        raise RequestError(msg) from error
    entries = content.get(SECTIONS[split]) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        msg = f"datalist {path} has no cases under '{SECTIONS[split]}'; add a list there, or choose another split"
        raise RequestError(msg)
    cases = tuple(_case(path, number, entry) for number, entry in enumerate(entries))
    _check_people(path, content)
    return Suite(str(content.get("name", path.stem)), split, cases)


def _case(path: Path, number: int, entry: Any) -> Case:
    where = f"datalist {path}, case {number}"
    if not isinstance(entry, dict):
        msg = f"{where}: expected an object with 'target', got {type(entry).__name__}"
        raise RequestError(msg)
    unknown = sorted(set(entry) - _CASE_KEYS)
    if unknown:
        msg = f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_CASE_KEYS))}"
        raise RequestError(msg)
    target = entry.get("target", entry.get("image"))
    if not isinstance(target, str):
        msg = f"{where}: 'target' must name the sharp volume's file"
        raise RequestError(msg)
    files = {key: path.parent / value for key, value in (("target", target), ("mask", entry.get("mask"))) if value}
    for key, file in files.items():
        if not file.is_file():
            msg = f"{where}: {key} {file} does not exist"
            raise RequestError(msg)
    subject = str(entry.get("subject", files["target"].name.partition(".")[0]))
    return Case(
        subject,
        files["target"],
        entry.get("contrast"),
        files.get("mask"),
        entry.get("skull_stripped"),
        entry.get("apart"),
        entry.get("frame"),
    )


def _check_people(path: Path, content: dict[str, Any]) -> None:
    """No person in two splits: a score on someone the model was trained on says nothing."""
    seen: dict[str, str] = {}
    for section in SECTIONS.values():
        for entry in content.get(section) or []:
            subject = entry.get("subject") if isinstance(entry, dict) else None
            if subject is not None and seen.setdefault(str(subject), section) != section:
                msg = (
                    f"datalist {path}: subject {subject} is in '{seen[str(subject)]}' and in '{section}'; "
                    "keep each person in one split"
                )
                raise RequestError(msg)
