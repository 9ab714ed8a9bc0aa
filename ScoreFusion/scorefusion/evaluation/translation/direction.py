"""From which contrasts to which: read from a bundle, and matched with the volumes that a case has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scorefusion.bundle.folder import Bundle
from scorefusion.datasets.case import CONTRASTS, Case
from scorefusion.errors import RequestError
from scorefusion.evaluation.suites import PairSuite


@dataclass(frozen=True)
class Input:
    """One condition of a translation model; `median` as of `intensity.fit_intensity_scale`."""

    name: str
    contrasts: tuple[str, ...]
    optional: bool = False
    median: float | None = None

    def source(self, case: Case, target: str | None) -> str | None:
        """The case's contrast for this input, which is not the target."""
        return next((name for name in self.contrasts if name in case.contrasts and name != target), None)


@dataclass(frozen=True)
class Direction:
    """What goes in (in the bundle's order, the first is the base) and which contrasts count as what comes out."""

    inputs: tuple[Input, ...]
    targets: tuple[str, ...]
    median: float | None = None  # of the target, as of an input

    @classmethod
    def of(cls, bundle: Bundle) -> Direction:
        """Of a translation bundle.

        Raises:
            RequestError: the bundle does something else, or does not say what its target is.
        """
        if bundle.task != "translation":
            msg = (
                f"model {bundle.id!r} is a {bundle.task} model, and this table is for translation models; "
                "evaluate the two kinds in two runs"
            )
            raise RequestError(msg)
        inputs = []
        for condition in bundle.section["conditions"]:
            names = dict.fromkeys([condition["name"], *condition["contrasts"]])
            known = tuple(name for name in names if name in CONTRASTS)
            inputs.append(Input(condition["name"], known, bool(condition.get("optional")), condition.get("median")))
        target = bundle.section["target"]
        names = dict.fromkeys([target["name"], *target.get("contrasts", [])])
        targets = tuple(name for name in names if name in CONTRASTS and name != "image")
        if not targets:
            msg = (
                f"model {bundle.id!r} does not say which contrast it makes: its target is named {target['name']!r}; "
                f"name it one of {', '.join(CONTRASTS[:-1])}"
            )
            raise RequestError(msg)
        return cls(tuple(inputs), targets, target.get("median"))

    @property
    def title(self) -> str:
        """Such as `T1 + T2 to FLAIR`."""
        given = " + ".join("/".join(i.contrasts).upper() + (" (optional)" if i.optional else "") for i in self.inputs)
        return f"{given} to {'/'.join(self.targets).upper()}"

    @property
    def intensities(self) -> str:
        """How each contrast is scaled, in words."""
        parts = []
        for names, median in [*((each.contrasts, each.median) for each in self.inputs), (self.targets, self.median)]:
            how = "its robust range (background to 99.5 percentile of the foreground) is [0, 1]"
            if median is not None:
                how = f"background is 0, the foreground's median {(median + 1) / 2:.3g}"
            parts.append(f"{'/'.join(names).upper()}: {how}")
        return "; ".join(parts)

    def missing(self, case: Case) -> list[str]:
        """Contrasts that the case lacks; none = it can be scored."""
        target = self._target(case)
        needed = (each.contrasts for each in self.inputs if not each.optional and each.source(case, target) is None)
        return ["/".join(names) for names in (*(() if target else (self.targets,)), *needed)]

    def match(self, case: Case) -> tuple[dict[str, str], str]:
        """Contrast of the case by input name (an optional one that is not there is left out), and the target's."""
        lacking, target = self.missing(case), self._target(case)
        if lacking or target is None:
            has = ", ".join(case.contrasts) or "none"
            msg = f"case {case.case_id} lacks {' and '.join(lacking)}, which {self.title} needs; it has {has}"
            raise RequestError(msg)
        found = {each.name: each.source(case, target) for each in self.inputs}
        return {name: contrast for name, contrast in found.items() if contrast is not None}, target

    def files(self, case: Case) -> list[Path]:
        """What of a case is scored: its sources, its target and all of its masks."""
        sources, target = self.match(case)
        return [*(case.contrasts[name] for name in (*sources.values(), target)), *case.masks.values()]

    def fitting(self, suite: PairSuite) -> PairSuite:
        """The suite with those teachers who have all contrasts; to be scored, every case must.

        Raises:
            RequestError: a case lacks a contrast, or its contrasts are known to be off each other.
        """
        for case in suite.cases:
            self.match(case)
            if case.aligned is False:
                msg = (
                    f"the contrasts of {case.case_id} are known to be off each other, so a score would measure the "
                    "shift; align them first: scorefusion data register"
                )
                raise RequestError(msg)
        usable = tuple(c for c in suite.training if not self.missing(c) and c.aligned is not False)
        return replace(suite, training=usable)

    def _target(self, case: Case) -> str | None:
        return next((name for name in self.targets if name in case.contrasts), None)


def common_direction(bundles: Sequence[Bundle]) -> Direction:
    """The one direction of all models of a run: rows of one table are given the same and asked for the same. What one
    of them cannot do without is needed by all."""
    directions = [Direction.of(bundle) for bundle in bundles]
    needed = {each.name for direction in directions for each in direction.inputs if not each.optional}
    common = [replace(d, inputs=tuple(replace(i, optional=i.name not in needed) for i in d.inputs)) for d in directions]
    for bundle, direction, alike in zip(bundles, directions, common, strict=True):
        if alike != common[0]:
            msg = (
                f"model {bundle.id!r} translates {direction.title}, model {bundles[0].id!r} {directions[0].title}; "
                "models in one table must have the same inputs and the same target, normalised alike: evaluate them in "
                "two runs"
            )
            raise RequestError(msg)
    return common[0]
