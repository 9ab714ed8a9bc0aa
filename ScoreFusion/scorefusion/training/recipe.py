"""A recipe: all that makes a model, in one YAML file. What does not exist, fit or make sense is refused.

    name: my-t1-to-flair
    task: translation
    conditions: [{name: t1, contrasts: [t1]}]
    target: {contrasts: [flair]}
    data: {datalist: scans.json}
    stages:
      planes: {minutes: 60}
      fusion: {minutes: 30}

Every key has a default but those shown. `extends: other-recipe` starts from another one and changes what is written.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from scorefusion.bundle import bounds
from scorefusion.bundle.metadata import Checker, check_plan, check_presets
from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.documents import DEEPEST, parse_yaml, read_yaml
from scorefusion.errors import DocumentError, RequestError
from scorefusion.fusion.inputs import InputLayout
from scorefusion.fusion.planes import Plane

RECIPES = Path(__file__).with_name("recipes")
LENGTHS = {"steps": "minutes", "minutes": "steps"}  # of a stage: one or the other
MOST_EXTENDED = 8  # recipes in a chain of `extends`
STAGES = ("planes", "prior", "fusion", "volumes", "joint", "volume")
Contrast = Literal["t1", "t1ce", "t2", "flair", "pd"]
CONTRASTS: tuple[Contrast, ...] = ("t1", "t1ce", "t2", "flair", "pd")
PlaneName = Literal["sagittal", "coronal", "axial"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Condition(_Part):
    """What the model is given.

    Attributes:
        coarse: a scan of the target, measured by the scanners of `data.acquisition`.
        median: intensities are normalised so that the foreground's median has this level; None = by the robust range.
    """

    name: str
    contrasts: tuple[Contrast, ...] = CONTRASTS
    coarse: bool = False
    optional: bool = False
    median: float | None = Field(None, gt=-1, lt=1)
    description: str = ""


class Target(_Part):
    """What is sought. `median` as of a condition; `range` in the output's units, from background to +1."""

    name: str = "image"
    contrasts: tuple[Contrast, ...] = CONTRASTS
    median: float | None = Field(None, gt=-1, lt=1)
    range: tuple[float, float] | None = None


class Networks(_Part):
    """Sizes and what the networks are shown.

    Attributes:
        size: `compact` (for CPUs) or `paper`.
        plane, fusion, volume: keys of `UNetConfig` that differ from the named size.
        planes: anatomical planes of the ensemble.
        shared: one plane network serves all planes, told which one it looks at; else one each.
        per_condition: an ensemble for each condition, fused (the paper's second way to several conditions).
        features: inject the plane networks' features into the fusion network.
        prior: a gate under the fusion network: weights and a gain by acquisition (see `fusion.gate.STORED_NAME`).
        kind: what a 3D network alone does (stage `volume`): "diffusion", or "regression" without noise.
        base: what the residual is added to: of a super-resolution model the coarse scan on the fine grid, by this
            method; of a translation model its first condition, or that one "mapped" by the mean brightness that the
            target has at each brightness of it (measured on the training data).
    """

    size: Literal["compact", "paper"] = "compact"
    plane: dict[str, Any] = {}
    fusion: dict[str, Any] = {}
    volume: dict[str, Any] = {}
    planes: tuple[PlaneName, ...] = ("sagittal", "coronal", "axial")
    shared: bool = True
    per_condition: bool = False
    features: bool = True
    prior: bool = False
    kind: Literal["diffusion", "regression"] = "diffusion"
    slab_radius: int = Field(2, ge=0, le=8)
    position: bool = False
    foreground: bool = True
    prediction: Literal["clean", "noise", "v"] = "clean"
    residual_gain: float = Field(8.0, gt=0)
    base: Literal["back_projection", "cubic", "linear", "nearest", "condition", "mapped_condition"] = "back_projection"
    base_rounds: int = Field(6, ge=0)
    schedule: Literal["cosine", "linear"] = "cosine"
    timesteps: int = Field(1000, ge=10)
    beta: tuple[float, float] = (1e-4, 0.09)


class Scanners(_Part):
    """Scanners to draw from, in voxels of the target grid.

    Attributes:
        isotropic_share: share of isotropic measurements; the rest are thick slices along a random axis.
        isotropic_factors: each drawn with equal chance.
        slice_factors: distance between slices, uniform over a mixture of ranges (each drawn with equal chance).
        width_ratio: slice thickness over slice distance; below 1 is a gap.
        gapless_share: share of acquisitions with thickness = distance.
        gaussian_share: share of Gaussian slice profiles.
        uneven_share: of thick-slice scans whose slices differ in gain and noise, as those of real scanners do.
        slice_gain: largest standard deviation of the logarithm of the gain from slice to slice.
        slice_noise: largest standard deviation of a slice's own noise, 1 = the intensity range.
    """

    isotropic_share: float = Field(0.45, ge=0, le=1)
    isotropic_factors: tuple[int, ...] = (4, 4, 4, 3, 2)
    slice_factors: tuple[tuple[float, float], ...] = ((4.0, 6.0), (4.0, 6.0), (2.0, 8.0))
    width_ratio: tuple[float, float] = (0.7, 1.3)
    gapless_share: float = Field(0.7, ge=0, le=1)
    gaussian_share: float = Field(0.25, ge=0, le=1)
    uneven_share: float = Field(0.0, ge=0, le=1)
    slice_gain: float = Field(0.0, ge=0, le=0.2)
    slice_noise: float = Field(0.0, ge=0, le=0.2)


class Augmentation(_Part):
    """Random changes of a block. Intensities change together in all channels only where the task allows it.

    Attributes:
        flip: chance of mirroring along R, A, S.
        gamma_share, gamma: how often the contrast is bent, and the largest logarithm of the exponent.
        invert_share: how often tissue is inverted on a dark background.
        scale: smallest and largest factor.
        coarse_share: how often slices are made thick or voxels large, along any axis.
        shade: largest standard deviation of the logarithm of a smooth shading.
        noise: largest standard deviation of Rician noise, 1 = the intensity range.
        clinical_share: how often the grid is a clinical one: two axes finer than the third, which alone is made coarse.
        finer: how many voxels of that grid fill one of the volume's, from ... to.
    """

    flip: tuple[float, float, float] = (0.5, 0.25, 0.25)
    gamma_share: float = Field(0.5, ge=0, le=1)
    gamma: float = Field(0.35, ge=0, le=1)
    invert_share: float = Field(0.0, ge=0, le=1)
    scale: tuple[float, float] = (0.8, 1.15)
    coarse_share: float = Field(0.0, ge=0, le=1)
    shade: float = Field(0.0, ge=0, le=1)
    noise: float = Field(0.0, ge=0, le=1)
    clinical_share: float = Field(0.0, ge=0, le=1)
    finer: tuple[float, float] = (1.0, 2.2)


class Guides(_Part):
    """What may be missing or wrong with the optional conditions in training, since it is in use.

    Attributes:
        alone_share: how often none is there.
        single_share: how often one is there; otherwise each is dropped by itself.
        dropped: chance of that.
        shift: largest displacement along each axis, voxels: what registration leaves; most are much smaller.
        mislabelled_share: how often one stands in the place of another contrast.
        lesion_share: how often there is a lesion in the target alone, and how often one in a guide alone.
    """

    alone_share: float = Field(0.0, ge=0, le=1)
    single_share: float = Field(0.0, ge=0, le=1)
    dropped: float = Field(0.3, ge=0, le=1)
    shift: float = Field(0.0, ge=0, le=8)
    mislabelled_share: float = Field(0.0, ge=0, le=1)
    lesion_share: float = Field(0.0, ge=0, le=1)


class Synthetic(_Part):
    """Heads from label maps, drawn beside the scans or instead of them."""

    share: float = Field(1.0, ge=0, le=1)
    labels: tuple[str, ...] = ("project",)
    mode: Literal["plausible", "random", "mixed"] = "plausible"
    options: dict[str, Any] = {}


class Data(_Part):
    """Which volumes, and how blocks are cut from them.

    Attributes:
        datalist: JSON file, or a packed .safetensors file (`--pack`), or "project" for the project's own data, or
            "none" (synthetic heads only).
        weights: how often a volume is drawn, by the beginning of `subject/contrast`; 1 if unnamed.
        train_on: splits that are learned from; all three, with `leave_out`, for leave-one-subject-out.
        leave_out: persons not to be read (leave-one-subject-out).
        sharp_axes: "auto" measures which axes have real detail and coarsens only those; "all" trusts every volume.
        block: voxels of a block along R, A, S.
        pool: blocks in stock; one is renewed a step.
        corrupt: what to do with a file that cannot be read: "stop", or "skip" (named and counted).
    """

    datalist: str = "project"
    weights: dict[str, float] = {}
    train_on: tuple[Literal["train", "val", "test"], ...] = ("train",)
    leave_out: tuple[str, ...] = ()
    sharp_axes: Literal["auto", "all"] = "auto"
    block: tuple[int, int, int] = (96, 96, 96)
    pool: int = Field(24, ge=1)
    cache_workers: int = Field(0, ge=0)
    corrupt: Literal["stop", "skip"] = "stop"
    acquisition: Scanners = Scanners()
    augmentation: Augmentation = Augmentation()
    guides: Guides = Guides()
    synthetic: Synthetic | None = None


class Stage(_Part):
    """How long and how fast to learn.

    Attributes:
        minutes: training time, added up over resumed runs; the learning rate falls along it.
        steps: optimiser steps instead; a run by steps can be repeated to the bit.
        learning_rate: peak, after `warmup_steps`; falls along half a cosine to a fiftieth.
        accumulate: batches to one optimiser step.
        blocks: blocks in a batch (stage planes); crops in a batch (other stages).
        slices: slices of a block and plane in a batch (stage planes).
        crop: edge of a block in this stage; None = `data.block`.
        pool: blocks in stock in this stage; None = `data.pool`.
        renew: blocks of the stock that are replaced a step.
        pure_noise_share: share of samples at the noisiest level, where one evaluation is the posterior mean.
        ema_decay: of the averaged weights that are kept.
        clip: largest gradient norm.
        l1: weight of the absolute beside the squared error (the paper's fusion: 5 to 150).
        margin: voxels at a crop's border that do not count (other stages than planes).
        checkpointing: recompute activations in the backward pass: less memory, more time.
        blocks_to_fit, shrinkage: of stage prior: how many blocks, and the share of the fitted weights that is kept.
    """

    minutes: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    learning_rate: float = Field(8e-4, gt=0)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    accumulate: int = Field(1, ge=1)
    blocks: int = Field(4, ge=1)
    slices: int = Field(2, ge=1)
    crop: int | None = Field(None, ge=16)
    pool: int | None = Field(None, ge=1)
    renew: int = Field(1, ge=1)
    pure_noise_share: float = Field(0.5, ge=0, le=1)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    l1: float = Field(0.0, ge=0)
    margin: int = Field(6, ge=0)
    checkpointing: bool = False
    checkpoint_minutes: float = Field(3.0, gt=0, le=5)
    picture_minutes: float = Field(5.0, gt=0)
    blocks_to_fit: int = Field(240, ge=8)
    shrinkage: float = Field(0.6, ge=0, le=1)


class Output(_Part):
    """The bundle at the end. `card` and `licence` are files beside the recipe; without them a plain card is written."""

    version: str = "0.1.0"
    description: str = ""
    presets: dict[str, dict[str, Any]] = {}
    uncertainty: dict[str, Any] = {}
    domain: dict[str, Any] = {}
    card: str | None = None
    licence: str | None = None
    licence_name: str = "Apache-2.0"
    experimental: bool = False


class Recipe(_Part):
    """The whole of it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    task: Literal["super_resolution", "translation"]
    seed: int = Field(0, ge=0)
    conditions: tuple[Condition, ...] = Field(min_length=1)
    target: Target = Target()
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    networks: Networks = Networks()
    data: Data = Data()
    stages: dict[Literal["planes", "prior", "fusion", "volumes", "joint", "volume"], Stage]
    warm_start: str | tuple[str, ...] | None = None
    precision: Literal["auto", "32", "bf16"] = "auto"
    output: Output = Output()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [condition.name for condition in self.conditions]
        if len(set(names)) < len(names):
            msg = f"conditions: the names {names} are not all different"
            raise ValueError(msg)
        coarse = [condition.coarse for condition in self.conditions]
        if self.task == "super_resolution" and (not coarse[0] or sum(coarse) != 1):
            msg = "conditions: the first condition of a super_resolution model, and no other, has 'coarse: true'"
            raise ValueError(msg)
        if self.task == "translation" and any(coarse):
            msg = "conditions: 'coarse' belongs to the task super_resolution"
            raise ValueError(msg)
        if self.task == "super_resolution" and self.target.median is not None:
            msg = "target.median: belongs to translation; what is sharpened keeps its own range"
            raise ValueError(msg)
        if self.conditions[0].optional:
            msg = "conditions: the first one is the base and cannot be optional"
            raise ValueError(msg)
        if (self.task == "translation") != self.networks.base.endswith("condition"):
            msg = "networks.base: 'condition' and 'mapped_condition' belong to translation, and translation to them"
            raise ValueError(msg)
        if "volume" in self.stages and len(self.stages) > 1:
            msg = "stages: 'volume' trains a 3D network alone; give it a recipe of its own"
            raise ValueError(msg)
        if "volume" not in self.stages and "planes" not in self.stages and not self.warm_start:
            msg = "stages: without 'planes' or 'volume' there must be a 'warm_start' that brings the plane networks"
            raise ValueError(msg)
        if isinstance(self.warm_start, tuple) and len(self.warm_start) > 1:
            if not self.networks.per_condition or len(self.warm_start) != len(self.conditions):
                msg = (
                    "warm_start: several models are for 'networks.per_condition: true', one for each of the "
                    f"{len(self.conditions)} conditions"
                )
                raise ValueError(msg)
        if self.networks.kind == "regression" and self.networks.prediction != "clean":
            msg = "networks.prediction: a regression network predicts 'clean'"
            raise ValueError(msg)
        for name, stage in self.stages.items():
            if name != "prior" and (stage.minutes is None) == (stage.steps is None):
                msg = f"stages.{name}: give 'minutes' or 'steps', one of them"
                raise ValueError(msg)
        if "prior" in self.stages and not self.networks.prior:
            msg = "networks.prior: must be true for a stage 'prior'"
            raise ValueError(msg)
        if self.networks.prior and self.networks.prediction != "clean":
            msg = (
                "networks.prior: the gain of weights by acquisition is one of the clean residual; "
                f"set 'prediction: clean' or 'prior: false' (prediction is '{self.networks.prediction}')"
            )
            raise ValueError(msg)
        if self.data.datalist == "none" and self.data.synthetic is None:
            msg = "data: with 'datalist: none' there must be a 'synthetic' section"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _exportable(self) -> Recipe:
        """What a bundle may not hold must be known before hours of training, not after."""
        checker, networks, output = Checker(), self.networks, self.output

        def check(values: dict[str, Any], prefix: str, table: bounds.Table) -> None:
            checker.check_all(values, prefix, {key: table[key] for key in values if key in table})

        shared = ("residual_gain", "base_rounds")
        check({key: getattr(networks, key) for key in shared}, "networks.", bounds.SECTION)
        check({"spacing_mm": list(self.spacing_mm), "conditions": [{} for _ in self.conditions]}, "", bounds.SECTION)
        for index, condition in enumerate(self.conditions):
            values = {"name": condition.name, "description": condition.description}
            check(values, f"conditions.{index}.", bounds.CONDITION)
        check({"name": self.target.name}, "target.", bounds.TARGET)
        for key in ("plane", "fusion", "volume"):
            check(getattr(networks, key), f"networks.{key}.", bounds.NETWORK)
        schedule = self.networks.timesteps if networks.timesteps <= bounds.MAX_TIMESTEPS else None
        if schedule is None:
            checker.expect("networks.timesteps", networks.timesteps, f"at most {bounds.MAX_TIMESTEPS}")
        check_presets(checker, output.presets, "output.presets.", schedule)
        uncertainty = bounds.DEFAULT_UNCERTAINTY | output.uncertainty
        check_plan(checker, uncertainty, "output.uncertainty.", bounds.UNCERTAINTY, schedule)
        check(output.domain, "output.domain.", bounds.DOMAIN)
        check({"version": output.version}, "output.", bounds.METADATA)
        if output.description:
            check({"description": output.description}, "output.", bounds.METADATA)
        if checker.problems:
            raise ValueError("; ".join(checker.problems))
        return self

    @property
    def medians(self) -> tuple[float | None, ...]:
        """Levels of the foreground's median in the channels of a block: the conditions', then the target's."""
        return (*(condition.median for condition in self.conditions if not condition.coarse), self.target.median)

    @property
    def synthetic_targets(self) -> tuple[str, ...]:
        """Contrasts of synthetic heads that can be sought: every condition that must be there has another one."""
        beside = [condition for condition in self.conditions if not (condition.coarse or condition.optional)]
        return tuple(
            name
            for name in self.target.contrasts
            if all(any(other != name for other in condition.contrasts) for condition in beside)
        )

    @property
    def maps_conditions(self) -> bool:
        """Whether networks start from what the brightness of the conditions says of the target."""
        return self.networks.base == "mapped_condition"

    @property
    def warm_starts(self) -> tuple[str, ...]:
        """Names or folders of the models to start from: none, one, or one for each condition."""
        if self.warm_start is None:
            return ()
        return (self.warm_start,) if isinstance(self.warm_start, str) else self.warm_start

    @property
    def input_layout(self) -> InputLayout:
        """What the networks are shown."""
        optional = sum(condition.optional for condition in self.conditions) and not self.networks.per_condition
        return InputLayout(
            slab_radius=self.networks.slab_radius,
            position=self.networks.position,
            foreground=self.networks.foreground,
            plane_context=self.networks.shared,
            acquisition_context=self.task == "super_resolution",
            presence_context=len(self.conditions) if optional else 0,
            residual_gain=self.networks.residual_gain,
            prediction=self.networks.prediction,
        )

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Noise levels."""
        if self.networks.schedule == "cosine":
            return NoiseSchedule.cosine(self.networks.timesteps, prediction=self.networks.prediction)
        first, last = self.networks.beta
        return NoiseSchedule.linear(self.networks.timesteps, first, last, prediction=self.networks.prediction)

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Planes of the ensemble."""
        return tuple(Plane(name) for name in self.networks.planes)

    def to_share(self) -> dict[str, Any]:
        """Plain values without the folders of this machine: files and models by their names."""
        return without_folders(self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """Complete: every value, defaults included."""
        import yaml

        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=120))


def without_folders(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a recipe with each path cut to its last part."""
    shared: dict[str, Any] = dict(recipe)
    start = shared.get("warm_start")
    shared["warm_start"] = [Path(name).name for name in start] if isinstance(start, (list, tuple)) else _name(start)
    shared["data"] = dict(shared["data"], datalist=Path(shared["data"]["datalist"]).name)
    if shared["data"].get("synthetic"):
        labels = [Path(name).name for name in shared["data"]["synthetic"]["labels"]]
        shared["data"]["synthetic"] = dict(shared["data"]["synthetic"], labels=labels)
    output = dict(shared["output"])
    shared["output"] = output | {key: _name(output.get(key)) for key in ("card", "licence")}
    return shared


def _name(path: str | None) -> str | None:
    return None if path is None else Path(path).name


def known_recipes() -> list[str]:
    """Names of the recipes that come with ScoreFusion."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name_or_path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe by name or file.

    Args:
        name_or_path: one of `known_recipes()`, or a YAML file.
        changes: `key.key=value` in YAML, laid over the file (`stages.planes.minutes=5`).

    Raises:
        RequestError: what is wrong, where, and what was probably meant; all problems at once.
    """
    path = _find(name_or_path)
    content = _read_mapping(path)
    for change in changes:
        key, equals, value = change.partition("=")
        keys = key.split(".")
        if not equals or not key or len(keys) > DEEPEST:
            msg = f"--set {change[:200]!r}: expected key.key=value, for example stages.planes.minutes=5"
            raise RequestError(msg)
        try:
            _merge(content, _nest(keys, parse_yaml(value)))
        except DocumentError as error:
            msg = f"--set {key}: the value {error}"
            raise RequestError(msg) from error
    return parse_recipe(content, str(path))


def parse_recipe(content: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from plain values; `where` names its source in messages."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors()]
        msg = f"recipe {where}: " + "; ".join(problems)
        raise RequestError(msg) from None


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    shipped = RECIPES / f"{name_or_path}.yaml"
    found = next((each for each in (path, shipped) if _is_file(each)), None)
    if found is not None:
        return found
    name = str(name_or_path)[:100]
    near = difflib.get_close_matches(name, known_recipes(), n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    msg = f"There is no recipe {name!r}. {hint}Give a YAML file or one of: {', '.join(known_recipes())}."
    raise RequestError(msg)


def _read_mapping(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's own keys over those of what it extends; `extending` are the recipes that led here."""
    chain = (*extending, path.resolve())
    if chain[-1] in extending or len(chain) > MOST_EXTENDED:
        names = " -> ".join(each.name for each in chain[:5])
        what = "itself" if chain[-1] in extending else f"more than {MOST_EXTENDED - 1} others"
        msg = f"recipe {chain[0]} extends {what}: {names}. Give one of them another name, or leave out 'extends'"
        raise RequestError(msg)
    try:
        content = read_yaml(path)
    except DocumentError as error:
        msg = f"recipe {error}"
        raise RequestError(msg) from error
    if not isinstance(content, dict):
        msg = f"recipe {path} holds {type(content).__name__}; expected keys and values"
        raise RequestError(msg)
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str) or not base:
        msg = f"recipe {path}: 'extends' is {base!r}; expected the name or the file of one recipe"
        raise RequestError(msg)
    beside = path.parent / f"{base}.yaml"
    merged = _read_mapping(_find(beside if _is_file(beside) else base), chain)
    _merge(merged, content)
    return merged


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long for any file
        return False


def _merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Mappings are merged; anything else replaces. A stage `null` is taken away; `steps` replaces `minutes`."""
    for key, value in changes.items():
        if key in LENGTHS:
            into.pop(LENGTHS[key], None)
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif key in STAGES and value is None:
            into.pop(key, None)
        else:
            into[key] = value


def _nest(keys: Sequence[str], value: Any) -> dict[str, Any]:
    return {keys[0]: value if len(keys) == 1 else _nest(keys[1:], value)}


def _describe(problem: Mapping[str, Any]) -> str:
    location = [part for part in problem["loc"] if part != "[key]"]
    where = ".".join(str(part) for part in location)
    if problem["type"] in ("extra_forbidden", "literal_error") and problem["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return f"{where} is not a key of a recipe; {hint}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    text = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {text} (got {problem['input']!r})" if where else text


def _keys_at(location: Sequence[Any]) -> list[str]:
    """Keys that a recipe may have at a place."""
    model: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, int) or part in STAGES:
            continue
        field: FieldInfo | None = model.model_fields.get(str(part))
        inner = _model_in(None if field is None else field.annotation)
        if inner is None:
            return list(model.model_fields)
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The recipe part inside an annotation such as `dict[..., Stage]` or `Synthetic | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner)) is not None), None)
