"""What is scored: single volumes, taken from a datalist or from the named suites over the project's test data."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from scorefusion.datasets.case import Case
from scorefusion.datasets.datalist import SECTIONS, Datalist, data_folder, project_datalist
from scorefusion.errors import RequestError

#: Suites over the test data: subject and contrast. The split is the manifest's: one person, one split.
SUITES: dict[str, tuple[tuple[str, str], ...]] = {
    "test": (("mass_W03", "t1"), ("pycortex_S1", "t1"), ("brats_MET00110", "flair"), ("colin27", "t1")),
    "val": (("mass_W05", "t1"), ("mass_W08", "t1"), ("sag_anon", "t1"), ("openms_19", "flair")),
}


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
    def mask(self) -> Path | None:
        """Of the brain."""
        return self.case.masks.get("brain")

    @property
    def skull_stripped(self) -> bool | None:
        """None where nobody said."""
        return self.case.skull_stripped

    @property
    def apart(self) -> str | None:
        """Why it stays out of the mean."""
        return self.case.apart

    @property
    def frame(self) -> int | None:
        """Which volume of a 4D file."""
        return self.case.frame

    @property
    def title(self) -> str:
        """For a table's row."""
        return f"{self.subject} {self.contrast.upper()}" if self.contrast else self.subject


@dataclass(frozen=True)
class Suite:
    """Truths with the name of their set and a hash of the files, for the caption."""

    name: str
    split: str
    cases: tuple[SuiteCase, ...] = field(repr=False)

    @property
    def data_hash(self) -> str:
        """SHA-256 over the contents of all volumes and masks, in order; 12 digits."""
        digest = hashlib.sha256()
        for case in self.cases:
            for path in (case.path, case.mask):
                if path is not None:
                    digest.update(path.read_bytes())
        return digest.hexdigest()[:12]


def named_suite(name: str, folder: Path | None = None) -> Suite:
    """One of `SUITES`, found through the data's manifest."""
    if name not in SUITES:
        msg = f"there is no suite {name!r}; choose one of {', '.join(SUITES)}, or give a datalist file"
        raise RequestError(msg)
    if folder is None and data_folder() is None:
        msg = (
            f"suite {name!r} needs the project's test data, and its manifest.json was not found; set "
            "SCOREFUSION_TEST_DATA to the folder, or give a datalist file of your own"
        )
        raise RequestError(msg)
    datalist = project_datalist(folder)
    home = {case.subject: (split, case) for split in SECTIONS for case in datalist.cases(split)}
    cases = []
    for subject, contrast in SUITES[name]:
        if subject not in home:
            msg = f"the test data has no subject {subject}, which suite {name!r} asks for"
            raise RequestError(msg)
        split, case = home[subject]
        if split != name:
            msg = f"{subject} is in split {split!r} of the manifest, so it cannot be scored in suite {name!r}"
            raise RequestError(msg)
        cases.append(SuiteCase(case, contrast))
    return Suite(name, name, tuple(cases))


def suite_of(datalist: Datalist, split: str = "test", contrasts: Collection[str] | None = None) -> Suite:
    """Each contrast of each case of a split as a truth of its own.

    Args:
        datalist: read for this split.
        split: train, val or test.
        contrasts: only these; None takes all.
    """
    cases = tuple(
        SuiteCase(case, key)
        for case in datalist.cases(split)
        for key in case.contrasts
        if contrasts is None or key in contrasts
    )
    if not cases:
        wanted = f" with {' or '.join(contrasts)}" if contrasts is not None else ""
        msg = f"datalist {datalist.name} has no volume{wanted} under '{SECTIONS[split]}'; choose another split"
        raise RequestError(msg)
    return Suite(datalist.name, split, cases)
