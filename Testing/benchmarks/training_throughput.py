"""Slices a second of plane training, beside the floor that this machine's convolutions set.

    python Testing/benchmarks/training_throughput.py [--recipe brain-sr] [--steps 20]

Prints a Markdown table: the network's step alone, and the whole step with its data (blocks cut, measured and
back-projected on the same processor). Made scans are used, so no data is needed.
"""

from __future__ import annotations

import argparse
import json

import torch

from scorefusion.evaluation.meter import describe_machine
from scorefusion.run.devices import pick_device, pick_precision
from scorefusion.training.blocks import BlockSource, Pool
from scorefusion.training.losses import PlaneLoss
from scorefusion.training.networks import make_ensemble
from scorefusion.training.recipe import read_recipe
from scorefusion.training.throughput import Throughput, convolution_rate, step_flops, timed
from scorefusion.training.trainer import generator_for
from scorefusion.training.volumes import TrainingVolume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="brain-sr")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    device = pick_device(options.device)
    recipe = read_recipe(options.recipe)
    stage = recipe.stages["planes"]
    precision = pick_precision("auto", device)
    dtype = None if precision == torch.float32 else precision
    ensemble = make_ensemble(recipe).to(device)
    ensemble.to(memory_format=torch.channels_last)
    ensemble.autocast = dtype
    network = ensemble.plane_networks[0]
    loss = PlaneLoss(ensemble, recipe.noise_schedule, stage)
    optimizer = torch.optim.AdamW(ensemble.parameters(), lr=1e-4)

    data = torch.rand(1, 160, 192, 160, generator=torch.Generator().manual_seed(0)) * 2 - 1
    volume = TrainingVolume("made", "made", ("t1",), data.half().numpy())
    source = BlockSource(recipe, [volume], recipe.data.block, device=device)
    pool = Pool(source.draw, recipe.data.pool, stage.renew, 0, 0)
    pool.pick(0, stage.blocks)

    slices = stage.blocks * stage.slices * len(recipe.planes)
    shape = (slices, network.config.in_channels, *recipe.data.block[:2])
    flops = step_flops(network, shape)
    config = network.config
    rate = max(
        convolution_rate(c, tuple(n // (config.stem_factor * 2**level) for n in shape[2:]), slices, dtype, device)
        for level, c in enumerate(config.channels)
    )
    inputs = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    level = torch.zeros(slices, device=device)
    context = torch.zeros(slices, config.context_size, device=device) if config.context_size else None
    step = 0

    def learn(value: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(ensemble.parameters(), stage.clip)
        optimizer.step()

    def network_only() -> None:
        with ensemble.precision(inputs):
            prediction = network(inputs, level, context)[0]
        learn(prediction.float().square().mean())

    def whole() -> None:
        nonlocal step
        step += 1
        learn(loss(pool.pick(step, stage.blocks), generator_for(0, step)))

    rows = {}
    for name, work in (("network alone", network_only), ("with its data", whole)):
        seconds = timed(work, device, options.steps)
        rows[name] = Throughput(slices, flops / rate, seconds, rate)
    print(f"{describe_machine(device)}, {torch.get_num_threads()} threads, {precision}".replace("torch.", ""))  # noqa: T201
    print(f"recipe {recipe.name}: {slices} slices of {shape[2]} x {shape[3]} a step, {flops / 1e9:.0f} GFLOP")  # noqa: T201
    print("\n| step | s | slices/s | floor slices/s | share of the floor |\n|---|---|---|---|---|")  # noqa: T201
    for name, row in rows.items():
        share = 100 * row.floor_s / row.seconds
        cells = f"{row.seconds:.3f} | {slices / row.seconds:.0f} | {slices / row.floor_s:.0f} | {share:.0f} %"
        print(f"| {name} | {cells} |")  # noqa: T201
    facts = {name: {"seconds": row.seconds, "floor_s": row.floor_s, "rate": row.rate} for name, row in rows.items()}
    print(json.dumps(facts))  # noqa: T201


if __name__ == "__main__":
    main()
