"""Leave one person out: each is scored by a model that has not seen this person, and the folds make one table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.store import find_bundle
from scorefusion.errors import RequestError
from scorefusion.evaluation.suites import PairSuite


def read_folds(texts: Sequence[str]) -> dict[str, list[Bundle]]:
    """`SUBJECT=BUNDLE` texts: the bundles of each person, in the order given."""
    folds: dict[str, list[Bundle]] = {}
    for text in texts:
        subject, equals, name = text.partition("=")
        if not (subject and equals and name):
            msg = f"--fold-model is {text!r}; give SUBJECT=FOLDER, such as openms_07=models/fold-openms_07"
            raise RequestError(msg)
        folds.setdefault(subject.strip(), []).append(find_bundle(name.strip()))
    return folds


def check_folds(folds: Mapping[str, Sequence[Bundle]], suite: PairSuite) -> None:
    """Every person of the suite has a model, the same number of them, and none that saw this person.

    Raises:
        RequestError: otherwise.
    """
    subjects = list(dict.fromkeys(case.subject for case in suite.cases))
    missing = [subject for subject in subjects if subject not in folds]
    counts = sorted({len(bundles) for bundles in folds.values()})
    msg = None
    if set(folds) - set(subjects):
        msg = f"--fold-model names {', '.join(sorted(set(folds) - set(subjects)))}, and {suite.name} has "
        msg += ", ".join(subjects)
    elif missing:
        msg = (
            f"no --fold-model for {', '.join(missing)}; give one for each person of {suite.name}, or score some only: "
        )
        msg += f"--subjects {','.join(s for s in subjects if s in folds)}"
    elif len(counts) > 1:
        msg = f"the persons have {' or '.join(map(str, counts))} fold models; give each person as many, in the same "
        msg += "order, so that they make rows of one table"
    if msg is not None:
        raise RequestError(msg)
    for subject, bundles in folds.items():
        for bundle in bundles:
            if persons_seen(bundle) is None:
                msg = (
                    f"model {bundle.id!r}, given for {subject}, does not say whom it was trained on (training.subjects "
                    "in its metadata), so it cannot be shown that it has not seen this person"
                )
                raise RequestError(msg)
            refuse_seen(bundle, [subject])


def refuse_seen(bundle: Bundle, subjects: Sequence[str]) -> None:
    """A score on someone the model was trained on says nothing.

    Raises:
        RequestError: the bundle's metadata says that it saw one of these persons.
    """
    known = persons_seen(bundle) or []
    seen = sorted({subject for subject in subjects if any(_names(text, subject) for text in known)})
    if seen:
        msg = (
            f"model {bundle.id!r} was trained on {', '.join(seen)} (training.subjects or training.volumes in its "
            "metadata), so it cannot be scored there; give a model that left this person out"
        )
        raise RequestError(msg)


def persons_seen(bundle: Bundle) -> list[str] | None:
    """Persons and volumes that the metadata names as training data; None = it names none of either kind."""
    training = bundle.section.get("training")
    if not isinstance(training, Mapping):
        return None
    lists = [training[key] for key in ("subjects", "volumes") if isinstance(training.get(key), (list, tuple, Mapping))]
    return [str(name) for names in lists for name in names] if lists else None


def _names(text: str, subject: str) -> bool:
    """Whether the name of a person or a volume is about this person: `multi/openms_07/FLAIR`, `openms_07_T1w.nii`."""
    whole = re.compile(rf"{re.escape(subject)}(?![0-9A-Za-z])")
    return any(whole.match(part) is not None for part in PurePosixPath(text.replace(os.sep, "/")).parts)


def fold_prefixes(folds: Mapping[str, Sequence[Bundle]]) -> list[str]:
    """What stands before the rows of the first, second, ... model of each person: what their names have in common.
    One model a person needs no prefix."""
    groups = list(zip(*folds.values(), strict=True))
    if len(groups) == 1:
        return [""]
    common = (os.path.commonprefix([bundle.id for bundle in group]).rstrip("-_.") for group in groups)
    names = [name or f"model {number + 1}" for number, name in enumerate(common)]
    unique = names if len(set(names)) == len(names) else [f"{name} {n + 1}" for n, name in enumerate(names)]
    return [f"{name}:" for name in unique]
