"""One synthetic head, several contrasts: from a seed to images.

A draw goes: deform a crop of a label map; place lesions; give each voxel a shade of its tissue, the same for all
contrasts; and for each contrast look the signal up in a palette, blur (partial volume), shade, disturb, and scale. A
draw depends on its seed and the options alone, and a contrast's image does not depend on which others are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from scorefusion.errors import RequestError
from scorefusion.synthesis import artefacts, tissue
from scorefusion.synthesis.fields import apply_along, cosine_cut_matrix, gaussian_blur_matrix, random_field
from scorefusion.synthesis.labels import FLUIDS, LAST_OF_BRAIN, LabelMap, Tissue
from scorefusion.synthesis.lesions import Lesions, draw_lesions, no_lesions
from scorefusion.synthesis.sequences import CONTRASTS, draw_protocol
from scorefusion.transfer import to_device

Mode = Literal["plausible", "random", "mixed"]

BRIGHT_PERCENTILE = 99.5
"""Of the foreground goes to +1, as in `intensity.fit_intensity_scale`."""

BRIGHT_SAMPLES = 8192


@dataclass(frozen=True)
class GeneratorOptions:
    """What heads are made.

    Attributes:
        mode: "plausible" computes signal from relaxation times, "random" gives tissues any brightness, "mixed" draws
            one of the two for each head.
        contrasts: of `CONTRASTS`; each becomes an image.
        shape: `(I, J, K)` of the images.
        spacing_mm: of the images, isotropic.
        plausible_share: of heads in mode "mixed".
        strip_share: of heads without skull; maps without one are always so.
        lesion_share: of heads with lesions.
        flip_share: of heads mirrored left to right.
        rotation: largest angle about each axis, degrees.
        scaling: largest change of size, relative.
        warp_mm: standard deviation of the elastic displacement.
        field: tesla; None draws 1.5 or 3.
        coarse_share: of images scanned with thick slices or large voxels, and interpolated back.
        ghost_share: of images with motion ghosts.
        ringing_share: of images with Gibbs ringing.
        noise: from ... to, standard deviation relative to bright tissue; drawn on a logarithmic scale.
        bias: from ... to, standard deviation of the logarithm of the shading.
        sharpness: from ... to, standard deviation of the point spread, voxels.
    """

    mode: Mode = "plausible"
    contrasts: tuple[str, ...] = ("t1", "t2", "flair", "pd")
    shape: tuple[int, int, int] = (96, 96, 96)
    spacing_mm: float = 1.0
    plausible_share: float = 0.7
    strip_share: float = 0.7
    lesion_share: float = 0.35
    flip_share: float = 0.5
    rotation: float = 12.0
    scaling: float = 0.12
    warp_mm: float = 1.5
    field: float | None = None
    coarse_share: float = 0.15
    ghost_share: float = 0.1
    ringing_share: float = 0.1
    noise: tuple[float, float] = (0.004, 0.03)
    bias: tuple[float, float] = (0.0, 0.12)
    sharpness: tuple[float, float] = (0.5, 0.85)

    def __post_init__(self) -> None:
        if self.mode not in ("plausible", "random", "mixed"):
            msg = f"The mode is {self.mode!r}; choose 'plausible', 'random' or 'mixed'."
            raise RequestError(msg)
        strangers = [name for name in self.contrasts if name not in CONTRASTS]
        if strangers or not self.contrasts:
            msg = f"Contrasts are {', '.join(self.contrasts) or 'none'}; choose from {', '.join(CONTRASTS)}."
            raise RequestError(msg)
        if len(self.shape) != 3 or min(self.shape) < 8:
            msg = f"The shape of a synthetic head needs three sizes of at least 8 voxels, got {tuple(self.shape)}."
            raise RequestError(msg)
        if not self.spacing_mm > 0:
            msg = f"The spacing of a synthetic head must be positive millimetres, got {self.spacing_mm}."
            raise RequestError(msg)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class SyntheticHead:
    """One draw.

    Attributes:
        images: by contrast, float32 `(I, J, K)`; background near -1, bright tissue near +1, exactly -1 where stripped.
        classes: uint8 `(I, J, K)`, values of `Tissue`.
        parameters: all that was drawn, ready for JSON.
    """

    images: dict[str, Tensor]
    classes: Tensor
    parameters: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Source:
    """A label map made ready: with a rim of background, on the device, with what is asked of it each time."""

    name: str
    classes: Tensor  # uint8, flat
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    brain: tuple[tuple[int, int], ...]  # first and last voxel of the brain along each axis
    counts: np.ndarray  # voxels of each tissue
    has_head: bool


class ContrastGenerator:
    """Makes synthetic heads from label maps.

    Args:
        maps: at least one; each draw takes one of them.
        options: what to make.
        device: where to compute; images stay there. A seed gives another head on another kind of device.
    """

    def __init__(
        self, maps: Sequence[LabelMap], options: GeneratorOptions | None = None, device: torch.device | str = "cpu"
    ) -> None:
        if not maps:
            msg = "The generator needs at least one label map, got none. Read some with `load_label_map`."
            raise RequestError(msg)
        self.options = options or GeneratorOptions()
        self.device = torch.device(device)
        self._sources = [_prepare(label_map, self.device) for label_map in maps]

    def draw(self, seed: int) -> SyntheticHead:
        """The head of a seed: always the same, whatever was drawn before.

        Args:
            seed: 0 or more.
        """
        options = self.options
        rng = np.random.default_rng([seed, 0])
        source = self._sources[int(rng.integers(len(self._sources)))]
        fields = self._noise_source(rng)
        mode = options.mode
        if mode == "mixed":
            mode = "plausible" if rng.random() < options.plausible_share else "random"
        stripped = bool(rng.random() < options.strip_share) or not source.has_head
        tissues = tissue.draw_tissues(rng, options.field)

        classes = self._deform(source, rng, fields, stripped)
        if stripped:
            classes = classes * self._brain_mask(classes, rng)
        wobble = self._field(4.0, fields)
        ill = rng.random() < options.lesion_share
        lesions = draw_lesions(classes, wobble, options.spacing_mm, rng) if ill else no_lesions(classes)
        shades, shade_facts = self._shades(lesions, rng, fields)
        shared_bias = random_field(options.shape, self._bias_scale(rng), fields, self.device)
        counts = _row_counts(source, lesions, stripped)

        images, facts = {}, {}
        for name in options.contrasts:
            own = np.random.default_rng([seed, 1 + CONTRASTS.index(name)])
            palette, about = self._palette(mode, name, tissues, own)
            images[name], scanned = self._scan(palette, shades, lesions.classes, counts, shared_bias, stripped, own)
            facts[name] = about | scanned
        parameters = {
            "seed": int(seed),
            "mode": mode,
            "map": source.name,
            "stripped": stripped,
            "field": tissues.field,
            "lesions": lesions.parameters,
            "texture": shade_facts,
            "tissues": tissues.to_dict() if mode == "plausible" else {},
            "contrasts": facts,
        }
        return SyntheticHead(images, lesions.classes, parameters)

    # -- the head --------------------------------------------------------------------------------------------------

    def _deform(self, source: _Source, rng: np.random.Generator, fields: torch.Generator, stripped: bool) -> Tensor:
        """A crop of the map, turned, sized, warped and perhaps mirrored: uint8 `(I, J, K)`."""
        options = self.options
        shape = options.shape
        angles = np.deg2rad(rng.uniform(-options.rotation, options.rotation, 3))
        size = 1.0 + rng.uniform(-options.scaling, options.scaling) + 0.3 * options.scaling * rng.uniform(-1, 1, 3)
        flip = -1.0 if rng.random() < options.flip_share else 1.0
        # millimetres of the image to voxels of the map
        matrix = np.diag(1.0 / np.asarray(source.spacing)) @ _rotation(angles) @ np.diag(1.0 / size)
        matrix = matrix * options.spacing_mm
        matrix[:, 0] *= flip
        centre = self._centre(source, rng, stripped)
        axes = [torch.arange(n, device=self.device, dtype=torch.float32) - (n - 1) / 2 for n in shape]
        index = None
        for axis in range(3):
            step = [float(value) for value in matrix[axis]]
            place = axes[0][:, None, None] * step[0] + axes[1][None, :, None] * step[1] + centre[axis] + 0.5
            place = place + axes[2][None, None, :] * step[2]
            if options.warp_mm > 0:
                wide = self._field(40.0, fields).mul_(options.warp_mm / source.spacing[axis])
                fine = self._field(12.0, fields).mul_(0.25 * options.warp_mm / source.spacing[axis])
                place = place.add_(wide).add_(fine)
            # Beyond the map there is only its rim, which is background. `int` of a positive number is its floor.
            voxel = place.clamp_(0, source.shape[axis] - 1).to(torch.int32)
            index = voxel if index is None else index.mul_(source.shape[axis]).add_(voxel)
        assert index is not None
        return source.classes.index_select(0, index.reshape(-1)).reshape(shape)

    def _centre(self, source: _Source, rng: np.random.Generator, stripped: bool) -> list[float]:
        """Where the crop lies: anywhere such that the brain, with some of its surroundings, fills it."""
        centre = []
        rim = 4.0 if stripped else 20.0
        for axis in range(3):
            first, last = source.brain[axis]
            step = source.spacing[axis]
            half = 0.5 * self.options.shape[axis] * self.options.spacing_mm / step
            low, high = first - rim / step + half, last + rim / step - half
            middle = 0.5 * (first + last)
            free = max(0.0, 0.5 * (high - low))
            centre.append(middle + rng.uniform(-1, 1) * (free + 3.0 / step))
        return centre

    def _brain_mask(self, classes: Tensor, rng: np.random.Generator) -> Tensor:
        """What a skull-stripping tool would keep: the brain, and fluid in and close upon it."""
        solid = (classes >= 1) & (classes <= LAST_OF_BRAIN) & (classes != FLUIDS[1])
        sigma = 5.0 / self.options.spacing_mm
        matrices = [to_device(gaussian_blur_matrix(n, sigma), self.device) for n in self.options.shape]
        near = apply_along(matrices, solid.float())
        fluid = (classes == FLUIDS[1]) & (near > float(rng.uniform(0.2, 0.42)))
        # Vessels and membranes between the folds stay in, too.
        other = (classes > LAST_OF_BRAIN) & (near > float(rng.uniform(0.48, 0.65)))
        return solid | fluid | other

    def _shades(
        self, lesions: Lesions, rng: np.random.Generator, fields: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Index into a flat palette for each voxel, int32 `(I * J * K,)`: tissue, water, iron."""
        weights = rng.dirichlet([3.0, 3.0, 1.0])
        parts = [(1.0, weights[0]), (3.0, weights[1]), (25.0, weights[2])]
        water = torch.zeros(self.options.shape, device=self.device)
        for scale, weight in parts:
            water.add_(self._field(scale, fields), alpha=float(np.sqrt(weight)))
        soft = lesions.rows == int(Tissue.SOFT_TISSUE)
        water = _to_level(water, tissue.WATER_RANGE, tissue.WATER_LEVELS)
        if bool(soft.any()):
            # Muscle and fat lie in sheets; a steep curve makes most voxels one or the other.
            sheets = self._field(7.0, fields).sub_(float(rng.uniform(0.0, 0.8)))
            share = torch.sigmoid(sheets.mul_(5.0)).mul_(tissue.WATER_LEVELS - 1).add_(0.5).to(torch.int32)
            water = torch.where(soft, share, water)
        if lesions.share is not None:
            share = (lesions.share * (tissue.WATER_LEVELS - 1) + 0.5).to(torch.int32)
            ill = (lesions.rows == int(Tissue.LESION)) | (lesions.rows == tissue.OEDEMA)
            water = torch.where(ill, share, water)
        iron = _to_level(self._field(5.0, fields), tissue.IRON_RANGE, tissue.IRON_LEVELS)
        index = (lesions.rows * tissue.WATER_LEVELS).add_(water).mul_(tissue.IRON_LEVELS).add_(iron)
        return index.reshape(-1), {"voxel": float(weights[0]), "fine": float(weights[1]), "wide": float(weights[2])}

    # -- the scans -------------------------------------------------------------------------------------------------

    def _palette(
        self, mode: str, contrast: str, tissues: tissue.Tissues, rng: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Signal of every shade, `(NUM_ROWS, WATER_LEVELS, IRON_LEVELS)`."""
        if mode == "random":
            return tissue.random_palette(rng), {}
        csf_t1 = float(tissues.means.t1[Tissue.VENTRICLES])
        protocol = draw_protocol(contrast, tissues.field, csf_t1, rng)
        # Blood that flows is lost to a spin echo, and may be fresh and bright in a gradient echo.
        flow = rng.uniform(0.3, 1.6) if protocol.kind in ("gradient_echo", "mprage") else rng.uniform(0.0, 0.4)
        enhanced = contrast == "t1ce"
        palette = tissue.plausible_palette(tissues, protocol, enhanced=enhanced, flow=1.3 if enhanced else flow)
        return palette, {"protocol": protocol.to_dict(), "flow": round(float(flow), 3)}

    def _scan(
        self,
        palette: np.ndarray,
        shades: Tensor,
        classes: Tensor,
        counts: np.ndarray,
        shared_bias: Tensor,
        stripped: bool,
        rng: np.random.Generator,
    ) -> tuple[Tensor, dict[str, Any]]:
        """One image and what was done to it."""
        options = self.options
        fields = self._noise_source(rng)
        strength = float(rng.uniform(*options.bias))
        noise = float(np.exp(rng.uniform(*np.log(np.maximum(options.noise, 1e-6)))))
        table = palette / _bright_level(palette, counts, strength, noise, rng)
        facts: dict[str, Any] = {}

        x = to_device(torch.from_numpy(table.reshape(-1).astype(np.float32)), self.device)
        x = x.index_select(0, shades).reshape(options.shape)
        # Rounded, so that few matrices are made and kept.
        sigma = round(float(rng.uniform(*options.sharpness)), 2)
        matrices = [gaussian_blur_matrix(n, sigma) for n in options.shape]
        if rng.random() < options.ringing_share:
            share = round(float(rng.uniform(0.6, 0.9)), 2)
            matrices = [cosine_cut_matrix(n, share) @ matrix for n, matrix in zip(options.shape, matrices, strict=True)]
            facts["ringing"] = share
        x = apply_along([to_device(matrix, self.device) for matrix in matrices], x)
        x = artefacts.shade(x, strength, self._bias_scale(rng), fields, shared_bias)
        coarse = rng.random() < options.coarse_share
        moved = rng.random() < options.ghost_share
        acquisition = None
        if coarse:
            acquisition, facts["acquisition"] = artefacts.draw_acquisition(options.shape, rng)
            x = acquisition.forward(x[None, None])[0, 0]
        if moved:
            x, facts["ghosts"] = artefacts.draw_ghosts(x, rng)
        x = artefacts.add_noise(x.clamp_min_(0.0), noise, fields)
        if acquisition is not None:
            kind = "cubic" if rng.random() < 0.5 else "linear"
            x = acquisition.upsample(x[None, None], kind)[0, 0]  # type: ignore[arg-type]
        facts |= {"sharpness": sigma, "bias": round(strength, 4), "noise": round(noise, 5)}
        if stripped:
            return (x * (classes > 0)).mul_(2.0).sub_(1.0), facts
        floor = 1.1774 * noise  # median of the magnitude of noise alone
        return x.sub_(floor).mul_(2.0 / (1.0 - floor)).sub_(1.0), facts

    # -- small things ----------------------------------------------------------------------------------------------

    def _noise_source(self, rng: np.random.Generator) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))

    def _field(self, scale_mm: float, fields: torch.Generator) -> Tensor:
        return random_field(self.options.shape, scale_mm / self.options.spacing_mm, fields, self.device)

    def _bias_scale(self, rng: np.random.Generator) -> float:
        """Voxels over which a coil's sensitivity changes."""
        return float(round(rng.uniform(45.0, 90.0) / 5.0) * 5.0 / self.options.spacing_mm)


def _prepare(label_map: LabelMap, device: torch.device) -> _Source:
    classes = np.pad(label_map.classes, 1)
    brain = (classes >= 1) & (classes <= LAST_OF_BRAIN) & (classes != FLUIDS[1])
    if not brain.any():
        msg = f"'{label_map.source or 'the label map'}' has no brain in it. Give a map with white or grey matter."
        raise RequestError(msg)
    spans = []
    for axis in range(3):
        hits = np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append((int(hits[0]), int(hits[-1])))
    counts = label_map.counts().astype(np.float64)
    flat = torch.from_numpy(np.ascontiguousarray(classes).reshape(-1)).to(device)
    i, j, k = classes.shape
    return _Source(label_map.source, flat, (i, j, k), label_map.spacing, tuple(spans), counts, label_map.has_head)


def _rotation(angles: np.ndarray) -> np.ndarray:
    """`(3, 3)`, turns about i, then j, then k."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (other for other in range(3) if other != axis)
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    return turn


def _to_level(texture: Tensor, reach: float, levels: int) -> Tensor:
    """A standard normal field, changed in place, to int32 levels 0 .. levels - 1 of a palette."""
    step = (levels - 1) / (2.0 * reach)
    return texture.mul_(step).add_(reach * step + 0.5).clamp_(0, levels - 1).to(torch.int32)


def _row_counts(source: _Source, lesions: Lesions, stripped: bool) -> np.ndarray:
    """Voxels of each row of a palette in the foreground of the whole head."""
    counts = np.zeros(tissue.NUM_ROWS)
    counts[: len(Tissue)] = source.counts
    counts[[Tissue.BACKGROUND, Tissue.LESION]] = 0
    if stripped:
        counts[LAST_OF_BRAIN + 1 :] = 0
        counts[Tissue.CSF] *= 0.5  # the rest lies beyond the mask
    if lesions.share is not None:
        ill = torch.bincount(lesions.rows[lesions.share > 0.5], minlength=tissue.NUM_ROWS).cpu().numpy()
        diseases = [int(Tissue.LESION), tissue.OEDEMA, tissue.TUMOUR, tissue.NECROSIS]
        counts[diseases] = ill[diseases]
    return counts


def _bright_level(
    palette: np.ndarray, counts: np.ndarray, shading: float, noise: float, rng: np.random.Generator
) -> float:
    """What `BRIGHT_PERCENTILE` of the whole head's foreground does not exceed, in units of the palette.

    From the whole map's share of each tissue, not from the crop: a scan's scale is a property of the whole scan.

    Args:
        palette: `(NUM_ROWS, WATER_LEVELS, IRON_LEVELS)`.
        counts: `(NUM_ROWS,)` voxels in the foreground.
        shading: standard deviation of the logarithm of the bias field.
        noise: standard deviation, relative to what is looked for.
        rng: where chance comes from.
    """
    rows = rng.choice(len(counts), BRIGHT_SAMPLES, p=counts / counts.sum())
    # The blur evens out some of the texture, and the brain sees less of the shading than the whole field has.
    normal = rng.standard_normal((3, BRIGHT_SAMPLES)) * [[0.5], [0.7], [1.0]]
    water = np.clip((normal[0] / tissue.WATER_RANGE + 1) * 0.5 * tissue.WATER_LEVELS, 0, tissue.WATER_LEVELS - 1)
    values = palette[rows, water.astype(int), tissue.IRON_LEVELS // 2] * np.exp(shading * normal[1])
    bright = float(np.percentile(values, BRIGHT_PERCENTILE))
    bright = float(np.percentile(values + noise * bright * normal[2], BRIGHT_PERCENTILE))
    return max(bright * rng.uniform(0.93, 1.03), 1e-6)  # the blur dims small bright parts, more or less
