"""From a recipe to a bundle: the stages in order, each resumable, in one folder.

RUN/recipe.yaml            the complete recipe
RUN/<stage>/state.ckpt     to go on; average.safetensors, log.csv, tensorboard/, pictures/ beside it
RUN/maps.json              of a mapped condition
RUN/bundle/<name>          the model
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.store import find_bundle
from scorefusion.datasets.case import Case
from scorefusion.errors import RequestError
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.gate import STORED_NAME
from scorefusion.fusion.rules import FusionRule, PlaneAverage, ScoreFusion, VolumeOnly
from scorefusion.imaging.intensity_map import IntensityMaps
from scorefusion.progress import Reporter
from scorefusion.run.devices import pick_precision, settle_threads
from scorefusion.training.blocks import Block, BlockSource, Pool
from scorefusion.training.examine import gain_over_base, picture, save_picture
from scorefusion.training.export import export_bundle
from scorefusion.training.gate import GramMatrices, fit_gate, gram_matrix
from scorefusion.training.losses import Crop, FusionLoss, JointLoss, PlaneLoss, VolumeLoss
from scorefusion.training.maps import find_maps
from scorefusion.training.networks import make_ensemble, make_fusion, make_volume, warm_start, warm_start_conditions
from scorefusion.training.packed import PackedData, open_packed, pack, without
from scorefusion.training.recipe import Recipe, Stage, read_recipe
from scorefusion.training.trainer import Trainer, generator_for, load_average
from scorefusion.training.volumes import TrainingVolume, list_items, load_volumes, open_datalist

VALIDATION_BLOCKS = 4
VALIDATION_EDGE = 64
VALIDATION_STREAM = 10**6
FUSED = ("fusion", "volumes", "joint")  # stages that train the fusion network; a later one has the newer weights


@dataclass
class Run:
    """One training run.

    Args:
        recipe: what to do.
        folder: where; the same folder goes on where it stopped.
        fabric: devices and processes, launched.
        reporter: progress, warnings, cancellation.
        near: folder that relative paths of the recipe count from.
    """

    recipe: Recipe
    folder: Path
    fabric: Fabric
    reporter: Reporter
    near: Path | None = None

    def run(self, only: Sequence[str] = ()) -> Bundle | None:
        """All stages (or those named), then the bundle; None in processes other than the first."""
        self._keep_recipe()
        if self.fabric.is_global_zero:
            _ = self.maps  # one process fits and writes them, the others read
        self.fabric.barrier()
        for name, stage in self.recipe.stages.items():
            if not only or name in only:
                _STAGES[name](self, name, stage)
        return self.export() if self.fabric.is_global_zero else None

    # -- what the stages share

    @cached_property
    def precision(self) -> torch.dtype | None:
        """Number format inside the networks; None = float32."""
        wanted = {"auto": "auto", "32": "float32", "bf16": "bfloat16"}[self.recipe.precision]
        chosen = pick_precision(wanted, self.fabric.device)
        return None if chosen == torch.float32 else chosen

    @cached_property
    def _packed(self) -> PackedData | None:
        """The data, where the recipe names one file that holds it all; read once."""
        return open_packed(self.recipe, self.near)

    @cached_property
    def _cases(self) -> dict[str, tuple[Case, ...]]:
        datalist = open_datalist(self.recipe, self.near)
        if datalist is None:
            return {"train": (), "val": ()}
        learned = [case for split in self.recipe.data.train_on for case in datalist.cases(split)]
        return {"train": tuple(learned), "val": datalist.cases("val")}

    @cached_property
    def volumes(self) -> list[TrainingVolume]:
        """The training volumes, read once."""
        if self._packed is not None:
            return without(self._packed.train, self.recipe.data.leave_out)
        return load_volumes(self.recipe, self._cases["train"]) if self._cases["train"] else []

    @cached_property
    def validation_volumes(self) -> list[TrainingVolume]:
        """Those of the validation split; none, where the only person is left out."""
        if self._packed is not None:
            return without(self._packed.val, self.recipe.data.leave_out)
        usable = list_items(self.recipe, self._cases["val"])
        return load_volumes(self.recipe, self._cases["val"]) if usable else []

    @cached_property
    def held_out(self) -> list[Block]:
        """A few blocks of the validation split (of the training split if there is none): the same at every look."""
        volumes = self.validation_volumes or self.volumes
        edge = min(VALIDATION_EDGE, *self.recipe.data.block)
        source = BlockSource(
            self.recipe,
            volumes,
            (edge,) * 3,
            self._generator((edge,) * 3),
            augment=False,
            device=self.fabric.device,
            maps=self.maps,
        )
        return [source.draw(number, VALIDATION_STREAM) for number in range(VALIDATION_BLOCKS)]

    @cached_property
    def maps(self) -> IntensityMaps | None:
        """Of a mapped condition; None for any other base."""
        if not self.recipe.maps_conditions:
            return None
        edge = min(VALIDATION_EDGE, *self.recipe.data.block)
        names = [condition.name for condition in self.recipe.conditions]
        heads = BlockSource(self.recipe, (), (edge,) * 3, self._generator((edge,) * 3), augment=False)
        return find_maps(self.folder / "maps.json", self.volumes, names, heads.synthetic_head)

    def _generator(self, shape: tuple[int, int, int]) -> Any:
        """Of synthetic heads, if the recipe wants them."""
        synthetic = self.recipe.data.synthetic
        if synthetic is None:
            return None
        from scorefusion.training.synthetic import make_generator

        labels = () if self._packed is None else self._packed.labels
        return make_generator(self.recipe, shape, self.fabric.device, self.near, labels)

    def pack(self, path: Path, edge: int | None = None) -> int:
        """Write volumes and label maps into one file for a machine without them; returns its bytes."""
        labels = []
        if self.recipe.data.synthetic is not None:
            from scorefusion.training.synthetic import load_label_maps

            labels = load_label_maps(self.recipe, self.near)
        splits = tuple(self.volumes), tuple(self.validation_volumes)
        return pack(PackedData(*splits, tuple(labels), self.recipe.medians), path, edge)

    def source(self, name: str, stage: Stage) -> BlockSource:
        """Training blocks of a stage; stage `volumes` takes whole volumes, and no synthetic heads."""
        device = self.fabric.device
        if name == "volumes":
            return BlockSource(self.recipe, self.volumes, None, device=device, maps=self.maps)
        shape = self.recipe.data.block if stage.crop is None else (stage.crop,) * 3
        return BlockSource(self.recipe, self.volumes, shape, self._generator(shape), device=device, maps=self.maps)

    def train(
        self, name: str, stage: Stage, loss: torch.nn.Module, rule: FusionRule, make: Callable[[int, int], Any]
    ) -> None:
        """Run a stage's loop over a pool of samples, `make(number, stream)`."""
        pools: dict[int, Pool[Any]] = {}
        size = stage.pool or self.recipe.data.pool

        def feed(step: int, stream: int) -> Any:
            if stream not in pools:
                pools[stream] = Pool(lambda n: make(n, stream), size, stage.renew, self.recipe.seed, stream)
            return pools[stream].pick(step, stage.blocks)

        def examine(step: int) -> dict[str, float]:
            schedule = self.recipe.noise_schedule
            save_picture(picture(rule, self.held_out[0], schedule), self.folder / name / "pictures" / f"{step:07d}.png")
            return {"validation_gain_db": gain_over_base(rule, self.held_out, schedule)}

        trainer = Trainer(
            self.fabric,
            loss,
            stage,
            self.folder / name,
            seed=self.recipe.seed,
            name=name,
            reporter=self.reporter,
            examine=examine,
        )
        trainer.run(feed)

    def ensemble(self) -> PlaneEnsemble:
        """The plane networks as far as they are trained."""
        torch.manual_seed(self.recipe.seed)
        ensemble = make_ensemble(self.recipe)
        if not _load_under(ensemble, self.folder / "planes", "ensemble."):
            self._warm(ensemble)
        ensemble.autocast = self.precision
        return ensemble.to(self.fabric.device)

    def rule(self) -> ScoreFusion:
        """The fusion rule as far as it is trained."""
        rule = make_fusion(self.recipe, self.ensemble())
        trained = [_load_under(rule, self.folder / name, "rule.") for name in FUSED]
        if not any(trained):
            self._warm(rule)
            _load_under(rule.ensemble, self.folder / "planes", "ensemble.")  # newer than the warm start's
        path = self.folder / STORED_NAME / f"{STORED_NAME}.safetensors"
        if rule.gate is not None and path.exists():
            rule.gate.load_state_dict(load_file(path))
        return rule.to(self.fabric.device)

    def volume_rule(self) -> VolumeOnly:
        """The 3D network alone as far as it is trained."""
        torch.manual_seed(self.recipe.seed)
        rule = make_volume(self.recipe)
        if not _load_under(rule, self.folder / "volume", "rule."):
            self._warm(rule)
        rule.ensemble.autocast = self.precision
        return rule.to(self.fabric.device)

    def _warm(self, module: PlaneEnsemble | FusionRule) -> None:
        bundles = [find_bundle(name) for name in self.recipe.warm_starts]
        if not bundles:
            return
        if len(bundles) == 1:
            taken = warm_start(module, bundles[0], self.recipe.networks.base)
        elif isinstance(module, PlaneEnsemble):
            taken = warm_start_conditions(module, bundles, self.recipe.networks.base)
        else:
            return  # its ensemble has taken all that there is: models of one condition have no common fusion network
        self.reporter.log(f"warm start from {', '.join(self.recipe.warm_starts)}: {taken}")

    # -- the stages

    def planes(self, name: str, stage: Stage) -> None:
        """Stage 1: the plane networks, on slices."""
        ensemble = self.ensemble()
        ensemble.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        source = self.source(name, stage)
        loss = PlaneLoss(ensemble, self.recipe.noise_schedule, stage)
        self.train(name, stage, loss, PlaneAverage(ensemble), source.draw)

    def gate(self, name: str, stage: Stage) -> None:
        """Stage 2a: weights by acquisition. Closed form, so the first process does it alone."""
        path = self.folder / name / f"{name}.safetensors"
        if path.exists() or not self.fabric.is_global_zero:
            self.fabric.barrier()
            return
        ensemble = self.ensemble().eval()
        source, schedule, seed = self.source(name, stage), self.recipe.noise_schedule, self.recipe.seed
        parts = []
        for number in range(stage.blocks_to_fit):
            part = gram_matrix(ensemble, source.draw(number, 2), schedule, stage, generator_for(seed, number, 4))
            parts.extend([] if part is None else [part])
            self.reporter.progress(name, number + 1, stage.blocks_to_fit)
        rule = make_fusion(self.recipe, ensemble)
        assert rule.gate is not None
        fitted, held_out = fit_gate(rule.gate, GramMatrices.stack(parts), shrinkage=stage.shrinkage)
        self.reporter.log(f"gate: error over the plane average's {fitted:.4f}; on held-out blocks {held_out:.4f}")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(rule.gate.state_dict(), path)
        self.fabric.barrier()

    def fusion(self, name: str, stage: Stage) -> None:
        """Stage 2: the fusion network, on crops or (name `volumes`) on whole volumes; the plane networks are frozen."""
        rule = self.rule()
        frozen = [rule.ensemble, *([] if rule.gate is None else [rule.gate])]
        for module in frozen:
            module.eval().requires_grad_(False)
        rule.network.checkpointing = stage.checkpointing
        schedule = self.recipe.noise_schedule
        loss = FusionLoss(rule, schedule, stage)
        source = self.source(name, stage)
        seed = self.recipe.seed

        def make(number: int, stream: int) -> Crop:
            return loss.prepare(source.draw(number, stream), generator_for(seed, number, stream))

        self.train(name, stage, loss, rule, make)

    def joint(self, name: str, stage: Stage) -> None:
        """Stage 3: plane networks and fusion network together, on crops."""
        rule = self.rule()
        if rule.gate is not None:
            rule.gate.requires_grad_(False)
        rule.ensemble.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        source = self.source(name, stage)
        self.train(name, stage, JointLoss(rule, self.recipe.noise_schedule, stage), rule, source.draw)

    def volume(self, name: str, stage: Stage) -> None:
        """A 3D network alone: diffusion or regression."""
        rule = self.volume_rule()
        rule.network.checkpointing = stage.checkpointing
        source = self.source(name, stage)
        self.train(name, stage, VolumeLoss(rule, self.recipe.noise_schedule, stage), rule, source.draw)

    # -- in the end

    def export(self) -> Bundle:
        """Write the bundle from the averaged weights of all stages."""
        rule: FusionRule
        if "volume" in self.recipe.stages:
            rule = self.volume_rule()
        elif {STORED_NAME, *FUSED} & set(self.recipe.stages):
            rule = self.rule()
        else:
            rule = PlaneAverage(self.ensemble())
        folder = self.folder / "bundle" / self.recipe.name
        facts = {
            "recipe": self.recipe.to_share(),
            "subjects": sorted({volume.subject for volume in self.volumes}),
            "volumes": {volume.name: volume.weight for volume in self.volumes},
            "seconds": {name: round(_seconds(self.folder / name)) for name in self.recipe.stages},
            "device": str(self.fabric.device),
            "processes": self.fabric.world_size,
        }
        bundle = export_bundle(self.recipe, rule.eval(), folder, facts, near=self.near, maps=self.maps)
        self.reporter.log(f"bundle: {folder} ({bundle.size_bytes / 1e6:.1f} MB)")
        return bundle

    def _keep_recipe(self) -> None:
        path = self.folder / "recipe.yaml"
        if path.exists():
            changed = differences(read_recipe(path).model_dump(mode="json"), self.recipe.model_dump(mode="json"))
            fixed = [text for key, text in changed.items() if not key.startswith(("output.", "stages.", "data.cache"))]
            if fixed:
                msg = (
                    f"{self.folder} holds a run of another recipe ({'; '.join(fixed[:5])}); give another --out, "
                    "and --warm-start to take its weights over"
                )
                raise RequestError(msg)
        self.fabric.barrier()  # every process has read what is there, and goes on or stops like the others
        if self.fabric.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(self.recipe.to_yaml(), encoding="utf-8")
            partial.replace(path)
        self.fabric.barrier()


_STAGES: dict[str, Callable[[Run, str, Stage], None]] = {
    "planes": Run.planes,
    STORED_NAME: Run.gate,
    "fusion": Run.fusion,
    "volumes": Run.fusion,
    "joint": Run.joint,
    "volume": Run.volume,
}


def make_fabric(accelerator: str = "auto", devices: str = "1", nodes: int = 1, strategy: str = "auto") -> Fabric:
    """Devices, processes and threads. Under `torchrun` or SLURM, `devices` and `nodes` must say the same as they do."""
    settle_threads()
    count: int | str = int(devices) if devices.isdigit() else devices
    several = count != 1 and not (count == "auto" and torch.cuda.device_count() < 2)
    if strategy == "ddp" or several or nodes > 1:
        # A missing optional condition leaves the networks that look at it alone out of a step.
        strategy = "ddp_find_unused_parameters_true"
    # Precision is lowered in one place only, `networks.precision`: Fabric stays in float32.
    return Fabric(accelerator=accelerator, devices=count, num_nodes=nodes, strategy=strategy, precision="32-true")


def differences(before: Any, after: Any, where: str = "") -> dict[str, str]:
    """What differs between two recipes, by key: `before -> after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        found: dict[str, str] = {}
        for key in sorted({*before, *after}):
            found |= differences(before.get(key), after.get(key), f"{where}.{key}" if where else str(key))
        return found
    return {} if before == after else {where: f"{where}: {before} -> {after}"}


def _load_under(module: torch.nn.Module, folder: Path, prefix: str) -> bool:
    """Averaged weights of a stage whose loss held `module` under `prefix`."""

    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, prefix.rstrip("."), module)

    return load_average(Holder(), folder)


def _seconds(folder: Path) -> float:
    """Training time on a stage's clock."""
    path = folder / "state.ckpt"
    return float(torch.load(path, map_location="cpu", weights_only=True)["seconds"]) if path.exists() else 0.0
