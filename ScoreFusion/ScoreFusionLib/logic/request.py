"""What the user asks for, nodes and settings, and how it reads on the worker's command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TranslateRequest:
    """The settings of a run. The defaults are the engine's.

    Attributes:
        model: Id of a model, or a path to a bundle.
        preset: `fast`, `balanced` or `best`.
        steps, samples: None = as the preset says.
        seed: Fixes the noise; the same seed gives the same result.
        device: `auto`, `cpu`, `cuda:0`, `mps`.
        spacing: Voxel size of the result in mm, None = the model's own. Super-resolution only.
        thickness: Slice thickness of the input in mm, None = the distance between the slices.
        axis: Voxel axis (0, 1, 2) across the thick slices, None = found from the spacing.
        uncertainty: Also make a map of how far the samples lie apart.
        register: Bring the further scans onto the first; False takes them to lie right.
        skip_unregistered: Go on without a scan whose registration fails, instead of an error.
    """

    model: str = "brain-sr"
    preset: str = "fast"
    steps: int | None = None
    samples: int | None = None
    seed: int = 0
    device: str = "auto"
    spacing: float | None = None
    thickness: float | None = None
    axis: int | None = None
    uncertainty: bool = False
    register: bool = True
    skip_unregistered: bool = False


@dataclass(frozen=True)
class JobInputs:
    """The nodes of a run.

    Attributes:
        volumes: Condition name to volume node, the base first.
        output, uncertainty: Nodes to fill; None makes new ones.
        reference: Volume to compare the result with, if any.
        change: Also make a map of result minus input; for models that keep the contrast.
        all_frames: Process every frame of a sequence instead of the current one.
        stacks: Further stacks of the base's contrast.
    """

    volumes: Mapping[str, Any]
    output: Any | None = None
    uncertainty: Any | None = None
    reference: Any | None = None
    change: bool = False
    all_frames: bool = False
    stacks: Sequence[Any] = ()

    @property
    def scans(self) -> dict[str, Any]:
        """All volume nodes of the run by name, the base first, the stacks last."""
        return {**self.volumes, **{f"stack{number}": node for number, node in enumerate(self.stacks, 1)}}


@dataclass(frozen=True)
class RunFiles:
    """The files of one run, all in one temporary folder.

    Attributes:
        inputs: Condition name to file, in the order of the model's conditions.
        output, uncertainty: Written by the worker; `uncertainty` is None when it is not wanted.
        stacks: Files of the further stacks.
    """

    inputs: dict[str, Path]
    output: Path
    uncertainty: Path | None
    stacks: tuple[Path, ...] = ()


def command_arguments(request: TranslateRequest, files: RunFiles) -> list[str]:
    """Return the arguments of `scorefusion` for a run.

    >>> files = RunFiles({"image": Path("in.nii")}, Path("out.nii"), None)
    >>> " ".join(command_arguments(TranslateRequest(steps=2), files))
    'translate in.nii --output out.nii --model brain-sr --preset fast --seed 0 --device auto --steps 2 --json'
    """
    base, *others = files.inputs.items()
    arguments = ["translate", str(base[1])]
    for name, path in others:
        arguments += ["--input", f"{name}={path}"]
    for path in files.stacks:
        arguments += ["--stack", str(path)]
    if others or files.stacks:
        arguments += [] if request.register else ["--no-register"]
        arguments += ["--skip-unregistered"] if request.skip_unregistered else []
    arguments += ["--output", str(files.output), "--model", request.model, "--preset", request.preset]
    arguments += ["--seed", str(request.seed), "--device", request.device]
    optional = {
        "--steps": request.steps,
        "--samples": request.samples,
        "--spacing": request.spacing,
        "--thickness": request.thickness,
        "--axis": None if request.axis is None else "ijk"[request.axis],
        "--uncertainty": files.uncertainty,
    }
    for option, value in optional.items():
        if value is not None:
            arguments += [option, str(value)]
    return [*arguments, "--json"]
