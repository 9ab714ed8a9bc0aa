"""How much arithmetic a model needs for each voxel, counted on networks without memory or weights."""

from __future__ import annotations

from typing import Any

_EDGE_2D = 96
_EDGE_3D = 32


def gflop_per_megavoxel(section: dict[str, Any]) -> dict[str, float]:
    """For each preset of a bundle, billions of operations for a million voxels of the result.

    Args:
        section: the ``scorefusion`` section of a bundle's metadata.
    """
    networks = section["networks"]
    once = 0.0  # operations a voxel, for one evaluation of all networks
    for entry in networks.get("planes") or []:
        once += len(entry["planes"]) * _flop_per_voxel(entry["config"], _EDGE_2D)
    for entry in (networks.get("fusion"), networks.get("volume")):
        if entry:
            once += _flop_per_voxel(entry["config"], _EDGE_3D)
    # Operations a voxel are millions of operations a million voxels.
    return {
        name: round(once * preset["steps"] * preset.get("samples", 1) * 1e6 / 1e9, 3)
        for name, preset in section["presets"].items()
    }


def _flop_per_voxel(config: dict[str, Any], edge: int) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from scorefusion.networks.sizes import UNetConfig
    from scorefusion.networks.unet import UNet

    shape = UNetConfig.from_dict(config)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = UNet(shape)
        x = torch.empty(1, shape.in_channels, *(edge,) * shape.spatial_dims)
        context = torch.empty(1, shape.context_size) if shape.context_size else None
        network(x, torch.full((1,), 0.5), context)
    return float(counter.get_total_flops()) / edge**shape.spatial_dims
