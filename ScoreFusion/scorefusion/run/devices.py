"""Devices, precision and torch's global switches. What was chosen is always said: nothing here falls back silently.

torch is imported inside the functions, so that `scorefusion doctor` can tell a user that it is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorefusion.errors import RequestError
from scorefusion.run.memory import available_memory, is_out_of_memory, total_memory

if TYPE_CHECKING:
    import torch

__all__ = [
    "available_memory",
    "cpu_count",
    "device_problem",
    "inference_settings",
    "is_out_of_memory",
    "pick_device",
    "pick_precision",
    "settle_threads",
    "total_memory",
]

Warn = Callable[[str, str], None]
AUTOMATIC = ("cuda", "mps")  # what `auto` looks for, best first
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def pick_device(name: str = "auto", warn: Warn | None = None) -> torch.device:
    """The device to compute on.

    Args:
        name: ``"auto"`` (an NVIDIA or AMD GPU, else an Apple GPU, else the CPU), or one of ``"cpu"``, ``"cuda"``,
            ``"cuda:1"``, ``"mps"``; or another accelerator that this PyTorch knows and finds, such as ``"xpu"``.
        warn: receives a code and a message when ``auto`` finds a GPU that it must leave aside.

    Raises:
        RequestError: no such device, or it does not work here. A named device is never replaced by another.
    """
    import torch

    if name == "auto":
        for candidate in AUTOMATIC:
            if not _is_present(candidate):
                continue
            problem = device_problem(candidate)
            if problem is None:
                return torch.device(candidate)
            if warn is not None:
                warn("gpu-left-aside", f"{problem} Using the CPU.")
        return torch.device("cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) and not _is_present(name):
        msg = f"Unknown device {name!r}. Use auto, cpu, cuda, cuda:0 (any number) or mps."
        raise RequestError(msg)
    problem = device_problem(name)
    if problem is not None:
        msg = f"{problem} Use another device, or auto."
        raise RequestError(msg)
    return torch.device(name)


def device_problem(name: str) -> str | None:
    """Why this device cannot be used, as a sentence; None if it can. Runs a tiny 3D convolution on it."""
    import torch

    if name == "cpu":
        return None
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
                return f"Device {name!r} was asked for, but this PyTorch ({torch.__version__}) is a CPU-only build."
            return f"Device {name!r} was asked for, but no working GPU and driver was found."
        index, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
        if index >= count:
            names = ", ".join(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count))
            return f"Device {name!r} was asked for, but the GPUs here are: {names}."
    elif name == "mps" and not _is_present("mps"):
        return f"Device {name!r} was asked for, but this machine and PyTorch ({torch.__version__}) offer no Apple GPU."
    return _self_check(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The number format of the networks; everything around them stays float32.

    Args:
        name: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``. ``auto`` is bfloat16 on GPUs and CPUs that
            know it natively and float32 elsewhere; it is never float16, which may overflow.
        device: where the networks will run.
    """
    import torch

    if name not in PRECISIONS:
        msg = f"Unknown precision {name!r}. Use one of: {', '.join(PRECISIONS)}."
        raise RequestError(msg)
    if name == "auto":
        return torch.bfloat16 if _knows_bfloat16(device) else torch.float32
    if name == "float16" and device.type == "cpu":
        msg = "Precision 'float16' is not available on the CPU. Use float32 or bfloat16, or a GPU."
        raise RequestError(msg)
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _knows_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively; where it only emulates, float32 is faster."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch >= 2.5; private, so asked with care
        return supported is not None and bool(supported())
    return False


@contextmanager
def inference_settings(threads: int | None = None, tf32: bool = False) -> Iterator[None]:
    """Inference mode with known global switches; restores what it found, also after an error.

    Args:
        threads: CPU threads for torch. None = see `settle_threads`.
        tf32: lets NVIDIA GPUs round float32 products to 10 bits of mantissa. Off: the same answer on every device.
    """
    import torch

    found_threads = torch.get_num_threads()
    cudnn = torch.backends.cudnn
    found = (cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, cudnn.benchmark)
    try:
        if threads is None:
            settle_threads()
        else:
            torch.set_num_threads(threads)
        cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        cudnn.benchmark = False  # a search per shape: slow for few slices, and its choice may vary from run to run
        with torch.inference_mode():
            yield
    finally:
        cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, cudnn.benchmark = found
        if torch.get_num_threads() != found_threads:
            torch.set_num_threads(found_threads)


def settle_threads() -> int:
    """Let torch use as many CPU threads as there are cores for this process, and return their number.

    torch counts the machine's cores (or every other one, where two are one core's halves), not those that a container
    may use; more threads than these stand in one another's way. A number that somebody has set (OMP_NUM_THREADS,
    MKL_NUM_THREADS, `torch.set_num_threads` to another number than torch's own) is left as it is.
    """
    import torch

    now, seen = torch.get_num_threads(), visible_cores()
    chosen = any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    if not chosen and now in (seen, seen // 2) and cpu_count() < now:
        torch.set_num_threads(cpu_count())
    return torch.get_num_threads()


def visible_cores() -> int:
    """CPU cores that this process may run on, whatever share of their time it is given."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_count() -> int:
    """CPU cores this process may use: fewer than the machine has inside a container or under a scheduler."""
    cores = visible_cores()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or the word "max": no limit
        return cores


def _is_present(kind: str) -> bool:
    import torch

    if kind == "cuda":
        return torch.cuda.is_available()
    if kind == "mps":
        mps: Any = getattr(torch.backends, "mps", None)
        return mps is not None and bool(mps.is_available())
    accelerator: Any = getattr(torch, "accelerator", None)  # torch >= 2.6
    return accelerator is not None and accelerator.is_available() and accelerator.current_accelerator().type == kind


def _self_check(name: str) -> str | None:
    """Compare a tiny 3D convolution with the CPU's: a faulty driver fails here, not after minutes of work."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 5, 6, 7, generator=generator)
    weight = torch.randn(3, 2, 3, 3, 3, generator=generator)
    try:
        with torch.inference_mode():
            there = torch.nn.functional.conv3d(x.to(name), weight.to(name), padding=1).cpu()
            here = torch.nn.functional.conv3d(x, weight, padding=1)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"Device {name!r} was found but cannot run a 3D convolution ({reason})."
    if not torch.allclose(there, here, atol=0.05):
        return f"Device {name!r} gives wrong results in a 3D convolution; its driver or PyTorch is faulty."
    return None
