"""The rules of a translation bundle as rows: what `translate` does, at the presets' plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import Model, load_model
from scorefusion.diffusion.noise import NoiseField
from scorefusion.errors import RequestError
from scorefusion.evaluation.learned import COSTLY, Learned, RuleRow, rule_rows, sampling_plans
from scorefusion.evaluation.translation.methods import Translator
from scorefusion.evaluation.translation.pairs import Pair, to_unit
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.tiling import at
from scorefusion.imaging.foreground import foreground_box, foreground_mask
from scorefusion.imaging.intensity_map import clear_background, read_maps
from scorefusion.run.devices import inference_settings, pick_device, pick_precision
from scorefusion.run.prepare import FOREGROUND_MARGIN_MM, as_magnitude
from scorefusion.run.request import SamplingPlan
from scorefusion.run.restore import restore

#: Rules that run at costly plans, too.
MAIN = ("average", "fusion", "volume")


def learned_translators(
    bundle: Bundle,
    *,
    plane: Plane = Plane.AXIAL,
    single_slices: bool = False,
    plans: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    prefix: str = "",
) -> list[Translator]:
    """Every rule that the bundle can run, at every plan that makes sense for it.

    Args:
        plane: of the slices that are scored; the row "one plane" looks along it.
        single_slices: there are no volumes, so only that row has anything to see.
        prefix: before keys and labels, where several models are compared.

    Raises:
        RequestError: single slices of a plane that the model does not look along.
    """
    chosen = pick_device(device)
    model = load_model(bundle, chosen, pick_precision(precision, chosen))
    rows = translation_rules(model, plane)
    if single_slices:
        rows = [row for row in rows if row.rule == plane.value]
        if not rows:
            has = ", ".join(p.value for p in model.planes) or "none, it is a 3D network"
            msg = f"model {bundle.id!r} has no {plane.value} network for single {plane.value} slices; its planes: {has}"
            raise RequestError(msg)
    found = []
    if not single_slices and read_maps(bundle.section) is not None:
        label = f"{prefix}brightness map (what the networks start from)"
        found.append(Translator(f"{prefix}map", label, "baseline", partial(start_image, model)))
    for plan_name, plan in sampling_plans(bundle, plans).items():
        for row in rows:
            if row.rule == "alternating" and plan.steps == 1:
                continue  # one step is one plane
            if plan.steps * plan.samples > COSTLY and row.key not in MAIN and not (single_slices or row.on_request):
                continue
            named = Learned(model, row, plan, plan_name, seed, chosen, prefix)
            work = partial(run_rule, model, row.rule, plan, seed, chosen)
            found.append(Translator(named.key, named.label, "model", work, named.modules, chosen, row.on_request))
    return found


def translation_rules(model: Model, plane: Plane) -> list[RuleRow]:
    """The rules of the other table without their projection: nothing of the target was measured."""
    rules: dict[str, RuleRow] = {}
    if plane in model.planes:
        rules["plane"] = RuleRow("plane", f"one plane ({plane.value})", plane.value, projected=False)
    for row in rule_rows(model):
        key, label = row.key.removesuffix("+proj"), row.label.removesuffix(" + projection")
        if key not in (*rules, "plane", f"plane:{plane.value}"):
            rules[key] = dataclasses.replace(row, key=key, label=label, projected=False)
    return list(rules.values())


def run_rule(model: Model, rule: str, plan: SamplingPlan, seed: int, device: torch.device, pair: Pair) -> Tensor:
    """`(I, J, K)` in the target's range [0, 1], as `translate` gives it: sampled in the box around the base's
    foreground, the base itself outside of it."""
    margin = max(1, round(FOREGROUND_MARGIN_MM / min(pair.base.spacing)))
    box = foreground_box(foreground_mask(pair.base.data), margin)
    inputs = _inputs(model, pair)
    boxed = dataclasses.replace(inputs, conditions=inputs.conditions[at(box.slices)].to(device))
    noise = NoiseField(pair.base.spatial_shape, seed, box.slices)
    with inference_settings():
        result = restore(model.choose_rule(rule), model.schedule, boxed, plan, noise)
    base = _first(inputs)
    whole = base.clone()
    whole[box.slices] = result.mean[0, 0].cpu()
    return to_unit(as_magnitude(whole, base))


def start_image(model: Model, pair: Pair) -> Tensor:
    """`(I, J, K)` in the target's range [0, 1]: what brightness alone says, by the model's own map."""
    inputs = _inputs(model, pair)
    return to_unit(as_magnitude(inputs.base[0, 0], _first(inputs)))


def _inputs(model: Model, pair: Pair) -> ModelInputs:
    """The whole volume as the networks see it."""
    maps = read_maps(model.section)
    names = [condition["name"] for condition in model.section["conditions"]]
    known = pair.sources if maps is None else {name: clear_background(x) for name, x in pair.sources.items()}
    channels = [known.get(name, torch.full(pair.base.spatial_shape, -1.0)) for name in names]
    return ModelInputs(torch.stack(channels)[None], present=tuple(name in known for name in names), maps=maps)


def _first(inputs: ModelInputs) -> Tensor:
    """`(I, J, K)` the first condition that is there."""
    return inputs.conditions[0, inputs.available[0]]
