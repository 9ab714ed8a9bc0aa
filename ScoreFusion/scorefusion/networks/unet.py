"""The network: one U-Net, 2D or 3D by one argument, conditioned on the continuous noise level.

`UNet` follows the guided-diffusion layout (Dhariwal & Nichol 2021): residual blocks with scale-shift conditioning,
every encoder activation concatenated in the decoder. Two named configurations of each dimension:

* `paper`: the sizes of Score-Fusion (Zhu et al., ICML 2025): 62.6 M parameters for a plane, 55.5 M for the fusion.
* `compact`: for CPUs. A pixel-unshuffle stem works at half resolution, and blocks have no normalisation layers: on a
  CPU these cost more than the convolutions, and without them a tile that sees `UNetConfig.reach` voxels around it gives
  the same answer as the whole. With group normalisation it does not, since the statistics are the tile's own.

A network states the size multiple it needs and pads inside by edge replication; callers see any size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scorefusion.networks.blocks import (
    NoiseEmbedding,
    Resample,
    ResidualBlock,
    SelfAttention,
    Stage,
    conv,
    norm,
    stages,
    zeroed,
)
from scorefusion.networks.shapes import crop_to, pad_to_multiple, shuffle, unshuffle
from scorefusion.networks.sizes import Padding, UNetConfig

Result = TypeVar("Result")


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
        self.stem = conv(dims, config.in_channels * stem, top, padding_mode=pad)
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
        self.head_norm = norm(config, width)
        # Zero at first: a fresh plane network predicts zero, a fresh fusion network changes nothing.
        self.head = zeroed(conv(dims, width, config.out_channels * stem, padding_mode=pad))

    @property
    def size_multiple(self) -> int:
        """Sizes that this multiple divides need no padding."""
        return self.config.cells[-1]

    @property
    def feature_scales(self) -> tuple[int, ...]:
        """Voxels of the image to one of each decoder activation, coarse to fine."""
        return tuple(reversed(self.config.cells))

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
        for level, stage in enumerate(stages(self.encoder)):
            extra = (injected or {}).get(self.config.cells[level])
            skips += self._run(stage.encode, h, emb, extra, self._entrance(level))
            h = skips[-1]
        h = self._run(self._middle, h, emb)
        features: list[Tensor] = []
        for stage in stages(self.decoder):
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


def count_parameters(module: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())
