"""A bundle's networks as rows of the table: each fusion rule, with and without projection, at the presets' plans.

The published baselines (one plane, plane average, alternating planes) run on the same networks with the same steps,
base image and noise, so that a difference between rows is a difference between rules. A 3D network alone, by diffusion
or by regression, is a bundle of its own, evaluated in the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch import nn

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import Model, load_model
from scorefusion.diffusion.noise import NoiseField
from scorefusion.errors import RequestError
from scorefusion.evaluation.benchmark import Method, Restored
from scorefusion.evaluation.simulate import CoarseScan
from scorefusion.fusion.base import base_image
from scorefusion.fusion.inputs import ModelInputs, acquisition_vector
from scorefusion.fusion.rules import ScoreFusion, VolumeRule
from scorefusion.imaging.intensity import fit_intensity_scale
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import DEFAULT_UNCERTAINTY
from scorefusion.run.devices import inference_settings, pick_device, pick_precision
from scorefusion.run.request import SamplingPlan
from scorefusion.run.restore import restore

#: Plans of more evaluations than this run with the main rules only.
COSTLY = 12
MAIN = ("average+proj", "fusion+proj", "volume+proj")


@dataclass(frozen=True)
class RuleRow:
    """A fusion rule as a row of the table, whatever the plan.

    Attributes:
        key: short name.
        label: name for people.
        rule: see `Model.choose_rule`.
        projected: onto the measurement.
        on_request: shown only where it is asked for by its key.
    """

    key: str
    label: str
    rule: str
    projected: bool
    on_request: bool = False


def rule_rows(model: Model) -> list[RuleRow]:
    """Every rule that a model can run: the main ones, then those for ablations, which are shown on request."""
    if model.bundle.volume_kind == "regression":
        return _with_projection("regression", "3D U-Net regression", "volume")
    if model.bundle.volume_kind == "diffusion":
        return _with_projection("volume", "3D diffusion alone", "volume")
    planes = sorted(plane.value for plane in model.planes)
    rows: list[RuleRow] = []
    if "coronal" in planes:  # it cuts across axial slices, and so sees the axis that a thick-slice scan lacks
        rows += _with_projection("plane", "one plane (coronal)", "coronal")
    rows.append(RuleRow("alternating+proj", "alternating planes + projection", "alternating", projected=True))
    rows += _with_projection("average", "plane average", "average")
    if isinstance(model.rule, ScoreFusion):
        rows += _with_projection("fusion", "fusion", "fusion")
        if model.rule.alignment is not None:
            rows += _with_projection("fusion-scores", "fusion, features off, same weights", "fusion-scores", True)
    for plane in planes:
        rows += _with_projection(f"plane:{plane}", f"one plane ({plane})", plane, True)
    for count in range(2, len(planes)):
        for some in combinations(planes, count):
            rule = f"average:{'+'.join(some)}"
            rows += _with_projection(rule, f"average of {' and '.join(some)}", rule, True)
    return rows


def _with_projection(key: str, label: str, rule: str, on_request: bool = False) -> list[RuleRow]:
    return [
        RuleRow(key, label, rule, projected=False, on_request=on_request),
        RuleRow(f"{key}+proj", f"{label} + projection", rule, projected=True, on_request=on_request),
    ]


@dataclass(frozen=True, eq=False)
class Learned:
    """One rule at one sampling plan."""

    model: Model
    row: RuleRow
    plan: SamplingPlan
    plan_name: str
    seed: int
    device: torch.device
    prefix: str = ""  # names the model where several are compared

    @property
    def key(self) -> str:
        return f"{self.prefix}{self.row.key}@{self.plan_name}"

    @property
    def label(self) -> str:
        samples = f", {self.plan.samples} samples" if self.plan.samples > 1 else ""
        steps = f"{self.plan.steps} step{'s' if self.plan.steps > 1 else ''}"
        preset = "" if self.plan_name.isdigit() else f"{self.plan_name}: "
        return f"{self.prefix}{self.row.label} ({preset}{steps}{samples})"

    @property
    def family(self) -> str:
        return "model"

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        rule = self.model.choose_rule(self.row.rule)
        fusion = (rule.network,) if isinstance(rule, VolumeRule) else ()
        return (*self.model.ensemble.plane_networks, *fusion)

    def restore(self, scan: CoarseScan, grid_of: Volume) -> Restored:
        """As `translate` does it; nothing but the scan and its operator is used."""
        section = self.model.section
        scale = fit_intensity_scale(scan.volume.data)
        measured = torch.from_numpy(np.ascontiguousarray(scale.normalise(scan.volume.data)))[None].to(self.device)
        acquisition = scan.acquisition
        inputs = ModelInputs(
            base_image(acquisition, measured, section), acquisition_vector(acquisition).to(self.device)
        )
        with inference_settings():
            result = restore(
                self.model.choose_rule(self.row.rule),
                self.model.schedule,
                inputs,
                self.plan,
                NoiseField(acquisition.full_shape, self.seed),
                acquisition if self.row.projected else None,
                measured if self.row.projected else None,
            )
        half_range = 0.5 * (scale.high - scale.low)
        deviation = None if result.deviation is None else result.deviation[0, 0].cpu() * half_range
        return Restored(scale.denormalise(result.mean[0, 0].cpu()), deviation)


def sampling_plans(bundle: Bundle, names: Sequence[str] | None = None) -> dict[str, SamplingPlan]:
    """Plans to run, by name: one step, then the bundle's presets; equal plans once. A regression has one plan.

    Args:
        bundle: whose presets.
        names: presets, numbers of steps, or "uncertainty"; None = one step and every preset.
    """
    presets = {name: SamplingPlan.from_preset(preset) for name, preset in bundle.section["presets"].items()}
    last = int(bundle.section["schedule"]["num_train_timesteps"]) - 1
    plans: dict[str, SamplingPlan] = {}
    presets["uncertainty"] = uncertainty_plan(bundle)
    if bundle.volume_kind == "regression":  # one answer, whatever other models in the table are asked for
        names = ["fast"]
    for name in names or [*bundle.section["presets"], "1"]:
        if name not in presets and not name.isdigit():
            msg = f"model {bundle.id!r} has no preset {name!r}; choose from {', '.join(presets)}, or a number of steps"
            raise RequestError(msg)
        plan = presets[name] if name in presets else SamplingPlan(steps=int(name))
        plan = replace(plan, start=last if plan.start is None else plan.start)
        if plan not in plans.values():
            plans[name] = plan
    return plans


def uncertainty_plan(bundle: Bundle) -> SamplingPlan:
    """The samples whose spread `translate` gives as uncertainty."""
    return SamplingPlan(**{**DEFAULT_UNCERTAINTY, **bundle.section.get("uncertainty", {})})


def learned_methods(
    bundle: Bundle,
    *,
    plans: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    prefix: str = "",
) -> list[Method]:
    """Every rule of `rule_rows` that the bundle can run, at every plan that makes sense for it."""
    if bundle.task != "super_resolution":
        msg = f"model {bundle.id!r} is a {bundle.task} model; this table is for super-resolution models"
        raise RequestError(msg)
    chosen = pick_device(device)
    model = load_model(bundle, chosen, pick_precision(precision, chosen))
    methods: list[Method] = []
    for plan_name, plan in sampling_plans(bundle, plans).items():
        for row in rule_rows(model):
            if row.rule == "alternating" and plan.steps == 1:
                continue  # one step is one plane
            if plan.steps * plan.samples > COSTLY and not (row.on_request or row.key in MAIN):
                continue
            methods.append(Learned(model, row, plan, plan_name, seed, chosen, prefix))
    return methods


def choose_methods(methods: Sequence[Method], wanted: Sequence[str]) -> list[Method]:
    """The rows asked for: `classical`, `model`, a key (`fusion+proj@fast`) or a rule at every plan (`fusion+proj`).

    Rows on request (`plane:axial`, `average:coronal+sagittal+proj`, `fusion-scores`) must be asked for by key.
    """
    usual = [method for method in methods if not (isinstance(method, Learned) and method.row.on_request)]
    if not wanted:
        return usual
    chosen = []
    known = sorted({m.key for m in methods} | {m.key.split("@")[0] for m in methods} | {"classical", "model"})
    for name in wanted:
        if name not in known:
            msg = f"there is no method {name!r}; choose from {', '.join(known)}"
            raise RequestError(msg)
    for method in methods:
        family = {method.family} if method in usual else set()
        if ({method.key, method.key.split("@")[0]} | family) & set(wanted):
            chosen.append(method)
    return chosen
