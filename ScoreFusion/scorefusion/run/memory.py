"""How much memory there is, and how to cut a volume so that the work fits. torch is needed for GPUs only."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scorefusion.errors import OutOfMemory
from scorefusion.wording import readable

SMALLEST_ADDRESS_SPACE = 5 * 2**28
"""Bytes that torch for the CPU and the volume libraries need to be loaded, and a small volume to be worked on."""

_CGROUP_FILES = (  # (limit, in use), version 2 then version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def check_address_space() -> None:
    """Raise OutOfMemory where `ulimit -v` leaves no room for the libraries: they would end the process, or hang."""
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < SMALLEST_ADDRESS_SPACE:
        msg = (
            f"This process may use {readable(limit)} of address space (ulimit -v), but ScoreFusion needs at least "
            f"{readable(SMALLEST_ADDRESS_SPACE)} before it reads a volume. Lift the limit: ulimit -v unlimited"
        )
        raise OutOfMemory(msg)


def available_memory(device: Any = "cpu") -> int:
    """Bytes that a computation on this device can still use.

    Args:
        device: a `torch.device` or its name. For the CPU, and for Apple GPUs, which share its memory, this is the free
            main memory, inside the limit of a container if there is one.
    """
    if str(device).startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for reuse is as good as free.
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min(_free_main_memory(), _container_headroom())


def total_memory(device: Any = "cpu") -> int:
    """Bytes the device has in all."""
    if str(device).startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[1])
    if sys.platform == "win32":
        return _windows_memory()[0]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *(limit for limit, _ in _container_limits())])


def plan_tile(
    spatial_shape: Sequence[int],
    bytes_per_voxel: float,
    available: int,
    *,
    overlap: int = 0,
    multiple: int = 8,
    smallest: int = 32,
    fixed_bytes: int = 0,
    share: float = 0.8,
) -> tuple[int, int, int] | None:
    """Decide whether the whole volume fits, and into which tiles to cut it if not.

    Args:
        spatial_shape: `(I, J, K)` voxels.
        bytes_per_voxel: working memory for each voxel of a tile, its overlap included.
        available: bytes, see `available_memory`.
        overlap: voxels added on every cut side.
        multiple: edges of tiles are multiples of this.
        smallest: no edge gets shorter than this; below, the overlap would cost more than the tile.
        fixed_bytes: weights and whole-volume arrays, needed however small the tiles are.
        share: the part of the available memory that may be used.

    Returns:
        None if the whole volume fits, else the edge lengths of the tiles without their overlap.

    Raises:
        OutOfMemory: not even the smallest tile fits.
    """
    budget = share * available - fixed_bytes
    tile = [int(size) for size in spatial_shape]

    def needed() -> float:
        padded = (min(edge + 2 * overlap, size) for edge, size in zip(tile, spatial_shape, strict=True))
        return bytes_per_voxel * math.prod(padded)

    if needed() <= budget:
        return None
    while needed() > budget:
        axis = max(range(3), key=lambda a: tile[a])  # shortening the longest edge keeps the overlap cheap
        shorter = math.ceil(tile[axis] / 2 / multiple) * multiple
        if shorter >= tile[axis] or shorter < smallest:
            msg = (
                f"A volume of {' x '.join(map(str, spatial_shape))} voxels needs about "
                f"{readable(needed() + fixed_bytes)} of memory even in its smallest tiles, and "
                f"{readable(share * available)} can be used. Close other programs, "
                "crop the volume, use a lighter model, or another device."
            )
            raise OutOfMemory(msg)
        tile[axis] = shorter
    return tile[0], tile[1], tile[2]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that an allocation failed: torch says so in several ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    if isinstance(error, ImportError):  # a library found no room for itself
        return "failed to map segment" in text or "cannot allocate memory" in text
    signs = ("out of memory", "can't allocate memory", "bad_alloc", "can't start new thread")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def _free_main_memory() -> int:
    if sys.platform == "win32":
        return _windows_memory()[1]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # macOS tells what is there, not what is free; half of it is a cautious guess.
    return total_memory() // 2


def _container_limits() -> list[tuple[int, int]]:
    """``(limit, in use)`` in bytes of every limit that is set on this container."""
    limits = []
    for limit_file, usage_file in _CGROUP_FILES:
        try:
            limits.append((int(Path(limit_file).read_text()), int(Path(usage_file).read_text())))
        except (OSError, ValueError):  # no such file, or the word "max": no limit
            continue
    return limits


def _container_headroom() -> int:
    return min((max(limit - used, 0) for limit, used in _container_limits()), default=sys.maxsize)


def _windows_memory() -> tuple[int, int]:
    """Total and free physical bytes."""

    class MemoryStatus(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("free", ctypes.c_ulonglong),
            ("rest", ctypes.c_ulonglong * 5),
        ]

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.total), int(status.free)
