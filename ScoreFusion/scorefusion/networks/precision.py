"""The one door where precision is lowered."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def lowered_precision(like: Tensor, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """The one door where precision is lowered; predictions come back as float32. None = float32 throughout."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(like.device.type, dtype=dtype)
