"""The rows: a scan restored alone, beside its guides, and beside guides that are wrong, mislabelled or moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scorefusion.bundle.folder import Bundle
from scorefusion.errors import RequestError
from scorefusion.evaluation.guided.exams import GUIDE, Guided, turned
from scorefusion.evaluation.models import Settings, pass_warnings, stopped
from scorefusion.evaluation.rows import Made, Method
from scorefusion.imaging.grid import Grid
from scorefusion.imaging.volume import Volume, resample
from scorefusion.pipeline import translate
from scorefusion.progress import Reporter
from scorefusion.run.devices import pick_device

#: How far the moved guide is off.
MOVED_MM, MOVED_DEGREES = 1.0, 3.0

Guides = Mapping[str, Volume]
Restore = Callable[[Volume, Guides, Grid, bool], "Restored"]
"""From a coarse scan, its guides, the grid wanted, and whether guides are registered."""


@dataclass(frozen=True, eq=False)
class Restored:
    """`(I, J, K)` on the grid wanted, scanner units; `placed`: how far registration moved the first guide, by name."""

    data: Tensor
    placed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """What a model is given beside the scan; `guides` says None where a person has no such thing."""

    key: str
    label: str
    guides: Callable[[Guided], Guides | None]
    register: bool = True


def ways(known: Sequence[str]) -> list[Way]:
    """All rows of a model that takes the guides `known`."""
    moved = f"{MOVED_MM:g} mm, {MOVED_DEGREES:g} degrees"
    return [
        Way("none", "alone", lambda _: {}),
        Way("t1", "with T1w", lambda s: {GUIDE: s.guides[GUIDE]}),
        Way("all", "with all guides", partial(_all, known)),
        Way("stranger", "another person's T1w", _stranger),
        Way("stranger-off", "another person's T1w, headers trusted", _stranger, False),
        Way("mislabelled", "another contrast called T1w", partial(_mislabelled, known)),
        Way("moved", f"T1w moved ({moved})", _moved),
        Way("moved-off", f"T1w moved ({moved}), headers trusted", _moved, False),
    ]


def _all(known: Sequence[str], subject: Guided) -> Guides | None:
    """None where it would be the T1w alone again."""
    found = {name: subject.guides[name] for name in known if name in subject.guides}
    return found if len(found) > 1 else None


def _stranger(subject: Guided) -> Guides | None:
    return None if subject.stranger is None else {GUIDE: subject.stranger}


def _mislabelled(known: Sequence[str], subject: Guided) -> Guides | None:
    """Another contrast under the T1w's name; of a person without one, the T1w under another's."""
    other = next((name for name in subject.guides if name != GUIDE), None)
    if other is not None:
        return {GUIDE: subject.guides[other]}
    names = [name for name in known if name not in (GUIDE, subject.contrast)]
    return {names[0]: subject.guides[GUIDE]} if names else None


def _moved(subject: Guided) -> Guides:
    return {GUIDE: turned(subject.guides[GUIDE], MOVED_MM, MOVED_DEGREES)}


def method_of(
    restore: Restore, prefix: str, way: Way, guides: Guides, device: torch.device, placed: dict[str, float]
) -> Method:
    """A model's row for a subject with these guides; `prefix` stands before key and label, and `placed` receives what
    registration did."""

    def make(subject: Guided) -> Made:
        restored = restore(subject.scan.volume, guides, subject.truth.grid, way.register)
        placed.update(restored.placed)
        return Made(restored.data)

    return Method(f"{prefix}:{way.key}", f"{prefix} {way.label}", "model", make, (), device)


def guide_names(bundle: Bundle) -> list[str]:
    """What a super-resolution bundle takes beside the scan.

    Raises:
        RequestError: it is for another task, or takes no T1w.
    """
    first, *others = bundle.section["conditions"]
    names = [condition["name"] for condition in others]
    if bundle.task != "super_resolution" or GUIDE not in names:
        has = ", ".join([first["name"], *names])
        msg = f"model {bundle.id!r} ({bundle.task}) takes no guide '{GUIDE}' beside the scan; its inputs are {has}"
        raise RequestError(msg)
    return names


def restoring(bundle: Bundle, how: Settings, preset: str, reporter: Reporter) -> Restore:
    """A bundle as users run it: `translate` reads, brings guides into line, samples and projects."""
    name = bundle.section["conditions"][0]["name"]
    options: dict[str, Any] = {"preset": preset, "seed": how.seed, "precision": how.precision}
    options["device"] = str(pick_device(how.device))

    def restore(scan: Volume, guides: Guides, grid: Grid, register: bool) -> Restored:
        result = translate(
            {name: scan, **guides},
            bundle,
            spacing=grid.spacing,
            **options,
            register=register,
            on_event=partial(pass_warnings, reporter),
            cancelled=partial(stopped, reporter),
        )
        volume = result.volume
        moved = [entry for entry in result.provenance.get("Registration", []) if entry["Registered"] and entry["Used"]]
        placed = {"moved_mm": moved[0]["MovedMm"], "turned_degrees": moved[0]["TurnedDegrees"]} if moved else {}
        # Slices that are no whole number of voxels end a part of a voxel before or behind the truth.
        volume = volume if volume.grid.is_close(grid) else resample(volume, grid)
        return Restored(torch.from_numpy(volume.data[0]), placed)

    return restore
