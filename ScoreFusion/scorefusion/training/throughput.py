"""How fast a training step can be on this machine, and how fast it is.

The floor is arithmetic: the floating-point operations of a step's convolutions and matrix products over the rate that
this machine's convolutions reach. A loop near its floor cannot be made faster but by smaller networks or better chips.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scorefusion.networks.precision import lowered_precision
from scorefusion.networks.unet import UNet

BACKWARD = 3.0  # forward and backward together cost three forwards: each convolution has two gradients


@dataclass(frozen=True)
class Throughput:
    """Of one kind of step.

    Attributes:
        slices: slices (or crops) a step.
        floor_s: seconds that the arithmetic alone takes.
        seconds: seconds a step took.
        rate: floating-point operations a second of a convolution on this machine.
    """

    slices: int
    floor_s: float
    seconds: float
    rate: float

    def line(self) -> str:
        """In words."""
        return (
            f"{self.slices / self.seconds:.1f} slices/s; floor {self.slices / self.floor_s:.1f} slices/s at "
            f"{self.rate / 1e9:.0f} GFLOP/s: {100 * self.floor_s / self.seconds:.0f} % of what the machine can do"
        )


def step_flops(network: UNet, shape: tuple[int, ...]) -> float:
    """Operations of one forward and backward pass for an input `(B, C, *spatial)`; nothing is computed."""
    with torch.device("meta"):
        copy = UNet(network.config)
        x, level = torch.empty(shape), torch.empty(shape[0])
        size = network.config.context_size
        context = torch.empty(shape[0], size) if size else None
    with FlopCounterMode(display=False) as counter:
        copy(x, level, context)
    return BACKWARD * counter.get_total_flops()


def convolution_rate(
    channels: int, spatial: tuple[int, ...], batch: int, dtype: torch.dtype | None, device: torch.device, tries: int = 5
) -> float:
    """Operations a second of a 3x3 (3x3x3) convolution, forward and backward, at a network's typical size."""
    dims = len(spatial)
    layer: nn.Module = (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, channels, 3, padding=1).to(device)
    x = torch.randn(batch, channels, *spatial, device=device, requires_grad=True)
    if dims == 2:
        layer, x = layer.to(memory_format=torch.channels_last), _channels_last(x)  # type: ignore[call-overload]

    def once() -> None:
        with lowered_precision(x, dtype):
            y = layer(x)
        y.backward(torch.ones_like(y))

    flops = BACKWARD * 2.0 * channels * channels * 3**dims * batch * _product(spatial)
    return flops / timed(once, device, tries)


def timed(work: Callable[[], object], device: torch.device, tries: int) -> float:
    """Median seconds of a call, the first two left out."""
    durations = []
    for _ in range(tries + 2):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        durations.append(time.perf_counter() - start)
    return sorted(durations[2:])[tries // 2]


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _product(values: tuple[int, ...]) -> int:
    result = 1
    for value in values:
        result *= value
    return result
