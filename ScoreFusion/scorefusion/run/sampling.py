"""One run's sampling: from a prepared request to images on its box, in pieces that fit into memory, with progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from scorefusion.bundle.bounds import DEFAULT_UNCERTAINTY
from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import Model
from scorefusion.diffusion.noise import NoiseField
from scorefusion.errors import OutOfMemory, RequestError
from scorefusion.fusion.rules import FusionRule
from scorefusion.progress import Reporter
from scorefusion.run.ends import Ends
from scorefusion.run.memory import is_out_of_memory
from scorefusion.run.pieces import choose_pieces, patient
from scorefusion.run.prepare import Prepared
from scorefusion.run.request import SamplingPlan
from scorefusion.run.restore import Restoration, restore


def choose_plan(bundle: Bundle, preset: str, steps: int | None, samples: int | None, uncertainty: bool) -> SamplingPlan:
    """A preset of the bundle, with what replaces its numbers."""
    presets = bundle.section["presets"]
    if preset not in presets:
        msg = f"Model '{bundle.id}' has no preset '{preset}'; choose one of {', '.join(presets)}."
        raise RequestError(msg)
    plan = SamplingPlan.from_preset(presets[preset])
    if steps is not None:
        plan = dataclasses.replace(plan, steps=steps)
    if samples is not None:
        plan = dataclasses.replace(plan, samples=samples)
    if bundle.volume_kind == "regression" and (uncertainty or max(plan.steps, plan.samples) > 1):
        msg = (
            f"Model '{bundle.id}' is a regression: it has one answer, without steps, samples or uncertainty. "
            "Ask for one step and no uncertainty, or choose a diffusion model."
        )
        raise RequestError(msg)
    return plan


def sample_prepared(
    model: Model,
    rule: FusionRule,
    request: Prepared,
    plan: SamplingPlan,
    seed: int,
    device: torch.device,
    report: Reporter,
    tile: int | tuple[int, int, int] | None = None,
    uncertainty: bool = False,
) -> tuple[Restoration, Restoration | None]:
    """Sample what was prepared, in tiles where memory asks for it: the one way to a result, for users and for tables.

    Returns:
        The result on the request's box, and the run whose spread is the uncertainty (None unless asked for).

    Raises:
        OutOfMemory: the device cannot hold the work.
    """
    with memory_errors(device):
        choose_pieces(rule, Ends.of(request.inputs.region).extend(request.inputs), device, tile, report)
        return _Run(model, rule, request, seed, device, report).sample(plan, uncertainty)


@contextmanager
def memory_errors(device: torch.device | str) -> Iterator[None]:
    """Words for what a device says when it is full."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        msg = (
            f"{device} ran out of memory, in smaller pieces, too. Close other programs, crop the volume around the "
            "head, use rule='average' (without the 3D network), or device='cpu'."
        )
        raise OutOfMemory(msg) from error


def uncertainty_plan(bundle: Bundle) -> SamplingPlan:
    """The bundle's short sampling for spread: one evaluation alone has none."""
    return SamplingPlan(**{**DEFAULT_UNCERTAINTY, **bundle.section.get("uncertainty", {})})


@dataclass
class _Run:
    """Networks, request and listener of one run."""

    model: Model
    rule: FusionRule
    request: Prepared
    seed: int
    device: torch.device
    report: Reporter

    def sample(self, plan: SamplingPlan, uncertainty: bool) -> tuple[Restoration, Restoration | None]:
        """The result, and the run whose spread is the uncertainty (the same one where the plan has several samples)."""
        plans = [plan]
        if uncertainty and plan.samples < 2:
            plans.append(uncertainty_plan(self.model.bundle))
        total = float(sum(p.samples * p.steps for p in plans))
        results = []
        done = 0
        for number, current in enumerate(plans):
            stage = "sampling" if number == 0 else "uncertainty"
            results.append(self._restore(current, stage, done, total))
            done += current.samples * current.steps
        if not uncertainty:
            return results[0], None
        return results[0], results[-1]

    def _restore(self, plan: SamplingPlan, stage: str, done: int, total: float) -> Restoration:
        voxels = float(np.prod(self.request.box.shape))
        passes = self.rule.passes(self.request.inputs)
        state = {"evaluations": done, "voxels": 0.0}

        def advance(count: int) -> None:
            state["voxels"] += count
            inside = min(0.99, state["voxels"] / (passes * voxels))
            self.report.progress(stage, round(state["evaluations"] + inside, 3), total)

        def on_step(finished: int, _: int) -> None:
            state["evaluations"], state["voxels"] = done + finished, 0.0
            self.report.progress(stage, state["evaluations"], total)

        self.rule.ensemble.on_work = advance
        inputs = self.request.inputs
        moved = dataclasses.replace(
            inputs,
            conditions=inputs.conditions.to(self.device),
            acquisition=None if inputs.acquisition is None else inputs.acquisition.to(self.device),
        )
        measured = self.request.box_measured
        noise = NoiseField(self.request.target.spatial_shape, self.seed, self.request.box.slices)
        result = restore(
            self.rule,
            self.model.schedule,
            moved,
            plan,
            noise,
            self.request.box_acquisition,
            None if measured is None else measured.to(self.device),
            on_step,
            Ends.of(inputs.region).around(patient(self.rule, self.report), moved),
        )
        return dataclasses.replace(
            result,
            mean=result.mean.cpu(),
            deviation=None if result.deviation is None else result.deviation.cpu(),
        )
