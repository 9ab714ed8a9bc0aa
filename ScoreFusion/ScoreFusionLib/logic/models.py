"""The models on this computer, as the panel needs them. Reads their metadata only; torch is never imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.errors import RunError


@dataclass(frozen=True)
class Condition:
    """One input of a model."""

    name: str
    contrasts: tuple[str, ...] = ()
    optional: bool = False
    description: str = ""

    @property
    def label(self) -> str:
        """Text beside the selector."""
        return self.name.upper() if self.name in ("t1", "t1ce", "t2", "flair", "pd") else self.name.capitalize()


@dataclass(frozen=True)
class ModelInfo:
    """What the panel shows and asks of a model.

    Attributes:
        id: Name on the command line.
        title: Name for people.
        task: `super_resolution` or `translation`.
        conditions: Inputs, the first is the base.
        target: Contrast of the result, e.g. `flair`; `image` when it is the input's own.
        keeps_contrast: True if the result looks like the first input, so that its window and level fit.
        spacing: mm, voxel size of the result; None if it stays on the input's grid.
        presets: Name to settings and `note`.
        domain: What the model was made for.
        is_shipped: True for a model that came with the extension and cannot be removed.
    """

    id: str
    title: str
    version: str
    folder: Path
    description: str
    licence: str
    citation: str
    task: str
    conditions: tuple[Condition, ...]
    target: str
    keeps_contrast: bool
    spacing: tuple[float, float, float] | None
    presets: dict[str, dict[str, Any]]
    domain: dict[str, Any] = field(default_factory=dict)
    is_shipped: bool = False

    @property
    def result_label(self) -> str:
        """What follows "synthetic" in the name of the result."""
        if self.task == "super_resolution":
            return _("high resolution")
        return self.target.upper() if len(self.target) <= 5 else self.target

    @classmethod
    def from_metadata(cls, name: str, folder: Path, metadata: Mapping[str, Any], *, is_shipped: bool) -> ModelInfo:
        """Read a bundle's `metadata.json`.

        Raises:
            RunError: It is not a ScoreFusion bundle.
        """
        try:
            section = metadata["scorefusion"]
            target = section["target"]
            conditions = tuple(
                Condition(
                    name=str(item["name"]),
                    contrasts=tuple(item.get("contrasts", ())),
                    optional=bool(item.get("optional", False)),
                    description=str(item.get("description", "")),
                )
                for item in section["conditions"]
            )
            task = str(section["task"])
        except (KeyError, TypeError) as error:
            msg = _("The model '{name}' has no usable metadata ({error} is missing). Import it again.").format(
                name=name, error=error
            )
            raise RunError(msg) from error
        spacing = section.get("spacing_mm") if task == "super_resolution" else None
        return cls(
            id=name,
            title=str(metadata.get("name") or name),
            version=str(metadata.get("version", "")),
            folder=Path(folder),
            description=str(metadata.get("description", "")),
            licence=str(section.get("licence") or metadata.get("license") or metadata.get("copyright") or ""),
            citation=str(section.get("citation", "")),
            task=task,
            conditions=conditions,
            target=str(target.get("name", "image")),
            keeps_contrast=bool(target.get("same_contrast_as")),
            spacing=None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
            presets=dict(section.get("presets", {})),
            domain=dict(section.get("domain", {})),
            is_shipped=is_shipped,
        )


@dataclass(frozen=True)
class Listed:
    """A line of the list of models: usable, or with the reason why it is not."""

    id: str
    title: str
    info: ModelInfo | None
    problem: str | None = None


def list_models() -> list[Listed]:
    """Return all models found: those that came with the extension first, then the user's."""
    from scorefusion.bundle.store import list_bundles

    listed = []
    for found in list_bundles():
        title = found.bundle.name if found.bundle is not None else found.id
        info: ModelInfo | None = None
        problem = found.problem
        if found.bundle is not None and problem is None:
            try:
                info = ModelInfo.from_metadata(found.id, found.folder, found.bundle.metadata, is_shipped=found.shipped)
            except RunError as error:
                problem = str(error)
        listed.append(Listed(found.id, title, info, problem))
    return listed


def find_model(name: str) -> ModelInfo:
    """Return a model by its id, its title or its folder, as `scorefusion.bundle.find_bundle` finds it.

    Raises:
        RunError: There is none, or it cannot be used; the message names the nearest ones.
    """
    from scorefusion.bundle.store import find_bundle
    from scorefusion.errors import ScoreFusionError

    try:
        bundle = find_bundle(name)
    except ScoreFusionError as error:
        raise RunError(str(error)) from error
    for listed in list_models():
        if listed.info is not None and listed.info.folder == bundle.folder:
            return listed.info
    return ModelInfo.from_metadata(str(bundle.folder), bundle.folder, bundle.metadata, is_shipped=False)


def import_model(path: Path, *, replace: bool = False) -> str:
    """Copy a model from a zip file or a folder to the user's models, and return its id. Checked before it is unpacked.

    Raises:
        RunError: It is unsafe, damaged, incomplete, or already there; nothing was changed.
    """
    from scorefusion.bundle.install import import_bundle
    from scorefusion.errors import ScoreFusionError

    try:
        return str(import_bundle(path, force=replace).id)
    except ScoreFusionError as error:
        raise RunError(str(error)) from error


def remove_model(name: str) -> None:
    """Delete one of the user's models.

    Raises:
        RunError: It came with the extension, or cannot be deleted.
    """
    from scorefusion.bundle.install import remove_bundle
    from scorefusion.errors import ScoreFusionError

    try:
        remove_bundle(name)
    except ScoreFusionError as error:
        raise RunError(str(error)) from error


def user_folder() -> Path:
    """Return the folder of the user's models, made if need be. It survives updates of Slicer and of the extension."""
    from scorefusion.bundle.store import user_models_folder

    folder = user_models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_card(model: ModelInfo) -> str:
    """Return the model card as Markdown."""
    from scorefusion.bundle.folder import Bundle

    return Bundle(model.folder).card()
