"""A bundle's networks as rows of the table: each fusion rule, with and without projection, at the presets' plans.

The published baselines (one plane, plane average, alternating planes) run on the same networks with the same steps,
base image and noise, so that a difference between rows is a difference between rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from scorefusion.bundle import Bundle
from scorefusion.errors import RequestError
from scorefusion.evaluation.benchmark import Method, Restored
from scorefusion.evaluation.simulate import CoarseScan
from scorefusion.fusion import ModelInputs, ScoreFusion, acquisition_vector
from scorefusion.intensity import fit_intensity_scale
from scorefusion.model import Model, load_model
from scorefusion.pipeline import DEFAULT_UNCERTAINTY
from scorefusion.restore import NoiseField, SamplingPlan, base_image, restore
from scorefusion.runtime import inference_settings, pick_device, pick_precision
from scorefusion.volume import Volume

#: Rules in the table: (key, label, fusion rule's name, projection). One plane: the coronal one, which cuts across
#: axial slices and so sees the axis that a thick-slice scan lacks.
RULES: tuple[tuple[str, str, str, bool], ...] = (
    ("plane", "one plane (coronal)", "coronal", False),
    ("plane+proj", "one plane + projection", "coronal", True),
    ("alternating+proj", "alternating planes + projection", "alternating", True),
    ("average", "plane average", "average", False),
    ("average+proj", "plane average + projection", "average", True),
    ("fusion", "fusion", "fusion", False),
    ("fusion+proj", "fusion + projection", "fusion", True),
)


#: Plans of more evaluations than this run with the two main rules only.
COSTLY = 12


@dataclass(frozen=True, eq=False)
class Learned:
    """One rule at one sampling plan."""

    model: Model
    rule_key: str
    rule_label: str
    rule_name: str
    projected: bool
    plan: SamplingPlan
    plan_name: str
    seed: int
    device: torch.device
    prefix: str = ""  # names the model where several are compared

    @property
    def key(self) -> str:
        return f"{self.prefix}{self.rule_key}@{self.plan_name}"

    @property
    def label(self) -> str:
        samples = f", {self.plan.samples} samples" if self.plan.samples > 1 else ""
        steps = f"{self.plan.steps} step{'s' if self.plan.steps > 1 else ''}"
        preset = "" if self.plan_name.isdigit() else f"{self.plan_name}: "
        return f"{self.prefix}{self.rule_label} ({preset}{steps}{samples})"

    @property
    def family(self) -> str:
        return "model"

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        rule = self.model.choose_rule(self.rule_name)
        fusion = (rule.network,) if isinstance(rule, ScoreFusion) else ()
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
                self.model.choose_rule(self.rule_name),
                self.model.schedule,
                inputs,
                self.plan,
                NoiseField(acquisition.full_shape, self.seed),
                acquisition if self.projected else None,
                measured if self.projected else None,
            )
        half_range = 0.5 * (scale.high - scale.low)
        deviation = None if result.deviation is None else result.deviation[0, 0].cpu() * half_range
        return Restored(scale.denormalise(result.mean[0, 0].cpu()), deviation)


def sampling_plans(bundle: Bundle, names: Sequence[str] | None = None) -> dict[str, SamplingPlan]:
    """Plans to run, by name: one step, then the bundle's presets; equal plans once.

    Args:
        bundle: whose presets.
        names: presets, numbers of steps, or "uncertainty"; None = one step and every preset.
    """
    presets = {name: SamplingPlan.from_preset(preset) for name, preset in bundle.section["presets"].items()}
    last = int(bundle.section["schedule"]["num_train_timesteps"]) - 1
    plans: dict[str, SamplingPlan] = {}
    presets["uncertainty"] = uncertainty_plan(bundle)
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
    """Every rule of `RULES` that the bundle can run, at every plan."""
    if bundle.task != "super_resolution":
        msg = f"model {bundle.id!r} is a {bundle.task} model; this table is for super-resolution models"
        raise RequestError(msg)
    chosen = pick_device(device)
    model = load_model(bundle, chosen, pick_precision(precision, chosen))
    has_fusion = isinstance(model.rule, ScoreFusion)
    planes = {member.plane.value for member in model.ensemble.members}
    methods: list[Method] = []
    for plan_name, plan in sampling_plans(bundle, plans).items():
        for key, label, rule, projected in RULES:
            if (rule == "fusion" and not has_fusion) or (rule == "coronal" and rule not in planes):
                continue
            if rule == "alternating" and plan.steps == 1:
                continue  # one step is one plane
            if plan.steps * plan.samples > COSTLY and key not in ("average+proj", "fusion+proj"):
                continue
            methods.append(Learned(model, key, label, rule, projected, plan, plan_name, seed, chosen, prefix))
    return methods


def choose_methods(methods: Sequence[Method], wanted: Sequence[str]) -> list[Method]:
    """The rows asked for: `classical`, `model`, a key (`fusion+proj@fast`) or a rule at every plan (`fusion+proj`)."""
    if not wanted:
        return list(methods)
    chosen = []
    known = sorted({m.key for m in methods} | {m.key.split("@")[0] for m in methods} | {"classical", "model"})
    for name in wanted:
        if name not in known:
            msg = f"there is no method {name!r}; choose from {', '.join(known)}"
            raise RequestError(msg)
    for method in methods:
        if {method.key, method.key.split("@")[0], method.family} & set(wanted):
            chosen.append(method)
    return chosen
