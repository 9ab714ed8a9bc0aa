"""A case: one person at one visit, and the files that belong to it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scorefusion.errors import RequestError

#: The words for contrasts; "image" where nobody said which it is.
CONTRASTS = ("t1", "t1ce", "t2", "flair", "pd", "image")

#: The words for masks and label maps: brain, white-matter lesions, tumour parts, tissue classes, anatomical labels.
MASKS = ("brain", "lesion", "tumour", "tissue", "labels")

AXES = "RAS"
"""Letters for left-right, posterior-anterior and inferior-superior."""


@dataclass(frozen=True)
class Case:
    """One person at one visit: volumes of one or several contrasts, masks, and what is known about them.

    Attributes:
        subject: the person. All visits of a person share this name, and it decides the split.
        contrasts: files by contrast, keys out of `CONTRASTS`. Empty for a case that is a label map only.
        session: the visit, where a person has several.
        masks: files by kind, keys out of `MASKS`.
        skull_stripped: None where nobody said.
        sharp_axes: letters of "RAS" along which the volumes have real detail, for all contrasts or for each:
            `"RA"`, or `{"t1": "RA", "flair": "RAS"}`. None: not measured. Read it through `sharp_axes_of`.
        weight: how often it is drawn in training, relative to others; 0 is never.
        apart: why it is reported by itself, out of the mean.
        frame: which volume of 4D files, from 0.
        aligned: whether the contrasts lie on each other voxel by voxel; False is known not to, None not checked.
    """

    subject: str
    contrasts: Mapping[str, Path]
    session: str | None = None
    masks: Mapping[str, Path] = field(default_factory=dict)
    skull_stripped: bool | None = None
    sharp_axes: str | Mapping[str, str] | None = None
    weight: float = 1.0
    apart: str | None = None
    frame: int | None = None
    aligned: bool | None = None

    def __post_init__(self) -> None:
        if not self.subject:
            msg = "a case needs a subject: the name of the person, the same for all visits"
            raise RequestError(msg)
        for name in (self.subject, self.session or ""):
            if set(name) & set("/\\\0"):
                msg = f"case {name!r}: subject and session become part of file names; leave slashes out"
                raise RequestError(msg)
        contrasts = {_known(key, CONTRASTS, "contrast"): Path(path) for key, path in self.contrasts.items()}
        masks = {_known(key, MASKS, "mask"): Path(path) for key, path in self.masks.items()}
        if not (contrasts or masks):
            msg = f"case {self.case_id} names no file; give at least one under 'contrasts' or 'masks'"
            raise RequestError(msg)
        if not 0 <= self.weight < float("inf"):
            msg = f"case {self.case_id}: weight is {self.weight}; give a number from 0 (never drawn) upwards"
            raise RequestError(msg)
        if self.frame is not None and self.frame < 0:
            msg = f"case {self.case_id}: frame is {self.frame}; frames count from 0"
            raise RequestError(msg)
        object.__setattr__(self, "contrasts", contrasts)
        object.__setattr__(self, "masks", masks)
        object.__setattr__(self, "sharp_axes", self._checked_axes())

    @property
    def case_id(self) -> str:
        """Subject and visit, for a file name or a table's row."""
        return f"{self.subject}_{self.session}" if self.session else self.subject

    @property
    def files(self) -> dict[str, Path]:
        """Every file by contrast or mask name, contrasts first. (The two sets of names share no word.)"""
        return {**self.contrasts, **self.masks}

    def sharp_axes_of(self, contrast: str) -> str | None:
        """Letters of "RAS" with real detail in this contrast; None where it was not measured."""
        return self.sharp_axes.get(contrast) if isinstance(self.sharp_axes, Mapping) else self.sharp_axes

    def _checked_axes(self) -> str | dict[str, str] | None:
        if isinstance(self.sharp_axes, Mapping):
            return {_known(key, CONTRASTS, "contrast"): self._letters(text) for key, text in self.sharp_axes.items()}
        return None if self.sharp_axes is None else self._letters(self.sharp_axes)

    def _letters(self, text: str) -> str:
        """The letters in the order of `AXES`; refuses all others."""
        if not isinstance(text, str) or set(text) - set(AXES):
            msg = f"case {self.case_id}: sharp_axes is {text!r}; give letters of {AXES}, such as 'RA' for axial slices"
            raise RequestError(msg)
        return "".join(letter for letter in AXES if letter in text)


def nearest(word: str, known: Collection[str]) -> str:
    """`" (did you mean 'flair'?)"` for a message about an unknown word, or nothing where no known one is near."""
    near = difflib.get_close_matches(word.casefold(), [name.casefold() for name in known], n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _known(key: str, known: tuple[str, ...], what: str) -> str:
    if key not in known:
        msg = f"unknown {what} {key!r}{nearest(str(key), known)}; known are {', '.join(known)}"
        raise RequestError(msg)
    return key
