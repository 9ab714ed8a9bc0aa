"""The way of small tensors from the CPU to a GPU, which does not make the host wait."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """`x` on a device, in a type that the device knows; the host goes on while the copy is under way.

    A plain `.to` waits for all that a GPU still has to do. Do not change `x` in place afterwards.
    """
    device = torch.device(device)
    if dtype is not None:
        x = x.to(dtype)  # type first: some devices (MPS) have no float64
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()  # from other memory even a copy that is not blocking waits
    return x.to(device, non_blocking=device.type != "mps")  # MPS may read what the CPU has already given back
