"""A bundle's networks as rows of a table: each fusion rule, at the presets' plans.

The published baselines (one plane, plane average, alternating planes) run on the same networks with the same steps,
base image and noise, so that a difference between rows is a difference between rules. A 3D network alone, by diffusion
or by regression, is a bundle of its own, evaluated in the same run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import torch

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import Model
from scorefusion.errors import RequestError
from scorefusion.evaluation.rows import Made, Method
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.rules import FusionRule, ScoreFusion, VolumeRule
from scorefusion.imaging.grid import Reorientation
from scorefusion.progress import Event, Reporter
from scorefusion.run.devices import inference_settings
from scorefusion.run.load_checked import load_checked
from scorefusion.run.prepare import Prepared
from scorefusion.run.request import SamplingPlan
from scorefusion.run.restore import Restoration
from scorefusion.run.sampling import sample_prepared, uncertainty_plan

logger = logging.getLogger(__name__)
#: Plans of more evaluations than this run with the main rules only.
COSTLY = 12
#: What is scored lies in RAS+ order already.
AS_IT_IS = Reorientation((0, 1, 2), (False, False, False))


@dataclass(frozen=True)
class RuleRow:
    """A fusion rule (as `Model.choose_rule` takes it) as a row, whatever the plan; `main` ones run at any cost."""

    key: str
    label: str
    rule: str
    on_request: bool = False
    main: bool = False
    projected: bool = False


@dataclass(frozen=True)
class Settings:
    """How models are run: the command's options."""

    plans: Sequence[str] | None = None  # presets, numbers of steps, "uncertainty"; None = presets and one step
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    @property
    def words(self) -> str:
        """For the caption."""
        return f"{self.seed}, precision {self.precision}"


def rule_rows(model: Model) -> list[RuleRow]:
    """Every rule that a model can run: the main ones, then those for ablations, which are shown on request."""
    if model.bundle.volume_kind == "regression":
        return [RuleRow("regression", "3D U-Net regression", "volume")]
    if model.bundle.volume_kind == "diffusion":
        return [RuleRow("volume", "3D diffusion alone", "volume", main=True)]
    rows = [
        RuleRow("alternating", "alternating planes", "alternating"),
        RuleRow("average", "plane average", "average", main=True),
    ]
    planes = sorted(plane.value for plane in model.planes)
    if isinstance(model.rule, ScoreFusion):
        rows.append(RuleRow("fusion", "fusion", "fusion", main=True))
        if model.rule.alignment is not None:
            rows.append(RuleRow("fusion-scores", "fusion, features off, same weights", "fusion-scores", True))
    rows += [RuleRow(f"plane:{plane}", f"one plane ({plane})", plane, True) for plane in planes]
    for count in range(2, len(planes)):
        for some in combinations(planes, count):
            rule = f"average:{'+'.join(some)}"
            rows.append(RuleRow(rule, f"average of {' and '.join(some)}", rule, True))
    return rows


def restoring_rows(model: Model) -> list[RuleRow]:
    """For super-resolution: each rule without and with projection; alternating planes with it only."""
    rows = rule_rows(model)
    if Plane.CORONAL in model.planes:  # it cuts across axial slices, and so sees the axis that a thick-slice scan lacks
        rows.insert(0, RuleRow("plane", "one plane (coronal)", "coronal"))
    found = []
    for row in rows:
        found += [] if row.rule == "alternating" else [replace(row, main=False)]
        found.append(replace(row, key=f"{row.key}+proj", label=f"{row.label} + projection", projected=True))
    return found


def translating_rows(model: Model, plane: Plane) -> list[RuleRow]:
    """For translation: nothing of the target was measured, so nothing is projected. The one plane is the scored one."""
    rows = [row for row in rule_rows(model) if row.key != f"plane:{plane.value}"]
    return [RuleRow("plane", f"one plane ({plane.value})", plane.value), *rows] if plane in model.planes else rows


def sampling_plans(bundle: Bundle, names: Sequence[str] | None = None) -> dict[str, SamplingPlan]:
    """Plans to run, by name: the presets, then one step; equal plans once. A regression has one plan.

    Args:
        bundle: whose presets.
        names: presets, numbers of steps, or "uncertainty"; None = every preset and one step.
    """
    presets = {name: SamplingPlan.from_preset(preset) for name, preset in bundle.section["presets"].items()}
    known = {**presets, "uncertainty": uncertainty_plan(bundle)}
    last = int(bundle.section["schedule"]["num_train_timesteps"]) - 1
    plans: dict[str, SamplingPlan] = {}
    if bundle.volume_kind == "regression":  # one answer, whatever other models in the table are asked for
        names = ["fast"]
    for name in names or [*presets, "1"]:
        if name not in known and not name.isdigit():
            msg = f"model {bundle.id!r} has no preset {name!r}; choose from {', '.join(known)}, or a number of steps"
            raise RequestError(msg)
        plan = known[name] if name in known else SamplingPlan(steps=int(name))
        plan = replace(plan, start=last if plan.start is None else plan.start)
        if plan not in plans.values():
            plans[name] = plan
    return plans


def model_methods(
    model: Model,
    rows: Sequence[RuleRow],
    prepare: Callable[[Model, RuleRow, Any], Prepared],
    finish: Callable[[Prepared, Restoration], Made],
    settings: Settings,
    reporter: Reporter,
    prefix: str = "",
    *,
    all_rows: bool = False,
) -> list[Method]:
    """Rules at every plan that makes sense for them.

    Args:
        model: loaded by `load`.
        rows: the rules.
        prepare: what `translate` would make of a subject.
        finish: from the sampled box to what the subject's scores want.
        settings: plans and seed.
        reporter: hears of tiles and other fallbacks, and may cancel.
        prefix: before keys and labels, where several models are compared.
        all_rows: costly plans run with every rule.
    """
    heard = Reporter(partial(pass_warnings, reporter), partial(stopped, reporter))
    methods = []
    for name, plan in sampling_plans(model.bundle, settings.plans).items():
        for row in rows:
            if row.rule == "alternating" and plan.steps == 1:
                continue  # one step is one plane
            if plan.steps * plan.samples > COSTLY and not (row.main or row.on_request or all_rows):
                continue
            rule = model.choose_rule(row.rule)
            steps = f"{plan.steps} step{'s' if plan.steps > 1 else ''}"
            steps += f", {plan.samples} samples" if plan.samples > 1 else ""
            label = f"{prefix}{row.label} ({'' if name.isdigit() else f'{name}: '}{steps})"
            networks = (rule.network,) if isinstance(rule, VolumeRule) else ()

            def make(subject: Any, row: RuleRow = row, plan: SamplingPlan = plan) -> Made:
                request, rule = prepare(model, row, subject), model.choose_rule(row.rule)
                with inference_settings():
                    result, _ = sample_prepared(model, rule, request, plan, settings.seed, _device(rule), heard)
                return finish(request, result)

            modules, key = (*model.ensemble.plane_networks, *networks), f"{prefix}{row.key}@{name}"
            methods.append(Method(key, label, "model", make, modules, _device(rule), row.on_request))
    return methods


def _device(rule: FusionRule) -> torch.device:
    return next(rule.parameters()).device


def load(bundle: Bundle, settings: Settings) -> Model:
    """A bundle's networks, on the device and in the number format asked for."""
    model, _, _ = load_checked(
        bundle, settings.device, settings.precision, lambda _code, message: logger.warning(message)
    )
    return model


def named(bundles: Sequence[Bundle]) -> str:
    """Models with their hashes, for a caption."""
    return ", ".join(f"{b.id} {b.version} (SHA-256 {b.hash[:12]})" for b in bundles) or "none"


def prefixes(bundles: Sequence[Bundle]) -> list[str]:
    """What stands before the rows of each model: nothing, where there is one."""
    return [f"{bundle.id}:" if len(bundles) > 1 else "" for bundle in bundles]


def stopped(reporter: Reporter) -> bool:
    """Raises Cancelled if the user wants to stop; else False."""
    reporter.check_cancelled()
    return False


def pass_warnings(reporter: Reporter, event: Event) -> None:
    """The progress of one sampling is not that of the table."""
    if event["event"] == "warning":
        reporter.warning(event["code"], event["message"])
