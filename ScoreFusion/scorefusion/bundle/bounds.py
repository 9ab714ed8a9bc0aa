"""The bounds of everything that a bundle may say: one table, read before anything is built from the values.

They are wide enough for every model that this code can train, and narrow enough that no value makes it hang, run out
of memory or fail half-way. A recipe is held to the same ones when it is read, not when its model is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from scorefusion.bundle.names import is_bundle_id

FORMAT_VERSION = 1
"""Of the ``scorefusion`` section. Raised only when an older ScoreFusion would misread a newer bundle."""

TASKS = ("super_resolution", "translation")
BASES = ("back_projection", "cubic", "linear", "nearest", "condition", "mapped_condition")
PROFILES = ("box", "gaussian")
PLANES = ("sagittal", "coronal", "axial")
SCHEDULES = ("cosine", "linear")
PREDICTIONS = ("noise", "v", "clean")
VOLUME_KINDS = ("diffusion", "regression")
SOLVERS = ("ddim", "ddpm", "dpmpp")

MAX_BYTES = 2 * 1024**3
"""Of all files of a bundle, unpacked."""
MAX_CONDITIONS = 16
MAX_TIMESTEPS = 100_000
MAX_NETWORKS = MAX_CONDITIONS * len(PLANES)


class Rule(Protocol):
    """What a value may be; as text, what was expected."""

    def accepts(self, value: Any) -> bool: ...

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Whole:
    """A whole number, never a boolean."""

    low: int
    high: int

    def accepts(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Real:
    """A finite number, never a boolean."""

    low: float
    high: float

    def accepts(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Text:
    longest: int
    like: str = ""
    blank: bool = False

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) <= self.longest and (self.blank or bool(value.strip()))

    def __str__(self) -> str:
        return f"{self.like or 'text'}, at most {self.longest} characters"


@dataclass(frozen=True)
class Choice:
    """One of some texts or numbers; `True` is not 1, and 2.0 not 2."""

    options: tuple[str | int, ...]

    def accepts(self, value: Any) -> bool:
        return any(type(value) is type(option) and value == option for option in self.options)

    def __str__(self) -> str:
        return one_of(self.options)


@dataclass(frozen=True)
class Flag:
    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Several:
    """A list.

    Attributes:
        rising: no item is smaller than the one before it.
        distinct: no item occurs twice.
    """

    item: Rule
    least: int
    most: int
    words: str
    rising: bool = False
    distinct: bool = False

    def accepts(self, value: Any) -> bool:
        if not (isinstance(value, list) and self.least <= len(value) <= self.most):
            return False
        if not all(map(self.item.accepts, value)):
            return False
        return not (self.rising and sorted(value) != value) and not (self.distinct and len(set(value)) < len(value))

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Entries:
    """A mapping, or a list of mappings, whose content is looked at by itself."""

    most: int
    words: str
    kind: type = dict

    def accepts(self, value: Any) -> bool:
        if self.kind is dict:
            return isinstance(value, dict) and len(value) <= self.most
        is_list = isinstance(value, list) and 0 < len(value) <= self.most
        return is_list and all(isinstance(item, dict) for item in value)

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Name:
    """What `is_bundle_id` says yes to."""

    def accepts(self, value: Any) -> bool:
        return is_bundle_id(value)

    def __str__(self) -> str:
        return "lower-case letters, digits, dots and dashes"


@dataclass(frozen=True)
class Digest:
    """SHA-256."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None

    def __str__(self) -> str:
        return "64 hexadecimal digits"


@dataclass(frozen=True)
class OrNull:
    rule: Rule

    def accepts(self, value: Any) -> bool:
        return value is None or self.rule.accepts(value)

    def __str__(self) -> str:
        return f"null or {self.rule}"


@dataclass(frozen=True)
class Maybe:
    """The key may be missing."""

    rule: Rule

    def accepts(self, value: Any) -> bool:
        return self.rule.accepts(value)

    def __str__(self) -> str:
        return str(self.rule)


Table = Mapping[str, Rule]

_LEVEL = OrNull(Real(math.nextafter(-1, 0), math.nextafter(1, 0)))
_ANYTHING = Entries(1000, "a mapping")


def _range(low: float, high: float, what: str) -> Several:
    return Several(Real(low, high), 2, 2, f"{what}, the lower one first, {low:g} to {high:g}", rising=True)


# -- the table -----------------------------------------------------------------------------------------------------

METADATA: Table = {
    "name": Maybe(Text(200, "the name that users read")),
    "version": Text(64, 'text such as "1.0.0"'),
    "description": Text(20_000, "a sentence"),
}

SECTION: Table = {
    "format_version": Whole(FORMAT_VERSION, FORMAT_VERSION),
    "id": Maybe(Name()),
    "task": Choice(TASKS),
    "conditions": Entries(MAX_CONDITIONS, f"a list of 1 to {MAX_CONDITIONS} conditions", list),
    "target": Entries(100, "a mapping"),
    "spacing_mm": Several(Real(0.05, 50), 3, 3, "three positive lengths in mm, 0.05 to 50"),
    "base": Choice(BASES),
    "base_rounds": Maybe(Whole(0, 100)),
    "residual_gain": Real(1e-3, 1e3),
    "slice_profile": Maybe(Choice(PROFILES)),
    "inputs": Entries(100, "a mapping of what the networks are shown"),
    "networks": Entries(100, "a mapping with planes (and fusion), or with volume"),
    "schedule": Entries(100, "a mapping"),
    "presets": Entries(32, "a mapping of at most 32, at least 'fast'"),
    "uncertainty": Maybe(Entries(100, "a mapping of sampling settings")),
    "domain": Entries(100, "a mapping"),
    "files": Entries(MAX_NETWORKS + 2, "weight files with sha256 and bytes"),
    "training": Maybe(_ANYTHING),
    "quality": Maybe(_ANYTHING),
    "experimental": Maybe(Flag()),
    "licence": Text(200, "the licence's name"),
    "citation": Maybe(Text(2000, blank=True)),
}

PLANE_SECTION: Table = {
    "planes": Several(Choice(PLANES), 1, len(PLANES), "a list of 'sagittal', 'coronal', 'axial'", distinct=True),
    "slab_radius": Whole(0, 8),
}
"""Keys of the section that a model of planes has, beside `SECTION`."""

CONDITION: Table = {
    "name": Text(64, "a name of its own"),
    "contrasts": Several(Text(32), 1, 32, 'at most 32 contrasts such as ["t1"]'),
    "median": Maybe(_LEVEL),
    "optional": Maybe(Flag()),
    "description": Maybe(Text(2000, blank=True)),
}

TARGET: Table = {
    "name": Text(64, "a name"),
    "median": Maybe(_LEVEL),
    "units": Text(64, 'text such as "input units"'),
    "range": Maybe(OrNull(_range(-1e6, 1e6, "two numbers"))),
}

INPUTS: Table = {
    "position": Maybe(Flag()),
    "foreground": Maybe(Flag()),
    "plane_context": Maybe(Flag()),
    "acquisition_context": Maybe(Flag()),
    "presence_context": Maybe(Whole(0, MAX_CONDITIONS)),
}

NETWORK: Table = {
    "spatial_dims": Choice((2, 3)),
    "in_channels": Whole(1, 512),
    "out_channels": Whole(1, MAX_NETWORKS),
    "channels": Several(Whole(1, 2048), 1, 6, "1 to 6 widths of at most 2048 channels"),
    "blocks": Maybe(Whole(1, 8)),
    "stem_factor": Maybe(Whole(1, 8)),
    "normalisation": Maybe(Choice(("group", "none"))),
    "resampling": Maybe(Choice(("block", "convolution", "plain"))),
    "attention": Maybe(Flag()),
    "head_width": Maybe(Whole(1, 512)),
    "modulation": Maybe(Choice(("scale_shift", "shift"))),
    "dropout": Maybe(Real(0, 0.95)),
    "context_size": Maybe(Whole(0, 64)),
    "embedding_size": Maybe(Whole(1, 4096)),
    "replicate_edges": Maybe(Flag()),
}
"""The fields of `UNetConfig`."""

SCHEDULE: Table = {
    "kind": Choice(SCHEDULES),
    "num_train_timesteps": Whole(1, MAX_TIMESTEPS),
    "prediction": Choice(PREDICTIONS),
    "beta_start": Maybe(Real(1e-9, 0.9999)),
    "beta_end": Maybe(Real(1e-9, 0.9999)),
}
"""The fields of `NoiseSchedule`."""

PLAN: Table = {
    "steps": Whole(1, 1000),
    "solver": Choice(SOLVERS),
    "start": Maybe(OrNull(Whole(0, MAX_TIMESTEPS - 1))),
    "samples": Maybe(Whole(1, 64)),
    "eta": Maybe(Real(0, 1)),
}
"""The fields of `SamplingPlan`."""

PRESET: Table = {**PLAN, "note": Maybe(Text(1000, blank=True))}

UNCERTAINTY: Table = {key: rule if isinstance(rule, Maybe) else Maybe(rule) for key, rule in PLAN.items()} | {
    "samples": Maybe(Whole(2, 64))
}

DEFAULT_UNCERTAINTY = {"steps": 4, "samples": 4, "solver": "ddim", "eta": 1.0}
"""What a bundle's `uncertainty` leaves open."""

DOMAIN: Table = {
    "modality": Maybe(Text(64)),
    "anatomy": Maybe(Text(500)),
    "not_for": Maybe(Text(500)),
    "skull_stripped": Maybe(Flag()),
    "extent_mm": Maybe(_range(0, 10_000, "two lengths in mm")),
    "spacing_mm": Maybe(_range(0, 100, "two lengths in mm")),
    "factor": Maybe(_range(0, 1000, "two factors")),
}

FILE: Table = {"sha256": Digest(), "bytes": Whole(0, MAX_BYTES)}

CURVE = Several(Real(-10, 10), 2, 1025, "a list of 2 to 1025 numbers, -10 to 10")
JOINT_MAP = Several(Real(-10, 10), 4, 100_000, "at most 100000 numbers, -10 to 10")


def one_of(options: tuple[str | int, ...] | list[str]) -> str:
    """For a message."""
    return ", ".join(repr(option) for option in options) or "nothing"
