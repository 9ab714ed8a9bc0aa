"""In what pieces the networks work: as large as memory allows, and smaller ones when it runs out all the same.

Chunks of slices never change the result, nor do tiles of a 3D network that see all they depend on. Where memory is too
short for that, tiles see less and are blended: another image, near to the whole's, and said to be so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefusion.errors import OutOfMemory, RequestError
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.fusion.rules import FusionRule, ScoreFusion, VolumeRule
from scorefusion.fusion.tiling import is_cut
from scorefusion.networks.memory import live_numbers
from scorefusion.progress import Reporter
from scorefusion.run.memory import available_memory, is_out_of_memory, plan_tile
from scorefusion.wording import mm, readable

SHARE = 0.8  # of the free memory that may be used
LIBRARY = 2.0  # of the tensors that live, by measurement: convolutions copy them, and allocators keep what is free
VOLUMES = 14  # whole volumes that sampling holds at once: state, noise, base, mean, spread, and the sums on the way
SMALLEST_CHUNK = 2**17  # pixels; below, a call costs more than its work
SMALLEST_TILE = 32  # voxels an edge
HALVINGS = 6  # of chunks and tiles together, before memory is said to be short


@dataclass(frozen=True)
class Peak:
    """Bytes that a rule needs beyond its weights: `whole` in any case, and the larger of `planes` and `volume`."""

    whole: int
    planes: int
    volume: int

    @property
    def total(self) -> int:
        """Bytes at the worst moment."""
        return self.whole + max(self.planes, self.volume)


def predict_peak(rule: FusionRule, inputs: ModelInputs) -> Peak:
    """What one evaluation needs at most, from sizes alone, in the pieces that the rule is set to.

    Args:
        rule: with its `slice_pixels`, `tile` and `halo`.
        inputs: on the grid that is worked on.
    """
    ensemble = rule.ensemble
    batch, conditions, *sizes = inputs.conditions.shape
    spatial = _padded(rule, sizes)
    voxels = batch * math.prod(spatial)
    number = 4 if ensemble.autocast is None else 2  # bytes inside the networks
    alignment = None
    active = len(ensemble.active(inputs)) if ensemble.members else 0
    whole = voxels * (VOLUMES + 2 * conditions + 3 * 2 + 2 * active)
    planes = 0.0
    if isinstance(rule, ScoreFusion) and rule.alignment is not None:
        alignment = rule.alignment
        volume_of = dict(zip(rule.network.feature_scales, rule.network.injection_channels, strict=True))
        scales = {scale for scales in alignment.scales for scale in scales}
        whole += sum(volume_of[scale] * voxels // scale**3 for scale in scales)
    for member in ensemble.members:
        network = ensemble.network(member)
        rows, columns = (spatial[axis] for axis in member.plane.in_plane_axes)
        stride = alignment.max_stride if alignment is not None else 1
        slices = min(spatial[member.plane.axis], ensemble.slices_at_once(batch, rows, columns, stride))
        live = live_numbers(network, alignment is not None) * LIBRARY * number
        planes = max(planes, batch * slices * rows * columns * (live + 3 * 4 * network.config.in_channels))
    volume = 0.0
    if isinstance(rule, VolumeRule):
        config = rule.network.config
        volume = 4.0 * voxels * (config.in_channels + 2 * config.out_channels)
        volume += batch * _bytes_per_voxel(rule) * math.prod(_window(rule, spatial))
    return Peak(4 * whole, round(planes), round(volume))


def choose_pieces(
    rule: FusionRule,
    inputs: ModelInputs,
    device: torch.device,
    tile: int | tuple[int, int, int] | None,
    report: Reporter,
) -> None:
    """Set a rule's chunks and tiles to what fits into memory.

    Args:
        rule: whose `slice_pixels`, `tile` and `halo` are set.
        inputs: on the grid that is worked on.
        device: where.
        tile: voxels a side that the 3D network is to take at once; None = as memory allows.
        report: is warned of tiles, and told whether they change the result.

    Raises:
        RequestError: tiles are asked of a network that needs the whole volume.
        OutOfMemory: not even the smallest pieces fit.
    """
    budget = SHARE * available_memory(device)
    ensemble = rule.ensemble
    while (need := predict_peak(rule, inputs)).whole + need.planes > budget and _halve_chunk(rule):
        pass
    if need.whole + need.planes > budget:
        raise _too_large(need.whole + need.planes, budget)
    if ensemble.slice_pixels < ensemble.DEFAULT_SLICE_PIXELS:
        report.warning("chunks", "Memory is short: the plane networks take fewer slices at once. Same result.")
    if not isinstance(rule, VolumeRule):
        return
    i, j, k = _padded(rule, inputs.conditions.shape[2:])
    if tile is not None:
        edges = (tile, tile, tile) if isinstance(tile, int) else tile
        if min(edges) < rule.size_multiple:
            msg = f"A tile of {mm(edges)} voxels is too small for this model; the least is {rule.size_multiple}."
            raise RequestError(msg)
        if is_cut((i, j, k), edges):
            rule.tile = edges
            report.warning("tiles", f"As asked for, {_in_tiles(rule)}")
        return
    fixed = need.whole + need.volume - round(_bytes_per_voxel(rule) * math.prod(_window(rule, (i, j, k))))
    exact = rule.exact_halo
    if exact is None:
        if need.total > budget:
            raise _too_large(need.total, budget, whole=True)
        return
    for halo in (exact, exact // 2, exact // 4):
        try:
            rule.tile = plan_tile(
                (i, j, k), _bytes_per_voxel(rule), round(budget), overlap=halo, multiple=rule.size_multiple,
                smallest=max(SMALLEST_TILE, halo), fixed_bytes=fixed, share=1.0,
            )  # fmt: skip
        except OutOfMemory:
            if halo == exact // 4:
                raise
            continue
        rule.halo = None if halo == exact else halo
        break
    if rule.tile is not None:
        report.warning("tiles", f"Memory is short: {_in_tiles(rule)}")


def patient(rule: FusionRule, report: Reporter) -> Callable[[Tensor, ModelInputs, Tensor, int], Tensor]:
    """The rule as a function that, when memory runs out, tries again in smaller pieces, as often as `HALVINGS` says.

    Args:
        rule: whose pieces become smaller, and stay so.
        report: is warned each time.
    """

    def evaluate(x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        for _ in range(HALVINGS):
            try:
                return rule(x_t, inputs, alpha_bar, step)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                done = _smaller(rule, x_t.shape[2:])
                if done is None:
                    raise
            # Only here, where the error and the tensors that its frames hold are gone, is there memory to give back.
            if x_t.device.type == "cuda":
                torch.cuda.empty_cache()
            report.warning("memory", f"Memory ran out: {done}")
        return rule(x_t, inputs, alpha_bar, step)

    return evaluate


def pieces_of(rule: FusionRule) -> dict[str, Any]:
    """For the record beside a result: the pieces that the networks worked in, and whether they changed anything."""
    if not isinstance(rule, VolumeRule):
        return {"SlicePixels": rule.ensemble.slice_pixels}
    exact = rule.tile is None or rule.halo is None
    return {
        "SlicePixels": rule.ensemble.slice_pixels,
        "Tile": None if rule.tile is None else list(rule.tile),
        "Halo": None if rule.tile is None else (rule.exact_halo if rule.halo is None else rule.halo),
        "SameAsWhole": exact,
    }


def _smaller(rule: FusionRule, spatial: tuple[int, ...]) -> str | None:
    """Halve the chunks, or, where they are small, the longest edge of the tiles; in words. None: nothing is left."""
    if rule.ensemble.members and _halve_chunk(rule):
        return f"the plane networks take at most {rule.ensemble.slice_pixels} pixels of slices at once. Same result."
    if not isinstance(rule, VolumeRule) or rule.exact_halo is None:
        return None
    edges = [min(edge, size) for edge, size in zip(rule.tile or spatial, spatial, strict=True)]
    axis = max(range(3), key=edges.__getitem__)
    if edges[axis] < 2 * SMALLEST_TILE:
        return None
    edges[axis] = math.ceil(edges[axis] / 2 / rule.size_multiple) * rule.size_multiple
    rule.tile = (edges[0], edges[1], edges[2])
    return _in_tiles(rule)


def _halve_chunk(rule: FusionRule) -> bool:
    if rule.ensemble.slice_pixels <= SMALLEST_CHUNK:
        return False
    rule.ensemble.slice_pixels //= 2
    return True


def _in_tiles(rule: VolumeRule) -> str:
    """What the tiles are, and what they do to the result."""
    assert rule.tile is not None
    tiles = f"the 3D network works in tiles of {mm(rule.tile)} voxels, each with"
    if rule.halo is None:
        return (
            f"{tiles} the {rule.exact_halo} voxels around it that it depends on: "
            "the same image as from the whole, but for rounding."
        )
    return (
        f"{tiles} {rule.halo} of the {rule.exact_halo} voxels around it that it depends on, blended into one another: "
        "near to the image from the whole, not the same."
    )


def _padded(rule: FusionRule, sizes: Sequence[int]) -> list[int]:
    return [-(-size // rule.size_multiple) * rule.size_multiple for size in sizes]


def _window(rule: VolumeRule, spatial: Sequence[int]) -> list[int]:
    """Voxels an axis of the largest window that the 3D network sees."""
    if rule.tile is None:
        return list(spatial)
    halo = (rule.exact_halo or 0) if rule.halo is None else rule.halo
    halo = -(-halo // rule.size_multiple) * rule.size_multiple
    return [min(edge + 2 * halo, size) for edge, size in zip(rule.tile, spatial, strict=True)]


def _bytes_per_voxel(rule: VolumeRule) -> float:
    number = 4 if rule.ensemble.autocast is None else 2
    return LIBRARY * number * live_numbers(rule.network)


def _too_large(need: float, budget: float, whole: bool = False) -> OutOfMemory:
    why = " Its 3D network looks at the whole volume, which tiles would change." if whole else ""
    msg = (
        f"This volume and model need about {readable(int(need))} of memory; {readable(int(budget))} can be used.{why} "
        "Close other programs, crop the volume around the head, use rule='average', or another device."
    )
    return OutOfMemory(msg)
