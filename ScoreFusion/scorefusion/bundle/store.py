"""Where models live, and how they are found by name."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scorefusion.bundle.folder import METADATA_PATH, Bundle
from scorefusion.bundle.metadata import short
from scorefusion.bundle.names import is_bundle_id
from scorefusion.errors import BundleError, UnknownModelError

UNREADABLE = "your models"
"""Listed where the folder of the user's models cannot be looked into. It has a space, so that no model has that id."""

_SET_HOME = "Set SCOREFUSION_HOME to a folder of yours."
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

    Raises:
        BundleError: ``SCOREFUSION_HOME`` or the default begins with the home of a user who has none.
    """
    chosen = os.environ.get("SCOREFUSION_HOME")
    if chosen:
        wanted = Path(chosen)
    elif sys.platform == "win32":
        wanted = Path(os.environ.get("LOCALAPPDATA", "~\\AppData\\Local")) / "ScoreFusion"
    elif sys.platform == "darwin":
        wanted = Path("~/Library/Application Support/ScoreFusion")
    else:
        wanted = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "scorefusion"
    try:
        return wanted.expanduser().absolute() / "models"
    except RuntimeError as error:
        msg = f"The folder for your models, {str(wanted)!r}, is in the home of a user who has none. {_SET_HOME}"
        raise BundleError(msg) from error


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
    """All models found, shipped ones first; never raises.

    A shipped model stands whatever else has its id: the other one is listed as unusable. Of several of the user's own
    with one id, none can be used. A folder of models that cannot be looked into is listed as a model with a problem.
    """
    found: dict[str, BundleInfo] = {}
    for parent in shipped_folders():
        for info in _inspect_all(parent, shipped=True):
            found.setdefault(info.id, info)
    try:
        own = _inspect_all(user_models_folder(), shipped=False)
    except BundleError as error:
        own = [BundleInfo(UNREADABLE, Path(), False, None, str(error))]
    mentioned = [*found.values(), *own]
    return [*found.values(), *(_if_alone(info, mentioned) for info in own)]


def find_bundle(name_or_path: str | Path | Bundle) -> Bundle:
    """The model of this id, in this folder, or of this display name.

    What could be an id is only ever an id: neither a folder of that name in the working folder nor a model that shows
    itself under that name can take its place. A folder is written as a path (``./brain-sr``, or a `Path`).

    Raises:
        UnknownModelError: there is none; the message names the nearest ones.
        BundleError: it is there but cannot be used, or several models have that name.
    """
    if isinstance(name_or_path, Bundle):
        return name_or_path
    if isinstance(name_or_path, Path) or _is_written_as_path(name_or_path):
        return _in_folder(Path(name_or_path))
    wanted = name_or_path.casefold()
    infos = list_bundles()
    matches = [info for info in infos if info.id.casefold() == wanted]
    if not matches and not is_bundle_id(wanted):
        matches = [info for info in infos if info.bundle and info.bundle.name.casefold() == wanted]
        if len(matches) > 1:
            msg = f"Several models are called {name_or_path!r}. Give one by its id: {_listed(i.id for i in matches)}."
            raise BundleError(msg)
    if not matches:
        raise UnknownModelError(_unknown(name_or_path, infos))
    info = matches[0]  # a shipped one comes first; of several others each has a problem that names the rest
    if info.bundle is None or info.problem is not None:
        raise BundleError(info.problem)
    return info.bundle


def is_shipped(folder: Path) -> bool:
    """Whether a bundle's folder lies among the shipped ones."""
    return any(folder.resolve().parent == shipped.resolve() for shipped in shipped_folders())


def _is_written_as_path(text: str) -> bool:
    return text.startswith((".", "~")) or any(mark in text for mark in ("/", os.sep)) or Path(text).is_absolute()


def _in_folder(folder: Path) -> Bundle:
    try:
        folder = folder.expanduser()
        there = folder.exists()
        has_bundle = there and (folder / METADATA_PATH).is_file()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"There is no model folder {short(str(folder), 300)} ({reason})."
        raise UnknownModelError(msg) from error
    if has_bundle:
        bundle = Bundle(folder)
        bundle.check_present()
        return bundle
    if there:
        msg = (
            f"{str(folder)!r} is not a model folder. To use a model from a zip file or another folder, import it "
            f"first: scorefusion models import {folder}"
        )
        raise UnknownModelError(msg)
    msg = f"There is no model folder {str(folder)!r}. To use an installed model, give its id: {_ids(list_bundles())}."
    raise UnknownModelError(msg)


def _inspect_all(parent: Path, shipped: bool) -> list[BundleInfo]:
    """Hidden folders are imports under way, or what a crash left of one."""
    try:
        if not parent.is_dir():
            return []
        folders = sorted(folder for folder in parent.iterdir() if not folder.name.startswith("."))
        return [_inspect(folder, shipped) for folder in folders if (folder / METADATA_PATH).is_file()]
    except OSError as error:
        msg = f"The folder for your models, {short(str(parent), 300)}, cannot be read ({error.strerror}). {_SET_HOME}"
        raise BundleError(msg) from error


def _inspect(folder: Path, shipped: bool) -> BundleInfo:
    try:
        bundle = Bundle(folder)
    except (BundleError, OSError) as error:
        return BundleInfo(folder.name, folder, shipped, None, str(error))
    try:
        bundle.check_present()
    except (BundleError, OSError) as error:
        return BundleInfo(bundle.id, folder, shipped, bundle, str(error))
    return BundleInfo(bundle.id, folder, shipped, bundle)


def _if_alone(info: BundleInfo, everything: list[BundleInfo]) -> BundleInfo:
    """One of the user's models, with a problem if another one has its id."""
    others = [other for other in everything if other.id.casefold() == info.id.casefold() and other is not info]
    if not others:
        return info
    if others[0].shipped:
        problem = f"A model {info.id!r} came with ScoreFusion and is used; the one in {str(info.folder)!r} never is."
    else:
        folders = _listed(str(each.folder) for each in [info, *others])
        problem = f"Several models have the id {info.id!r}, so none of them is used: {folders}."
    return replace(info, problem=f"{problem} Delete what you do not need, or change scorefusion.id in its metadata.")


def _unknown(wanted: str, infos: list[BundleInfo]) -> str:
    folder = _folder_hint(wanted)
    if home := next((info.problem for info in infos if info.id == UNREADABLE), None):
        return f"There is no model {short(wanted, 100)}. {folder}{home}"
    if not infos:
        searched = ", ".join(str(folder) for folder in bundle_folders())
        return f"There is no model {short(wanted, 100)}: none is installed at all. {folder}Searched: {searched}."
    by_name = {info.bundle.name.casefold(): info.id for info in infos if info.bundle}
    by_name |= {info.id.casefold(): info.id for info in infos}
    near = dict.fromkeys(by_name[name] for name in difflib.get_close_matches(wanted.casefold(), by_name, 3, cutoff=0.5))
    hint = f"Did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    return f"There is no model {short(wanted, 100)}. {folder}{hint}Installed: {_ids(infos)}."


def _folder_hint(wanted: str) -> str:
    try:
        there = bool(wanted) and Path(wanted).exists()
    except OSError:  # too long to be a name
        there = False
    return f"To use the file or folder of that name here, write ./{wanted} instead. " if there else ""


def _ids(infos: list[BundleInfo]) -> str:
    return ", ".join(sorted(info.id for info in infos)) or "none is installed"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
