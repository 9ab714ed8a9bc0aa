"""What a run costs: seconds, peak memory, and how often the networks were asked."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scorefusion.version import __version__

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """What one restoration took."""

    seconds: float
    peak_bytes: int  # of main memory (resident set), or of GPU memory where the work ran on one
    slice_passes: int = 0  # slices that went through a 2D network
    volume_passes: int = 0  # volumes that went through a 3D network


class Meter:
    """Context that measures the work inside it on `device`, and counts the calls of `modules` (2D networks by slices,
    3D networks by volumes)."""

    def __init__(self, modules: tuple[nn.Module, ...] = (), device: torch.device | str = "cpu") -> None:
        self._modules, self._device = modules, torch.device(device)
        self._passes = {4: 0, 5: 0}  # by dimensions of the input
        self.cost = Cost(0.0, 0)

    def __enter__(self) -> Meter:
        self._handles = [module.register_forward_pre_hook(self._count) for module in self._modules]
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif _CLEAR.exists():
            try:
                _CLEAR.write_text("5")  # a new high-water mark
            except OSError:  # not allowed in this container: the mark is then the process's highest so far
                pass
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._start
        for handle in self._handles:
            handle.remove()
        self.cost = Cost(seconds, peak_memory(self._device), self._passes[4], self._passes[5])

    def _count(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._passes[inputs[0].dim()] += inputs[0].shape[0]


def peak_memory(device: torch.device | str = "cpu") -> int:
    """Bytes: highest use since the meter started; since the process started where the mark cannot be reset; 0 if
    unknown."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def describe_machine(device: torch.device | str = "cpu") -> str:
    """One line for a caption: processor or card, cores, system, torch."""
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{name}, {platform.system()} {platform.machine()}, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def code_version() -> str:
    """Version and, in a checkout, the commit; a `+` after it says that files were changed since."""
    folder = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=10", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(folder))
    except (OSError, subprocess.SubprocessError):  # no git, or not a checkout
        return __version__
    return f"{__version__} ({commit}{'+' if changed else ''})"
