"""The Python packages of the worker: what it needs, what there is, all without importing any of it.

Importing torch would cost seconds, and a package that was imported cannot be replaced on Windows.
"""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.engine import MODULE_FOLDER

REQUIREMENTS = MODULE_FOLDER / "Resources" / "requirements.txt"
TORCH = ">=2.3"  # the first that was built for numpy 2, which Slicer brings since 5.10
HELD_BACK = ("numpy", "SimpleITK")  # part of Slicer: an install must not replace them below running code


@dataclass(frozen=True)
class Missing:
    """What the worker lacks: requirement lines, and whether PyTorch is among it."""

    packages: tuple[str, ...]
    torch: bool

    def __bool__(self) -> bool:
        return bool(self.packages) or self.torch

    def names(self) -> str:
        """Return the names, to be listed in a sentence."""
        return ", ".join([*map(name_of, self.packages), *(["torch"] if self.torch else [])])

    def sizes(self) -> list[str]:
        """Return a line for each part of the download, with its reason and its size."""
        lines = []
        if self.torch:
            lines.append(
                _(
                    "- PyTorch, to run the networks: about 0.2 GB to download for a computer without NVIDIA "
                    "graphics, up to 3 GB with."
                )
            )
        if self.packages:
            names = ", ".join(map(name_of, self.packages))
            lines.append(_("- {names}, to read volumes and models: less than 10 MB.").format(names=names))
        return lines


def everything() -> Missing:
    """Return all that an installation brings, be it there or not."""
    lines = [line.strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    return Missing(tuple(line for line in lines if line and not line.startswith("#")), torch=True)


def find_missing() -> Missing:
    """Return what is not installed or too old."""
    needed = everything()
    return Missing(
        tuple(line for line in needed.packages if not is_satisfied(line)), torch=not is_satisfied("torch" + TORCH)
    )


def is_satisfied(requirement: str) -> bool:
    """True if a requirement such as `nibabel>=5.0` is met."""
    from packaging.requirements import Requirement  # part of Slicer, but nothing to load at its start

    needed = Requirement(requirement)
    installed = version_of(needed.name)
    return installed is not None and needed.specifier.contains(installed, prereleases=True)


def name_of(requirement: str) -> str:
    """Return `nibabel` for `nibabel>=5.0`."""
    from packaging.requirements import Requirement

    return Requirement(requirement).name


def version_of(name: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def constraints() -> list[str]:
    """Return the lines that keep pip from replacing what Slicer itself runs on."""
    return [f"{name}=={version_of(name)}" for name in HELD_BACK if version_of(name) is not None]


def no_torch_for_this_computer() -> str:
    """Return why no PyTorch fits this computer's Slicer; empty if there is one."""
    if platform.system() != "Darwin" or platform.machine() != "x86_64":
        return ""
    return _(
        "There is no PyTorch for this Slicer: builds for Intel Macs end at 2.2.2, which cannot work with numpy "
        "{numpy}, a part of Slicer. Use a Slicer built for Apple chips on a Mac that has one, or Slicer on Linux or "
        "Windows."
    ).format(numpy=version_of("numpy"))


def versions() -> list[tuple[str, str]]:
    """Return name and version, in words if there is none, of what decides whether and how a run works."""
    from scorefusion.version import __version__

    names = ["torch", *map(name_of, everything().packages), *HELD_BACK]
    return [("ScoreFusion", __version__), *((name, version_of(name) or _("not installed")) for name in names)]
