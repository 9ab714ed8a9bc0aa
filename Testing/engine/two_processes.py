"""Run by test_training_trainer.py: plane networks of a tiny recipe, on one process or two (gloo).

python two_processes.py FOLDER ACCUMULATE PROCESSES
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from scorefusion.progress import Reporter
from scorefusion.training.blocks import BlockSource
from scorefusion.training.losses import PlaneLoss
from scorefusion.training.networks import make_ensemble
from scorefusion.training.recipe import parse_recipe
from scorefusion.training.run import make_fabric
from scorefusion.training.trainer import Trainer
from scorefusion.training.volumes import TrainingVolume

RECIPE = {
    "name": "tiny",
    "task": "super_resolution",
    "conditions": [{"name": "image", "coarse": True}],
    "networks": {"plane": {"channels": [8, 12], "embedding_size": 16}, "slab_radius": 1},
    "data": {"block": [24, 24, 24]},
    "stages": {"planes": {"steps": 6, "blocks": 1, "slices": 1, "learning_rate": 1e-2, "warmup_steps": 2}},
}


def main(folder: Path, accumulate: int, processes: int) -> None:
    torch.set_num_threads(1)
    recipe = parse_recipe(RECIPE, "tiny")
    stage = recipe.stages["planes"].model_copy(update={"accumulate": accumulate})
    data = torch.rand(1, 32, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    source = BlockSource(recipe, [TrainingVolume("a", "a", ("t1",), data.half().numpy())], (24, 24, 24))

    def work(fabric) -> None:
        torch.manual_seed(0)
        loss = PlaneLoss(make_ensemble(recipe), recipe.noise_schedule, stage)
        trainer = Trainer(fabric, loss, stage, folder, seed=0, name="planes", reporter=Reporter())
        trainer.run(lambda step, stream: [source.draw(step, stream)])

    fabric = make_fabric("cpu", str(processes), strategy="ddp" if processes > 1 else "auto")
    fabric.launch(work)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
