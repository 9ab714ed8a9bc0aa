"""Looks over the installation and tells in plain words what works, how fast it will be, and what to do about the rest.

Needs nothing that might be missing: every library is looked up, never required.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata, util
from pathlib import Path
from typing import Any

from scorefusion.bundle.store import UNREADABLE, BundleInfo, list_bundles, shipped_folders, user_models_folder
from scorefusion.errors import BundleError
from scorefusion.run.devices import cpu_count, device_problem, pick_device
from scorefusion.run.estimate import expected_seconds, measure_conv_rate
from scorefusion.run.memory import available_memory, total_memory
from scorefusion.version import __version__
from scorefusion.wording import GIB, readable

_LITTLE_MEMORY = 4 * GIB

_PACKAGES = {  # import name: (distribution, what it is for, required)
    "torch": ("torch", "the networks", True),
    "numpy": ("numpy", "arrays", True),
    "safetensors": ("safetensors", "weights", True),
    "nibabel": ("nibabel", "NIfTI files", True),
    "SimpleITK": ("SimpleITK", "NRRD and MetaImage files, oblique grids", True),
    "typer": ("typer", "this command line", True),
    "rich": ("rich", "this command line", True),
    "monai": ("monai", "training", False),
    "lightning": ("lightning", "training", False),
    "matplotlib": ("matplotlib", "the demo's pictures", False),
    "dask": ("dask", "many volumes on many machines", False),
}


def doctor(measure: bool = True) -> dict[str, Any]:
    """Examine Python, libraries, devices, memory and models.

    Args:
        measure: run convolutions for up to a second to estimate times; else times are None.

    Returns:
        JSON values. ``problems`` lists what stands in the way as ``{"what", "do"}``; ``ok`` is True if nothing does.
    """
    packages = {name: _package(name) for name in _PACKAGES}
    problems = [
        {"what": f"{name} is not installed; it is needed for {facts['for']}.", "do": f"pip install {name}"}
        for name, facts in packages.items()
        if facts["required"] and facts["version"] is None
    ]
    devices = _devices(measure) if packages["torch"]["version"] else []
    for device in devices:
        if device["problem"]:
            problems.append(
                {"what": device["problem"], "do": "Update the driver or PyTorch; until then use --device cpu."}
            )
    chosen = next((device for device in devices if device["chosen"]), None)
    if chosen and chosen["memory_free"] < _LITTLE_MEMORY:
        what = f"Only {readable(chosen['memory_free'])} of memory is free on {chosen['name']}."
        problems.append({"what": what, "do": "Close other programs, or expect large volumes to be cut into tiles."})

    infos = list_bundles()
    for info in infos:
        if info.id == UNREADABLE:
            problems.append({"what": str(info.problem), "do": "Set SCOREFUSION_HOME to a folder of yours."})
        elif info.problem:
            problems.append({"what": info.problem, "do": f"scorefusion models remove {info.id}, then import it again"})
    if not infos:
        what = "No model is installed."
        problems.append({"what": what, "do": "scorefusion models import FILE.zip"})
    folders = [_folder(folder, user=False) for folder in shipped_folders()]
    try:
        folders.append(_folder(user_models_folder(), user=True))
    except (BundleError, OSError):  # listed above, as a problem of the models
        pass
    if not all(folder["writable"] for folder in folders if folder["user"]):
        what = f"Models cannot be imported: {folders[-1]['path']} is not writable."
        problems.append({"what": what, "do": "Set SCOREFUSION_HOME to a folder of yours."})

    rate = chosen["conv_gflops"] if chosen else None
    return {
        "scorefusion": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": packages,
        "devices": devices,
        "model_folders": folders,
        "models": [_model(info, rate) for info in infos],
        "problems": problems,
        "ok": not problems,
    }


def _package(name: str) -> dict[str, Any]:
    distribution, purpose, required = _PACKAGES[name]
    try:
        # A package without metadata, as in some bundled Pythons, still counts.
        version: str | None = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        version = "unknown" if util.find_spec(name) else None
    return {"version": version, "for": purpose, "required": required}


def _devices(measure: bool) -> list[dict[str, Any]]:
    """The CPU and every GPU that torch sees, the one that ``auto`` takes marked as chosen."""
    import torch

    chosen = str(pick_device("auto"))
    names = {"cpu": f"{cpu_count()} CPU cores, {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        names |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        names["mps"] = "Apple GPU"
    devices = []
    for name, description in names.items():
        problem = device_problem(name)
        is_chosen = name in (chosen, f"{chosen}:0")
        devices.append(
            {
                "name": name,
                "description": description,
                "memory_total": total_memory(name),
                "memory_free": available_memory(name),
                "problem": problem,
                "chosen": is_chosen,
                "conv_gflops": measure_conv_rate(name) if measure and is_chosen and not problem else None,
            }
        )
    return devices


def _folder(folder: Path, user: bool) -> dict[str, Any]:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return {
        "path": str(folder),
        "exists": folder.is_dir(),
        "writable": existing.is_dir() and os.access(existing, os.W_OK),
        "user": user,
    }


def _model(info: BundleInfo, conv_gflops: float | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"id": info.id, "problem": info.problem, "presets": {}}
    if info.bundle is not None:
        facts |= {"name": info.bundle.name, "version": info.bundle.version, "task": info.bundle.task}
        section = info.bundle.section
        work = _work(section) if conv_gflops else {}
        for name, preset in section["presets"].items():
            seconds = None
            if conv_gflops and name in work:
                seconds = expected_seconds(work[name], section["spacing_mm"], conv_gflops)
            facts["presets"][name] = {"seconds": seconds, "note": preset.get("note", "")}
    return facts


def _work(section: dict[str, Any]) -> dict[str, float]:
    """By preset; empty where the networks' configuration is not understood, which loading the model will explain."""
    from scorefusion.networks.cost import gflop_per_megavoxel

    try:
        return gflop_per_megavoxel(section)
    except (TypeError, ValueError, RuntimeError, KeyError):
        return {}
