"""How long a model will take on this machine."""

from __future__ import annotations

import math
import time

TYPICAL_HEAD_MM = (180, 220, 180)
"""The box around an adult head, for estimates of time and memory."""
_MEASURE_SECONDS = 0.3


def measure_conv_rate(device: str) -> float:
    """Billions of multiplications and additions a second in convolutions like those of the networks."""
    import torch

    channels, height, width, batch = 32, 96, 128, 4
    x = torch.randn(batch, channels, height, width, device=device)
    weight = torch.randn(channels, channels, 3, 3, device=device)
    flop = 2 * 9 * channels * channels * height * width * batch

    def seconds_for(rounds: int) -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            for _ in range(rounds):
                result = torch.nn.functional.conv2d(x, weight, padding=1)
            result.flatten()[0].item()  # waits for the GPU
        return time.perf_counter() - begin

    best = min(seconds_for(2), seconds_for(2))  # also warms up
    rounds = max(1, min(2000, int(_MEASURE_SECONDS / max(best / 2, 1e-6))))
    return round(flop * rounds / seconds_for(rounds) / 1e9, 1)


def expected_seconds(gflop_per_megavoxel: float, spacing_mm: list[float], conv_gflops: float) -> float:
    """Seconds for a whole head.

    Args:
        gflop_per_megavoxel: what a preset asks for, see `scorefusion.networks.cost`.
        spacing_mm: of the model's grid.
        conv_gflops: what the device does in a second.
    """
    megavoxels = math.prod(TYPICAL_HEAD_MM) / math.prod(spacing_mm) / 1e6
    return float(f"{gflop_per_megavoxel * megavoxels / conv_gflops:.2g}")  # two digits: it is an estimate
