"""What tiles of the 3D network change, by the voxels around a tile that it sees: shipped weights and loud random ones.

    python Testing/benchmarks/tiles.py HEAD.nii.gz

The head is made coarse four times along each axis. The exact halo changes nothing but rounding; smaller ones do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "ScoreFusion"), str(ROOT / "Testing")]

from tiny_models import tiny_volume  # noqa: E402

from scorefusion.bundle.load import load_model  # noqa: E402
from scorefusion.bundle.store import find_bundle  # noqa: E402
from scorefusion.fusion.inputs import InputLayout, ModelInputs, acquisition_vector  # noqa: E402
from scorefusion.fusion.rules import VolumeRule  # noqa: E402
from scorefusion.imaging.acquisition import Acquisition  # noqa: E402
from scorefusion.imaging.files import read_volume  # noqa: E402
from scorefusion.imaging.intensity import fit_intensity_scale  # noqa: E402

PIECE = (128, 160, 80)  # voxels of the head's middle
TILE = 64


def say(line: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def answers(rule: VolumeRule, x_t: Tensor, inputs: ModelInputs, tile: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For each halo its name, the answer in tiles, and the answer of the whole."""
    exact = rule.exact_halo
    assert exact is not None
    with torch.inference_mode():
        rule.tile = None
        whole = rule(x_t, inputs, torch.zeros(1))
        rule.tile = (tile, tile, tile)
        for halo in (None, exact // 2, exact // 4):
            rule.halo = halo
            yield f"{exact if halo is None else halo}", rule(x_t, inputs, torch.zeros(1)), whole


def shipped(path: Path) -> None:
    """Of `brain-sr`, in shares of the intensity range."""
    volume = read_volume(path).canonical()[0]
    head = torch.from_numpy(np.ascontiguousarray(fit_intensity_scale(volume.data).normalise(volume.data)))[None]
    start = [max(0, (size - edge) // 2) for size, edge in zip(volume.spatial_shape, PIECE, strict=True)]
    i, j, k = (slice(first, first + edge) for first, edge in zip(start, PIECE, strict=True))
    head = head[..., i, j, k].float()
    acquisition = Acquisition.isotropic(tuple(head.shape[2:]), 4.0)
    low = acquisition.back_project(acquisition.forward(head), 6)
    rule = load_model(find_bundle("brain-sr")).rule
    assert isinstance(rule, VolumeRule)
    inputs = ModelInputs(low, acquisition_vector(acquisition))
    noise = torch.randn(low.shape, generator=torch.Generator().manual_seed(0))
    gain = rule.layout.residual_gain
    for halo, tiled, whole in answers(rule, noise, inputs, TILE):
        error = (tiled - whole) / gain  # |target - base| / 2, of a range of 2: a share of the range
        largest, mean, added = error.abs().max(), error.square().mean().sqrt(), (whole / gain).square().mean().sqrt()
        say(f"brain-sr, {path.name}, halo {halo}: largest {largest:.1e}, RMS {mean:.1e} of the range (of {added:.1e})")


def loud() -> None:
    """Of random weights that are louder than trained ones, in shares of the largest voxel."""
    for spread in (0.1, 0.15):
        rule = tiny_volume(InputLayout(slab_radius=0), std=spread)
        generator = torch.Generator().manual_seed(0)
        x_t = torch.randn(1, 1, 16, 16, 160, generator=generator)
        inputs = ModelInputs(torch.rand(1, 1, 16, 16, 160, generator=generator) * 2 - 1)
        for halo, tiled, whole in answers(rule, x_t, inputs, 32):
            largest = (tiled - whole).abs().max() / whole.abs().max()
            say(f"random weights of spread {spread}, halo {halo}: largest {largest:.1e} of the largest voxel")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("head", type=Path)
    arguments = parser.parse_args()
    loud()
    shipped(arguments.head)
