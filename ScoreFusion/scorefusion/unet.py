"""The network: one U-Net, 2D or 3D by one argument, conditioned on the continuous noise level.

`UNet` follows the guided-diffusion layout (Dhariwal & Nichol 2021): residual blocks with scale-shift conditioning,
every encoder
activation concatenated in the decoder. Two named configurations of each dimension:

* `paper`: the sizes of Score-Fusion (Zhu et al., ICML 2025): 62.6 M parameters for a plane, 55.5 M for the fusion.
* `compact`: for CPUs. A pixel-unshuffle stem works at half resolution, and blocks have no normalisation layers (their
cost on a
  CPU exceeds the convolutions', and without them a tile gives the same answer as the whole).

A network states the size multiple it needs and pads inside by edge replication; callers see any size.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Resampling = Literal["block", "convolution", "plain"]
Padding = Literal["zeros", "replicate"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class UNetConfig:
    """All that fixes a U-Net's weights' shapes.

    Attributes:
        spatial_dims: 2 or 3.
        in_channels: channels of the input image.
        out_channels: channels of the prediction.
        channels: width of each level, finest first.
        blocks: residual blocks a level (the decoder has one more, as in guided diffusion).
        stem_factor: the image is unshuffled by this factor before the first convolution (1 = not at all).
        normalisation: group normalisation, or none.
        resampling: between levels: a residual block, a strided convolution / nearest + convolution, or plain average /
            nearest.
        attention: self-attention in the middle block.
        head_width: channels of an attention head.
        modulation: the conditioning scales and shifts the second normalisation's output, or only shifts it.
        dropout: in residual blocks.
        context_size: length of the vector given beside the noise level (plane, acquisition); 0 = none.
        embedding_size: width of the conditioning embedding.
        replicate_edges: pad convolutions at the two ends by replication instead of zeros.
    """

    spatial_dims: int
    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    blocks: int = 2
    stem_factor: int = 1
    normalisation: Literal["group", "none"] = "group"
    resampling: Resampling = "block"
    attention: bool = False
    head_width: int = 32
    modulation: Literal["scale_shift", "shift"] = "scale_shift"
    dropout: float = 0.0
    context_size: int = 0
    embedding_size: int = 256
    replicate_edges: bool = False

    def __post_init__(self) -> None:
        if self.spatial_dims not in (2, 3):
            msg = f"spatial_dims must be 2 or 3, got {self.spatial_dims}"
            raise ValueError(msg)
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.channels or self.channels[0] % 2:
            msg = f"channels must begin with an even number (sines and cosines of the noise level), got {self.channels}"
            raise ValueError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"channels": list(self.channels)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UNetConfig:
        """The inverse of `to_dict`."""
        return cls(**values)


def plane_config(name: str, in_channels: int, context_size: int = 0) -> UNetConfig:
    """The plane network's named sizes; `paper` is method.md section 3 of the paper's code, by the numbers."""
    sizes = {
        "paper": UNetConfig(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=1,
            channels=(64, 128, 256, 512),
            attention=True,
            dropout=0.2,
        ),
        "compact": UNetConfig(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=1,
            channels=(48, 72, 104),
            blocks=1,
            stem_factor=2,
            normalisation="none",
            resampling="plain",
            embedding_size=64,
        ),
    }
    return replace(_choose(sizes, name), context_size=context_size)


def fusion_config(name: str, in_channels: int, out_channels: int, context_size: int = 0) -> UNetConfig:
    """The fusion network's named sizes."""
    sizes = {
        "paper": UNetConfig(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=(64, 128, 192, 256),
            resampling="convolution",
            modulation="shift",
            replicate_edges=True,
        ),
        "compact": UNetConfig(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=(32, 48),
            blocks=1,
            stem_factor=2,
            normalisation="none",
            resampling="plain",
            embedding_size=64,
            replicate_edges=True,
        ),
    }
    return replace(_choose(sizes, name), context_size=context_size)


def _choose(sizes: dict[str, UNetConfig], name: str) -> UNetConfig:
    if name not in sizes:
        msg = f"unknown network size {name!r}; there are {', '.join(sizes)}"
        raise ValueError(msg)
    return sizes[name]


class UNet(nn.Module):
    """U-Net over images of `spatial_dims` dimensions.

    `feature_scales` and `feature_channels` describe the decoder's activations that `forward` can hand out, and
    `injection_channels` the encoder places that take them in, both from coarse to fine. With `checkpointing` set, the
    backward pass computes each level's activations again instead of keeping them: less memory, a third more time.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        dims, emb = config.spatial_dims, config.embedding_size
        stem = config.stem_factor**dims
        top = config.channels[0]
        pad: Padding = "replicate" if config.replicate_edges else "zeros"

        self.embedding = NoiseEmbedding(top, emb, config.context_size)
        self.stem = _conv(dims, config.in_channels * stem, top, padding_mode=pad)
        self.encoder = nn.ModuleList()
        skip_channels = [top]
        width = top
        for level, channels in enumerate(config.channels):
            stage = Stage()
            for _ in range(config.blocks):
                stage.blocks.append(ResidualBlock(config, width, channels))
                width = channels
                skip_channels.append(width)
            if level + 1 < len(config.channels):
                stage.resample = Resample(config, width, "down")
                skip_channels.append(width)
            self.encoder.append(stage)

        middle: list[nn.Module] = [ResidualBlock(config, width, width)]
        if config.attention:
            middle.append(SelfAttention(config, width))
        middle.append(ResidualBlock(config, width, width))
        self.middle = nn.ModuleList(middle)

        self.decoder = nn.ModuleList()
        for level, channels in reversed(list(enumerate(config.channels))):
            stage = Stage()
            for _ in range(config.blocks + 1):
                stage.blocks.append(ResidualBlock(config, width + skip_channels.pop(), channels))
                width = channels
            if level > 0:
                stage.resample = Resample(config, width, "up")
            self.decoder.append(stage)
        self.head_norm = _norm(config, width)
        # Zero at first: a fresh plane network predicts zero, a fresh fusion network changes nothing.
        self.head = _zero(_conv(dims, width, config.out_channels * stem, padding_mode=pad))

    @property
    def size_multiple(self) -> int:
        """Sizes that this multiple divides need no padding."""
        return self.config.stem_factor * 2 ** (len(self.config.channels) - 1)

    @property
    def feature_scales(self) -> tuple[int, ...]:
        """Voxels of the image to one of each decoder activation, coarse to fine."""
        levels = range(len(self.config.channels) - 1, -1, -1)
        return tuple(self.config.stem_factor * 2**level for level in levels)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of each decoder activation, coarse to fine."""
        return tuple(reversed(self.config.channels))

    @property
    def injection_channels(self) -> tuple[int, ...]:
        """Channels of the encoder where features are added (after each level's entrance), coarse to fine."""
        channels = self.config.channels
        entrance = (channels[0], *channels[:-1]) if self.config.blocks == 1 else channels
        if self.config.blocks > 1:
            # Deepest level: right after the strided convolution, before its first block widens it (paper: 192 at 1/8).
            entrance = (*channels[:-1], channels[-2] if len(channels) > 1 else channels[-1])
        return tuple(reversed(entrance))

    def forward(
        self,
        x: Tensor,
        alpha_bar: Tensor,
        context: Tensor | None = None,
        *,
        injected: dict[int, Tensor] | None = None,
        return_features: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Predict.

        Args:
            x: `(B, in_channels, *spatial)`, any spatial size.
            alpha_bar: `(B,)` cumulative signal power in [0, 1] of the noisy channel; the level itself, never a step
                counter.
            context: `(B, context_size)`.
            injected: by scale, features `(B, C, *spatial / scale)` added to the encoder; spatial sizes as after
                padding.
            return_features: also hand out the first decoder activation of each level, coarse to fine, at padded size.

        Returns:
            Prediction `(B, out_channels, *spatial)` and the list of features (empty unless asked for).
        """
        spatial = x.shape[2:]
        x = pad_to_multiple(x, self.size_multiple)
        emb = self.embedding(alpha_bar, context)
        h = self.stem(unshuffle(x, self.config.stem_factor))
        skips = [h]
        for level, stage in enumerate(_stages(self.encoder)):
            extra = (injected or {}).get(self.config.stem_factor * 2**level)
            skips += self._run(stage.encode, h, emb, extra, self._entrance(level))
            h = skips[-1]
        h = self._run(self._middle, h, emb)
        features: list[Tensor] = []
        for stage in _stages(self.decoder):
            taken = [skips.pop() for _ in stage.blocks]
            h, first = self._run(stage.decode, h, emb, taken)
            if return_features:
                features.append(first)
        h = shuffle(self.head(F.silu(self.head_norm(h))), self.config.stem_factor)
        return crop_to(h, spatial), features

    def _middle(self, h: Tensor, emb: Tensor) -> Tensor:
        for layer in self.middle:
            h = layer(h, emb)
        return h

    def _entrance(self, level: int) -> int:
        """The block of an encoder level before which features are added: its last one (paper: blocks 2, 5, 8), but the
        first one of the deepest level."""
        deepest = level + 1 == len(self.encoder)
        return 0 if deepest and level > 0 else self.config.blocks - 1

    def _run(self, part: Callable[..., Result], *arguments: Any) -> Result:
        """Call a part of the network; with `checkpointing` its activations are not kept but computed again."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return part(*arguments)
        return checkpoint(part, *arguments, use_reentrant=False)


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


def _stages(modules: nn.ModuleList) -> Iterator[Stage]:
    """The same modules, typed."""
    for module in modules:
        assert isinstance(module, Stage)
        yield module


def noise_time(alpha_bar: Tensor, steps: float = 1.0) -> Tensor:
    """A noise level as the time of a cosine schedule of so many steps: `steps * (2 / pi) * arccos(sqrt(alpha_bar))`.

    0 is no noise and `steps` pure noise; in between a network can tell the levels apart evenly, whatever the schedule.
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
        self.norm1 = _norm(config, in_channels)
        self.conv1 = _conv(dims, in_channels, out_channels)
        self.scales = config.modulation == "scale_shift"
        self.modulation = nn.Linear(config.embedding_size, (1 + self.scales) * out_channels)
        self.norm2 = _norm(config, out_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = _zero(_conv(dims, out_channels, out_channels))
        self.skip = (
            nn.Identity() if in_channels == out_channels else _conv(dims, in_channels, out_channels, kernel_size=1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = _resize(h, self.resample), _resize(x, self.resample)
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
            _conv(config.spatial_dims, channels, channels, stride=stride)
            if config.resampling == "convolution"
            else None
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.block is not None:
            return self.block(x, emb)
        if self.conv is None:
            return _resize(x, self.direction)
        return self.conv(x if self.direction == "down" else _resize(x, "up"))


class SelfAttention(nn.Module):
    """Multi-head attention over all pixels of the coarsest level, with a zero-initialised way back."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.heads = channels // config.head_width
        self.norm = _norm(config, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        tokens = self.qkv(self.norm(x).flatten(2))  # (B, 3C, L)
        q, k, v = tokens.reshape(batch, 3, self.heads, -1, tokens.shape[-1]).transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(batch, channels, -1)
        return x + self.out(mixed).reshape(x.shape)


def lowered_precision(like: Tensor, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """The one door where precision is lowered; predictions come back as float32. None = float32 throughout."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(like.device.type, dtype=dtype)


# -- tensors on a multiple of the grid -----------------------------------------------------------------------------


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last sample of each spatial axis until `multiple` divides its size."""
    for axis in range(2, x.dim()):
        missing = -x.shape[axis] % multiple
        if missing:
            last = x.narrow(axis, x.shape[axis] - 1, 1)
            x = torch.cat([x, last.expand(*(missing if a == axis else -1 for a in range(x.dim())))], dim=axis)
    return x


def crop_to(x: Tensor, spatial: Sequence[int]) -> Tensor:
    """Undo `pad_to_multiple`: the first voxels of each spatial axis."""
    return x[at([slice(0, size) for size in spatial])]


def at(window: Sequence[slice]) -> Any:
    """Index of a spatial window, whatever the leading axes: `x[at(window)]` is `x[..., window]`."""
    return (Ellipsis, *window)


def unshuffle(x: Tensor, factor: int) -> Tensor:
    """`(B, C, *spatial)` to `(B, C * factor^d, *spatial / factor)`: neighbours become channels."""
    if factor == 1:
        return x
    dims = x.dim() - 2
    shape = [n for size in x.shape[2:] for n in (size // factor, factor)]
    x = x.reshape(*x.shape[:2], *shape)
    order = [0, 1, *(3 + 2 * a for a in range(dims)), *(2 + 2 * a for a in range(dims))]
    return x.permute(order).flatten(1, 1 + dims)


def shuffle(x: Tensor, factor: int) -> Tensor:
    """The inverse of `unshuffle`."""
    if factor == 1:
        return x
    dims = x.dim() - 2
    coarse = x.shape[2:]
    x = x.unflatten(1, (-1, *(factor,) * dims))
    order = [0, 1, *(n for a in range(dims) for n in (2 + dims + a, 2 + a))]
    return x.permute(order).reshape(*x.shape[:2], *(size * factor for size in coarse))


def count_parameters(module: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())


def _resize(x: Tensor, direction: str) -> Tensor:
    if direction == "down":
        return F.avg_pool2d(x, 2) if x.dim() == 4 else F.avg_pool3d(x, 2)
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _conv(
    dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    padding_mode: Padding = "zeros",
) -> nn.Conv2d | nn.Conv3d:
    layer = nn.Conv2d if dims == 2 else nn.Conv3d
    return layer(in_channels, out_channels, kernel_size, stride, kernel_size // 2, padding_mode=padding_mode)


def _norm(config: UNetConfig, channels: int) -> nn.Module:
    if config.normalisation == "none":
        return nn.Identity()
    return nn.GroupNorm(math.gcd(32, channels), channels)


def _zero(layer: nn.Module) -> Any:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
