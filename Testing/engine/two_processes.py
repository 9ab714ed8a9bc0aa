"""Run by test_training_trainer.py: a whole run of a tiny recipe whose steps do not use all networks, on one process or
two (gloo), stopped after the plane networks and resumed.

python two_processes.py FOLDER ACCUMULATE PROCESSES        (FOLDER holds scans.safetensors)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from scorefusion.progress import Reporter
from scorefusion.training.recipe import parse_recipe
from scorefusion.training.run import Run, make_fabric

STAGE = {"blocks": 1, "learning_rate": 1e-2, "warmup_steps": 2, "picture_minutes": 1000}
NETWORK = {"channels": [8, 12], "embedding_size": 16}
RECIPE = {
    "name": "tiny",
    "task": "translation",
    "conditions": [{"name": "t1", "contrasts": ["t1"]}, {"name": "t2", "contrasts": ["t2"], "optional": True}],
    "target": {"name": "flair", "contrasts": ["flair"]},
    "networks": {
        "plane": NETWORK,
        "fusion": NETWORK,
        "slab_radius": 1,
        "per_condition": True,
        "base": "mapped_condition",
        "residual_gain": 2.0,
    },
    "data": {"datalist": "scans.safetensors", "block": [24, 24, 24], "pool": 2},
}


def main(folder: Path, accumulate: int, processes: int) -> None:
    torch.set_num_threads(1)
    stage = {**STAGE, "accumulate": accumulate}
    stages = {"planes": {**stage, "slices": 1, "steps": 3}, "joint": {**stage, "crop": 16, "margin": 2, "steps": 3}}

    def work(fabric: object) -> None:
        for planes, joint in ((3, 1), (5, 2)):  # the second time both stages go on where they stopped
            stages["planes"]["steps"], stages["joint"]["steps"] = planes, joint
            recipe = parse_recipe({**RECIPE, "stages": stages}, "tiny")
            Run(recipe, folder / "run", fabric, Reporter(), near=folder).run()

    fabric = make_fabric("cpu", str(processes), strategy="ddp" if processes > 1 else "auto")
    fabric.launch(work)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
