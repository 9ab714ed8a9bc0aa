"""How many numbers live at once while a network works, counted on a twin without weights or memory."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scorefusion.networks.sizes import UNetConfig
from scorefusion.networks.unet import UNet

_EDGES = {2: 48, 3: 16}
_counted: dict[tuple[UNetConfig, bool], float] = {}


def live_numbers(network: UNet, features: bool = False) -> float:
    """Numbers that a network's activations hold at once at most, for each pixel or voxel of the image.

    Args:
        network: anywhere; it is not run.
        features: whether its decoder's features are handed out, and so live to the end.

    Returns:
        Without weights and the image itself. What the library that convolves takes on top is not in it.
    """
    config = network.config
    if (config, features) not in _counted:
        edge = -(-_EDGES[config.spatial_dims] // config.cells[-1]) * config.cells[-1]
        with torch.device("meta"), torch.inference_mode():
            twin = UNet(config).eval()
            x = torch.zeros(1, config.in_channels, *(edge,) * config.spatial_dims)
            context = torch.zeros(1, config.context_size) if config.context_size else None
            level = torch.ones(1)
            with _Live() as live:
                twin(x, level, context, return_features=features)
        _counted[config, features] = live.peak / edge**config.spatial_dims
    return _counted[config, features]


class _Live(TorchDispatchMode):
    """Counts the float32 numbers of all tensors that are made and not yet given back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and id(leaf.untyped_storage()) not in known:
                self._change(leaf.untyped_storage().nbytes() // 4)
                weakref.finalize(leaf.untyped_storage(), self._change, -(leaf.untyped_storage().nbytes() // 4))
        return result

    def _change(self, numbers: int) -> None:
        self.now += numbers
        self.peak = max(self.peak, self.now)
