"""What a run costs: seconds, peak memory, and how often the networks were asked."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
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
    """Context that measures the work inside it.

    Args:
        modules: networks whose calls are counted; 2D networks by slices, 3D networks by volumes.
        device: where the work runs.
    """

    def __init__(self, modules: tuple[nn.Module, ...] = (), device: torch.device | str = "cpu") -> None:
        self._modules = modules
        self._device = torch.device(device)
        self._handles: list[Any] = []
        self._slices = self._volumes = 0
        self._start = 0.0
        self.cost = Cost(0.0, 0)

    def __enter__(self) -> Meter:
        for module in self._modules:
            self._handles.append(module.register_forward_pre_hook(self._count))
        _reset_peak(self._device)
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._start
        for handle in self._handles:
            handle.remove()
        self.cost = Cost(seconds, peak_memory(self._device), self._slices, self._volumes)

    def _count(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if x.dim() == 5:
            self._volumes += x.shape[0]
        else:
            self._slices += x.shape[0]


def _reset_peak(device: torch.device) -> None:
    """Start a new high-water mark where the system allows it (Linux, CUDA)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        try:
            _CLEAR.write_text("5")
        except OSError:  # not allowed in this container: the mark is then the process's highest so far
            return


def peak_memory(device: torch.device | str = "cpu") -> int:
    """Bytes: highest use since the meter started; since the process started where the mark cannot be reset; 0 if
    unknown."""
    device = torch.device(device)
    if device.type == "cuda":
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
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{name}{threads}, {platform.system()} {platform.machine()}, torch {torch.__version__}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def code_version() -> str:
    """Version and, in a checkout, the commit; a `+` after it says that files were changed since."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "--short=10", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", str(folder.parent))
    except (OSError, subprocess.SubprocessError):  # no git, or not a checkout
        return __version__
    return f"{__version__} ({commit}{'+' if changed else ''})"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
