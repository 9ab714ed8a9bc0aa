"""What every table is made of: a row is one method on one person, with figures by name. One loop makes them all."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from scorefusion.errors import RequestError, VolumeError
from scorefusion.evaluation.meter import Meter
from scorefusion.progress import Reporter


@dataclass(frozen=True, eq=False)
class Made:
    """What a method gives for a subject: `(I, J, K)` on the grid and in the units that the subject asks for."""

    data: Tensor
    deviation: Tensor | None = None  # standard deviation over samples, likewise


@dataclass(frozen=True, eq=False)
class Method:
    """Anything that can be a row."""

    key: str  # short name for CSV and `--methods`
    label: str  # name for people
    family: str  # `classical` or `baseline` (both without our networks), or `model`
    make: Callable[[Any], Made]  # restores or translates a subject; it must not look at the subject's truth
    modules: tuple[nn.Module, ...] = ()  # networks whose calls are counted
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_request: bool = False  # shown only where it is asked for by its key

    @property
    def rule(self) -> str:
        """The key without model and plan."""
        return rule_of(self.key)


class Subject(Protocol):
    """A truth, and what the methods are given of it."""

    @property
    def setting(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def contrast(self) -> str | None: ...
    @property
    def apart(self) -> str | None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def facts(self) -> dict[str, Any]:
        """What the report says about it, JSON-ready; `title` and `apart` are among them."""

    def score(self, made: Made) -> dict[str, float]:
        """Figures by name."""


@dataclass(frozen=True)
class Row:
    """One method on one person under one setting ("" where there are no settings)."""

    setting: str
    subject: str
    contrast: str | None
    apart: str | None  # why it stays out of the mean
    method: str
    label: str
    family: str
    figures: Mapping[str, float]

    @property
    def title(self) -> str:
        """Subject and contrast."""
        return title_of(self.subject, self.contrast)

    def __getitem__(self, figure: str) -> float:
        return self.figures.get(figure, math.nan)

    def flat(self) -> dict[str, Any]:
        """For CSV and JSON: the figures stand beside the names."""
        return {**{key: value for key, value in vars(self).items() if key != "figures"}, **self.figures}


@dataclass
class Benchmark:
    """All rows of a run, the facts about its subjects, and what the caption must say."""

    caption: dict[str, str]
    settings: dict[str, str] = field(default_factory=dict)  # description by name
    facts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def rule_of(key: str) -> str:
    """A method's key without model and plan."""
    return key.partition("@")[0].rpartition(":")[2]


def title_of(subject: str, contrast: str | None) -> str:
    """Subject and contrast, as a table's column is headed."""
    return f"{subject} {contrast.upper()}" if contrast else subject


S = TypeVar("S", bound=Subject)
Keep = Callable[[S, dict[str, Made], list[Row]], None]


def run_all(
    benchmark: Benchmark,
    subjects: Iterable[S],
    methods: Callable[[S], Sequence[Method]],
    total: int,
    reporter: Reporter,
    keep: Keep[S] | None = None,
    kept: Collection[str] | None = None,
) -> Benchmark:
    """Every method on every subject, into `benchmark`; volumes are forgotten unless they are to be kept.

    Args:
        methods: rows for a subject, in order; the folds of a leave-one-out run differ from person to person.
        total: rows expected, for the progress; 0 = unknown.
        keep: receives each subject with what the methods named in `kept` made of it (None = all) and its rows.
    """
    for subject in subjects:
        rows: list[Row] = []
        made: dict[str, Made] = {}
        for method in methods(subject):
            reporter.progress(f"{subject.setting} {subject.name}".strip(), len(benchmark.rows), total)
            row, result = measure(subject, method)
            rows.append(row)
            benchmark.rows.append(row)
            if keep is not None and (kept is None or method.key in kept):
                made[method.key] = result
        benchmark.facts.append(subject.facts())
        if keep is not None:
            keep(subject, made, rows)
    return benchmark


def measure(subject: Subject, method: Method) -> tuple[Row, Made]:
    """One method on one subject: its figures, and what it made.

    Raises:
        VolumeError: the method gave another shape, or voxels that are not finite.
    """
    with Meter(method.modules, method.device) as meter:
        made = method.make(subject)
    made = Made(made.data.cpu().float(), None if made.deviation is None else made.deviation.cpu().float())
    if tuple(made.data.shape) != tuple(subject.shape) or not bool(torch.isfinite(made.data).all()):
        msg = f"method {method.key} gave shape {tuple(made.data.shape)} or non-finite voxels for {subject.name}"
        raise VolumeError(msg)
    figures = {**subject.score(made), **asdict(meter.cost)}
    own = (subject.setting, subject.name, subject.contrast, subject.apart)
    return Row(*own, method.key, method.label, method.family, figures), made


def choose(methods: Sequence[Method], wanted: Sequence[str]) -> list[Method]:
    """The rows asked for: a family (`classical`, `baseline`, `model`), a key (`fusion+proj@fast`), or a rule at every
    plan (`fusion+proj`). Rows on request must be asked for by key or rule."""
    if not wanted:
        return [method for method in methods if not method.on_request]
    families = {method.family for method in methods} | {"model"}
    asked = {"baseline" if name == "classical" and "baseline" in families else name for name in wanted}
    known, chosen = set(families), []
    for method in methods:
        own = {method.key, method.key.partition("@")[0]}
        known |= own
        if asked & (own if method.on_request else own | {method.family}):
            chosen.append(method)
    if unknown := sorted(asked - known):
        msg = f"there is no method {unknown[0]!r}; choose from {', '.join(sorted(known))}"
        raise RequestError(msg)
    return chosen


def by_label(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by method label, in the order of the run."""
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.label].append(row)
    return grouped


def values_of(rows: Iterable[Row], figure: str) -> list[float]:
    """One value a person; those kept apart do not count."""
    return [row[figure] for row in rows if row.apart is None]


def mean(values: Iterable[float]) -> float:
    """Mean of what is known; nan if nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class Gain:
    """A model's distance from the best method without a network, which may differ from person to person."""

    setting: str
    method: str
    label: str
    figure: str
    per_subject: dict[str, float]  # by title
    best: dict[str, str]  # label of the best one, by title
    mean: float  # over persons not kept apart


def gains(rows: Sequence[Row], figure: str) -> list[Gain]:
    """For each setting and model method, the gain in a figure of which more is better."""
    found = []
    for setting in dict.fromkeys(row.setting for row in rows):
        here = [row for row in rows if row.setting == setting]
        best: dict[str, Row] = {}
        for row in here:
            if row.family != "model" and (row.title not in best or row[figure] > best[row.title][figure]):
                best[row.title] = row
        names = {title: row.label for title, row in best.items()}
        for label, group in by_label(row for row in here if row.family == "model" and row.title in best).items():
            gained = {row.title: row[figure] - best[row.title][figure] for row in group}
            counted = mean(gained[row.title] for row in group if row.apart is None)
            found.append(Gain(setting, group[0].method, label, figure, gained, names, counted))
    return found
