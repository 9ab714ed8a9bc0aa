"""The recipe's generator of synthetic heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scorefusion.datasets.datalist import project_datalist
from scorefusion.errors import RequestError
from scorefusion.synthesis.generator import ContrastGenerator, GeneratorOptions
from scorefusion.synthesis.labels import LabelMap, load_label_map
from scorefusion.training.recipe import Recipe


def make_generator(
    recipe: Recipe,
    shape: tuple[int, int, int],
    device: torch.device | str,
    near: Path | None = None,
    labels: Sequence[LabelMap] = (),
) -> ContrastGenerator:
    """Heads of the recipe's contrasts, from `labels` if there are any, else from those of `data.synthetic.labels`."""
    synthetic = recipe.data.synthetic
    assert synthetic is not None
    options: dict[str, Any] = {"mode": synthetic.mode, "contrasts": _contrasts(recipe), "shape": shape}
    if recipe.task == "super_resolution":
        options["coarse_share"] = 0.0  # what is sought, and what is given beside it, is sharp
    try:
        chosen = GeneratorOptions(**(options | synthetic.options))
    except TypeError as error:
        msg = f"data.synthetic.options: {error}; keys are those of GeneratorOptions"
        raise RequestError(msg) from error
    return ContrastGenerator(labels or load_label_maps(recipe, near), chosen, device=device)


def load_label_maps(recipe: Recipe, near: Path | None = None) -> list[LabelMap]:
    """Those of `data.synthetic.labels`; "project" stands for the label maps of the project's own training split."""
    synthetic = recipe.data.synthetic
    assert synthetic is not None
    return [load_label_map(file) for name in synthetic.labels for file in _label_files(name, near)]


def _contrasts(recipe: Recipe) -> tuple[str, ...]:
    """What must be drawn: every condition's first contrast and the target's; for super-resolution all of them."""
    known = ("t1", "t2", "flair", "pd")
    if recipe.task == "super_resolution":
        sought = [name for name in recipe.synthetic_targets if name in known]
        if not sought:
            msg = (
                f"data.synthetic: of the target's contrasts {', '.join(recipe.target.contrasts)} the generator knows "
                f"{', '.join(known)}, and each condition needs another contrast beside it; give conditions other "
                "contrasts than the target's, or 'optional: true'"
            )
            raise RequestError(msg)
        beside = [name for c in recipe.conditions if not c.coarse for name in c.contrasts if name in known]
        return tuple(dict.fromkeys((*sought, *beside)))
    parts = [*(condition.contrasts for condition in recipe.conditions), recipe.target.contrasts]
    wanted = []
    for contrasts in parts:
        found = next((name for name in contrasts if name in known), None)
        if found is None:
            msg = f"data.synthetic: the generator cannot draw {', '.join(contrasts)}; it knows {', '.join(known)}"
            raise RequestError(msg)
        wanted.append(found)
    return tuple(dict.fromkeys(wanted))


def _label_files(name: str, near: Path | None) -> list[Path]:
    if name == "project":
        return [case.masks["labels"] for case in project_datalist().cases("train") if "labels" in case.masks]
    path = Path(name) if near is None else near / name
    files = sorted(path.glob("*.nii*")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        msg = f"data.synthetic.labels: {path} is no label map and no folder of label maps (.nii, .nii.gz)"
        raise RequestError(msg)
    return files
