"""What a training run shows of itself: gain on held-out blocks, and pictures in three planes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.rules import FusionRule
from scorefusion.training.blocks import Block
from scorefusion.training.trainer import generator_for


@torch.inference_mode()
def one_step(rule: FusionRule, block: Block, schedule: NoiseSchedule, number: int) -> Tensor:
    """`(1, 1, I, J, K)` clean residual by one evaluation from pure noise, projected where there is a measurement."""
    last = schedule.num_train_timesteps - 1
    noise = torch.randn(block.residual[None].shape, generator=generator_for(number, 3)).to(block.residual)
    level = torch.full((1,), float(schedule.alpha_bar[last]), device=noise.device)
    residual = schedule.to_x0(noise, rule(noise, block.inputs, level), last)
    if block.operator is None:
        return residual
    missing = block.residual[None] - residual  # only its measured part is used
    return residual + block.operator.pseudo_inverse(block.operator.forward(missing))


def gain_over_base(rule: FusionRule, blocks: Sequence[Block], schedule: NoiseSchedule) -> float:
    """Mean PSNR gain in dB over the base image, one step."""
    gains = []
    for number, block in enumerate(blocks):
        error = one_step(rule, block, schedule, number) - block.residual[None]
        before = block.residual.square().mean()
        gains.append(float(10 * torch.log10(before / error.square().mean().clamp(min=1e-12))))
    return sum(gains) / len(gains)


def picture(rule: FusionRule, block: Block, schedule: NoiseSchedule) -> np.ndarray:
    """`(H, W)` uint8: a row for each plane; base, estimate, truth, and the error that is left, enlarged.

    Ten times for super-resolution, three times for translation, where there is more of it.
    """
    half_gain = 0.5 * rule.layout.residual_gain
    truth = block.base + block.residual / half_gain
    estimate = block.base + one_step(rule, block, schedule, 0)[0] / half_gain
    enlarged = 3.0 if block.operator is None else 10.0
    images = [block.base, estimate, truth, (estimate - truth).abs() * enlarged - 1.0]
    rows = [np.concatenate([_slice(image, plane) for image in images], axis=1) for plane in block.planes]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 2), (0, width - row.shape[1]))) for row in rows])


def _slice(image: Tensor, plane: Plane) -> np.ndarray:
    """The middle slice, `(rows, columns)` uint8, up on the page where the plane has an up."""
    axis = 1 + plane.axis
    middle = image.select(axis, image.shape[axis] // 2)[0].cpu().float().numpy()
    return np.ascontiguousarray((np.clip(0.5 * (middle.T[::-1] + 1.0), 0.0, 1.0) * 255.0).astype(np.uint8))


def save_picture(image: np.ndarray, path: Path) -> None:
    """As PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
