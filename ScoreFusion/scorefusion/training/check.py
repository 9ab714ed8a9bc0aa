"""`scorefusion train --check`: what is missing or wrong, and what the training will take, before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scorefusion.bundle.store import find_bundle
from scorefusion.datasets.inspect import Problem, inspect
from scorefusion.errors import RequestError, ScoreFusionError
from scorefusion.networks.unet import UNet, count_parameters
from scorefusion.run.devices import pick_device, pick_precision
from scorefusion.run.memory import available_memory
from scorefusion.training.networks import make_ensemble, make_fusion, make_volume
from scorefusion.training.packed import PackedData, open_packed
from scorefusion.training.recipe import Recipe, Stage
from scorefusion.training.run import FUSED
from scorefusion.training.throughput import BACKWARD, convolution_rate, step_flops
from scorefusion.training.volumes import list_items, open_datalist

ADAM = 16  # bytes a parameter: weight, average, two moments
ACTIVATION_BYTES = {None: 4, torch.bfloat16: 2}
#: Activations kept for the backward pass, in channels of the first level at its resolution: measured on both sizes.
KEPT_CHANNELS = 40
LIBRARIES = 0.6e9  # bytes of torch and MONAI themselves


@dataclass
class CheckReport:
    """What `--check` found.

    Attributes:
        problems: errors and warnings, with where they are.
        facts: what is in order, in words.
        memory: estimated bytes by purpose.
        hours: estimated hours by stage.
    """

    problems: list[Problem] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    hours: dict[str, float] = field(default_factory=dict)

    @property
    def errors(self) -> list[Problem]:
        """Problems that stop the training."""
        return [problem for problem in self.problems if problem.kind == "error"]

    def text(self) -> str:
        """For a terminal."""
        lines = [f"  {fact}" for fact in self.facts]
        lines += [f"  {problem.kind.upper()}: {problem.where}: {problem.message}" for problem in self.problems]
        total = sum(self.memory.values())
        parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in self.memory.items())
        lines.append(f"  memory: about {total / 2**30:.1f} GiB ({parts})")
        for name, hours in self.hours.items():
            lines.append(f"  stage {name}: about {hours:.2f} h")
        lines.append("Ready to train." if not self.errors else f"{len(self.errors)} error(s): put them right first.")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        problems = [{"kind": p.kind, "where": p.where, "message": p.message} for p in self.problems]
        return {"problems": problems, "facts": self.facts, "memory": self.memory, "hours": self.hours}

    def raise_if_wrong(self) -> None:
        """RequestError unless all is well."""
        if self.errors:
            msg = f"{len(self.errors)} problem(s) found; the first: {self.errors[0].where}: {self.errors[0].message}"
            raise RequestError(msg)


def check_recipe(recipe: Recipe, near: Path | None = None) -> CheckReport:
    """Look at recipe, data, memory and time; trains nothing and reads no voxels beyond one pass for NaN and range."""
    report = CheckReport()
    _check_data(recipe, near, report)
    _check_networks(recipe, report)
    device = pick_device("auto")
    available = available_memory(device)
    needed = sum(report.memory.values())
    if needed > available:
        report.problems.append(
            Problem(
                "error",
                "memory",
                f"about {needed / 2**30:.1f} GiB are needed, {available / 2**30:.1f} GiB are free on {device}; use "
                "smaller stages.*.blocks or data.block, 'checkpointing: true', or networks.size compact",
            )
        )
    return report


def _check_data(recipe: Recipe, near: Path | None, report: CheckReport) -> None:
    try:
        packed = open_packed(recipe, near)
        datalist = open_datalist(recipe, near, strict=False) if packed is None else None
    except ScoreFusionError as error:
        report.problems.append(Problem("error", "data.datalist", str(error)))
        return
    if packed is not None:
        _describe_packed(packed, report)
        return
    if datalist is None:
        report.facts.append("data: synthetic heads only")
        return
    needed = {key for condition in recipe.conditions for key in condition.contrasts} | set(recipe.target.contrasts)
    report.problems += inspect(datalist, sorted(needed), super_resolution=recipe.task == "super_resolution", min_size=8)
    for split in ("train", "val"):
        cases = datalist.cases(split)
        items = list_items(recipe, cases)
        people = len({item.subject for item in items})
        report.facts.append(f"{split}: {len(items)} volumes of {people} persons ({len(cases)} cases in the datalist)")
        if split == "train":
            size = sum(path.stat().st_size for item in items for path in item.files if path and path.exists())
            report.memory["volumes in memory"] = 4.0 * size  # float16 against gzip, measured on 1 mm heads
            if not items:
                report.problems.append(
                    Problem("error", "data", "no case of the training split has all that the recipe asks for")
                )
        elif not items:
            report.problems.append(
                Problem("warning", "data", "no validation case: progress will be judged on training volumes")
            )


def _describe_packed(packed: PackedData, report: CheckReport) -> None:
    for split, volumes in (("train", packed.train), ("val", packed.val)):
        people = len({volume.subject for volume in volumes})
        report.facts.append(f"{split}: {len(volumes)} packed volumes of {people} persons")
    report.memory["volumes in memory"] = float(sum(volume.data.nbytes for volume in packed.train))


def _check_networks(recipe: Recipe, report: CheckReport) -> None:
    device = pick_device("auto")
    chosen = pick_precision({"auto": "auto", "32": "float32", "bf16": "bfloat16"}[recipe.precision], device)
    dtype = None if chosen == torch.float32 else chosen
    for name in recipe.warm_starts:
        try:
            report.facts.append(f"warm start: {find_bundle(name).id}")
        except ScoreFusionError as error:
            report.problems.append(Problem("error", "warm_start", str(error)))
    with torch.device("meta"):
        try:
            ensemble = make_ensemble(recipe)
            networks: dict[str, UNet] = {"planes": ensemble.plane_networks[0]}
            parameters = count_parameters(ensemble)
            if {"fusion", "volumes", "joint"} & set(recipe.stages):
                rule = make_fusion(recipe, ensemble)
                networks["fusion"] = networks["volumes"] = networks["joint"] = rule.network
                parameters += count_parameters(rule.network)
            if "volume" in recipe.stages:
                networks["volume"] = make_volume(recipe).network
                parameters = count_parameters(networks["volume"])
        except ScoreFusionError as error:
            report.problems.append(Problem("error", "networks", str(error)))
            return
    report.facts.append(f"networks: {parameters / 1e6:.2f} M parameters")
    report.memory["libraries"] = LIBRARIES
    report.memory["weights and optimiser"] = ADAM * parameters
    peaks = []
    for name, stage in recipe.stages.items():
        if name == "prior":
            continue
        network = networks[name]
        shape = _batch_shape(recipe, name, stage, network)
        stem = network.config.stem_factor**network.config.spatial_dims
        pixels = shape[0] * _product(shape[2:]) / stem
        kept = pixels * network.config.channels[0] * KEPT_CHANNELS * ACTIVATION_BYTES[dtype]
        peaks.append(kept / (5 if stage.checkpointing else 1) / (stage.blocks if name != "planes" else 1))
        if stage.minutes is not None:
            report.hours[name] = stage.minutes / 60.0
        else:
            assert stage.steps is not None
            seconds = _seconds(name, network, shape, _flops(recipe, name, stage, networks, shape), report)
            report.hours[name] = stage.steps * seconds / 3600.0
    report.memory["activations"] = max(peaks, default=0.0)
    block = 4.0 * _product(recipe.data.block) * (len(recipe.conditions) + 1)
    report.memory["blocks in stock"] = recipe.data.pool * block


def _flops(recipe: Recipe, name: str, stage: Stage, networks: dict[str, UNet], shape: tuple[int, ...]) -> float:
    """Operations of an optimiser step; a fused stage also asks the plane networks about every new crop."""
    flops = step_flops(networks[name], shape) * stage.accumulate
    if name in FUSED:
        planes = networks["planes"]
        # One forward pass for a new crop; forward and backward where the plane networks learn, too.
        passes = stage.blocks * stage.accumulate if name == "joint" else stage.renew * stage.accumulate / BACKWARD
        slices = shape[2] * len(recipe.networks.planes)
        flops += passes * step_flops(planes, (slices, planes.config.in_channels, *shape[3:]))
    return flops


def _seconds(name: str, network: UNet, shape: tuple[int, ...], flops: float, report: CheckReport) -> float:
    """A step's least time at the rate of this machine's convolutions."""
    config, device = network.config, pick_device("auto")
    dtype = pick_precision("auto", device)
    spatial = tuple(size // config.stem_factor for size in shape[2:])
    batch = shape[0] if name == "planes" else 1
    lowered = None if dtype == torch.float32 else dtype
    rate = convolution_rate(config.channels[0], spatial, batch, lowered, device, tries=3)
    report.facts.append(f"stage {name}: {rate / 1e9:.0f} GFLOP/s on {device}, at least {flops / rate:.2f} s a step")
    return flops / rate


def _batch_shape(recipe: Recipe, name: str, stage: Stage, network: UNet) -> tuple[int, ...]:
    """What one forward pass sees."""
    block = recipe.data.block if stage.crop is None else (stage.crop,) * 3
    if name == "planes":
        count = stage.blocks * stage.slices * len(recipe.networks.planes)
        return (count, network.config.in_channels, block[0], block[1])
    return (stage.blocks, network.config.in_channels, *block)


def _product(values: tuple[int, ...]) -> int:
    result = 1
    for value in values:
        result *= value
    return result
