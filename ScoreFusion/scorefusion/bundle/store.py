"""Where models live, and how they are found by name."""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorefusion.bundle.folder import METADATA_PATH, Bundle
from scorefusion.errors import BundleError, UnknownModelError

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class BundleInfo:
    """One line of the list of models. A model that cannot be used is listed with its problem.

    Attributes:
        id: the name to type.
        folder: where it is.
        shipped: came with ScoreFusion, so it cannot be removed.
        bundle: the model; None if its metadata cannot be used.
        problem: why the model cannot be used; None if nothing is known against it. Hashes are checked on loading.
    """

    id: str
    folder: Path
    shipped: bool
    bundle: Bundle | None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with all that a panel needs to offer the model."""
        facts: dict[str, Any] = {
            "id": self.id,
            "folder": str(self.folder),
            "shipped": self.shipped,
            "problem": self.problem,
        }
        if self.bundle is not None:
            section = self.bundle.section
            facts |= {
                "name": self.bundle.name,
                "version": self.bundle.version,
                "description": self.bundle.metadata["description"],
                "hash": self.bundle.hash,
                "bytes": self.bundle.size_bytes,
            }
            shown = ("task", "conditions", "target", "spacing_mm", "planes", "presets", "domain", "licence", "citation")
            facts |= {key: section.get(key) for key in shown}
        return facts


def user_models_folder() -> Path:
    """Where imported models go: ``$SCOREFUSION_HOME/models``, by default in the user's own data folder.

    It lies outside the program, so that an update of ScoreFusion or Slicer keeps the models.
    """
    chosen = os.environ.get("SCOREFUSION_HOME")
    if chosen:
        return Path(chosen).expanduser() / "models"
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA", "~\\AppData\\Local")).expanduser() / "ScoreFusion"
    elif sys.platform == "darwin":
        data = Path("~/Library/Application Support/ScoreFusion").expanduser()
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "scorefusion"
    return data / "models"


def shipped_folders() -> list[Path]:
    """Folders of models that came with ScoreFusion: in a wheel, beside the module in Slicer, or in a checkout."""
    candidates = [
        _PACKAGE / "_models",
        _PACKAGE.parent / "Resources" / "Models",
        _PACKAGE.parent.parent / "Resources" / "Models",
    ]
    return [folder for folder in candidates if folder.is_dir()]


def bundle_folders() -> list[Path]:
    """Folders searched for models, in this order; the last one is the user's and may not exist yet."""
    return [*shipped_folders(), user_models_folder()]


def list_bundles() -> list[BundleInfo]:
    """All models found, shipped ones first. Where two have the same id, the first one counts."""
    found: dict[str, BundleInfo] = {}
    shipped = shipped_folders()
    for parent in bundle_folders():
        for folder in _bundle_folders_in(parent):
            info = _inspect(folder, shipped=parent in shipped)
            found.setdefault(info.id, info)
    return list(found.values())


def find_bundle(name_or_path: str | Path | Bundle) -> Bundle:
    """The model of this id or display name, or in this folder.

    Raises:
        UnknownModelError: there is none; the message names the nearest ones.
        BundleError: it is there but cannot be used.
    """
    if isinstance(name_or_path, Bundle):
        return name_or_path
    wanted = str(name_or_path)
    if (Path(wanted) / METADATA_PATH).is_file():
        bundle = Bundle(wanted)
        bundle.check_present()
        return bundle
    infos = list_bundles()
    for info in infos:
        if wanted.casefold() in (info.id.casefold(), info.bundle.name.casefold() if info.bundle else None):
            if info.bundle is None or info.problem is not None:
                raise BundleError(info.problem)
            return info.bundle
    raise UnknownModelError(_unknown(wanted, [info.id for info in infos]))


def is_shipped(folder: Path) -> bool:
    """Whether a bundle's folder lies among the shipped ones."""
    return any(folder.resolve().parent == shipped.resolve() for shipped in shipped_folders())


def _bundle_folders_in(parent: Path) -> list[Path]:
    """Hidden folders are imports under way, or what a crash left of one."""
    if not parent.is_dir():
        return []
    return sorted(
        folder for folder in parent.iterdir() if not folder.name.startswith(".") and (folder / METADATA_PATH).is_file()
    )


def _inspect(folder: Path, shipped: bool) -> BundleInfo:
    try:
        bundle = Bundle(folder)
    except (BundleError, OSError) as error:
        return BundleInfo(folder.name, folder, shipped, None, str(error))
    try:
        bundle.check_present()
    except BundleError as error:
        return BundleInfo(bundle.id, folder, shipped, bundle, str(error))
    return BundleInfo(bundle.id, folder, shipped, bundle)


def _unknown(wanted: str, known: list[str]) -> str:
    if Path(wanted).exists():
        return (
            f"{wanted!r} is not a model folder. To use a model from a zip file or another folder, import it first: "
            f"scorefusion models import {wanted}"
        )
    if not known:
        searched = ", ".join(str(folder) for folder in bundle_folders())
        return f"There is no model {wanted!r}: none is installed at all. Searched: {searched}."
    by_folded = {name.casefold(): name for name in known}
    near = [by_folded[name] for name in difflib.get_close_matches(wanted.casefold(), by_folded, n=3, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    return f"There is no model {wanted!r}. {hint}Installed: {', '.join(sorted(known))}."
