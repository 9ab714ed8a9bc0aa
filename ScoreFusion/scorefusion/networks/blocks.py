"""What a U-Net is made of: the noise level's embedding, residual blocks, resampling, attention."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorefusion.networks.sizes import Padding, UNetConfig


class Stage(nn.Module):
    """The blocks of one level, and the way to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.resample: Resample | None = None

    def encode(self, h: Tensor, emb: Tensor, extra: Tensor | None, entrance: int) -> list[Tensor]:
        """The activations after each block, `extra` added before the block of number `entrance`, and the next level's
        input."""
        outputs = []
        for number, block in enumerate(self.blocks):
            if extra is not None and number == entrance:
                h = h + extra.to(h.dtype)
            h = block(h, emb)
            outputs.append(h)
        if self.resample is not None:
            outputs.append(self.resample(h, emb))
        return outputs

    def decode(self, h: Tensor, emb: Tensor, skips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The next finer level's input, and the activation after the first block."""
        outputs = []
        for block, skip in zip(self.blocks, skips, strict=True):
            h = block(torch.cat([h, skip], dim=1), emb)
            outputs.append(h)
        return (h if self.resample is None else self.resample(h, emb)), outputs[0]


def stages(modules: nn.ModuleList) -> Iterator[Stage]:
    """The same modules, typed."""
    for module in modules:
        assert isinstance(module, Stage)
        yield module


def noise_time(alpha_bar: Tensor, steps: float = 1.0) -> Tensor:
    """The time at which a cosine schedule of so many steps has this noise level:
    `steps * (2 / pi) * arccos(sqrt(alpha_bar))`, from 0 (no noise) to `steps` (pure noise).

    Levels are spread evenly over it, whatever the schedule, so that a network can tell them apart.
    """
    return (2.0 * steps / math.pi) * torch.arccos(alpha_bar.float().clamp(0.0, 1.0).sqrt())


class NoiseEmbedding(nn.Module):
    """Noise level, and a context vector if there is one, to an embedding.

    The level enters as its time of 1000 steps, so that sines of the usual frequencies resolve it.
    """

    def __init__(self, size: int, embedding_size: int, context_size: int) -> None:
        super().__init__()
        self.size = size
        self.level = nn.Sequential(
            nn.Linear(size, embedding_size), nn.SiLU(), nn.Linear(embedding_size, embedding_size)
        )
        self.context = nn.Linear(context_size, embedding_size) if context_size else None

    def forward(self, alpha_bar: Tensor, context: Tensor | None) -> Tensor:
        time = noise_time(alpha_bar, 1000.0)
        half = self.size // 2
        frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=time.device) / half)
        angle = time[:, None] * frequency[None, :]
        embedding = self.level(torch.cat([angle.cos(), angle.sin()], dim=1))
        if self.context is not None:
            if context is None:
                msg = f"this network needs a context vector of length {self.context.in_features}"
                raise ValueError(msg)
            embedding = embedding + self.context(context.to(embedding.dtype))
        return F.silu(embedding)


class ResidualBlock(nn.Module):
    """Two convolutions with scale-shift conditioning between; the second starts at zero."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, resample: str | None = None) -> None:
        super().__init__()
        dims = config.spatial_dims
        self.resample = resample
        self.norm1 = norm(config, in_channels)
        self.conv1 = conv(dims, in_channels, out_channels)
        self.scales = config.modulation == "scale_shift"
        self.modulation = nn.Linear(config.embedding_size, (1 + self.scales) * out_channels)
        self.norm2 = norm(config, out_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(conv(dims, out_channels, out_channels))
        self.skip = (
            nn.Identity() if in_channels == out_channels else conv(dims, in_channels, out_channels, kernel_size=1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = resized(h, self.resample), resized(x, self.resample)
        h = self.conv1(h)
        h = self.norm2(h)
        modulation = self.modulation(emb).to(h.dtype)[(...,) + (None,) * (h.dim() - 2)]
        if self.scales:
            scale, shift = modulation.chunk(2, dim=1)
            h = h * (1 + scale) + shift
        else:
            h = h + modulation
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Resample(nn.Module):
    """Halves or doubles the grid between two levels."""

    def __init__(self, config: UNetConfig, channels: int, direction: Literal["down", "up"]) -> None:
        super().__init__()
        self.direction = direction
        self.block = ResidualBlock(config, channels, channels, direction) if config.resampling == "block" else None
        stride = 2 if direction == "down" else 1
        self.conv = (
            conv(config.spatial_dims, channels, channels, stride=stride) if config.resampling == "convolution" else None
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.block is not None:
            return self.block(x, emb)
        if self.conv is None:
            return resized(x, self.direction)
        return self.conv(x if self.direction == "down" else resized(x, "up"))


class SelfAttention(nn.Module):
    """Multi-head attention over all pixels of the coarsest level, with a zero-initialised way back."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.heads = channels // config.head_width
        self.norm = norm(config, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        tokens = self.qkv(self.norm(x).flatten(2))  # (B, 3C, L)
        q, k, v = tokens.reshape(batch, 3, self.heads, -1, tokens.shape[-1]).transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(batch, channels, -1)
        return x + self.out(mixed).reshape(x.shape)


def resized(x: Tensor, direction: str) -> Tensor:
    if direction == "down":
        return F.avg_pool2d(x, 2) if x.dim() == 4 else F.avg_pool3d(x, 2)
    return F.interpolate(x, scale_factor=2, mode="nearest")


def conv(
    dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    padding_mode: Padding = "zeros",
) -> nn.Conv2d | nn.Conv3d:
    layer = nn.Conv2d if dims == 2 else nn.Conv3d
    return layer(in_channels, out_channels, kernel_size, stride, kernel_size // 2, padding_mode=padding_mode)


def norm(config: UNetConfig, channels: int) -> nn.Module:
    if config.normalisation == "none":
        return nn.Identity()
    return nn.GroupNorm(math.gcd(32, channels), channels)


def zeroed(layer: nn.Module) -> Any:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
