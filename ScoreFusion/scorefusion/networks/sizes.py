"""What fixes a U-Net's weights, and its named sizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

Resampling = Literal["block", "convolution", "plain"]
Padding = Literal["zeros", "replicate"]


def check_words(settings: Any) -> None:
    """Refuse a word that a `Literal` field of a dataclass instance does not allow: read as another, it would silently
    make another network.

    Raises:
        ValueError: field, word, and the words there are.
    """
    for name, hint in get_type_hints(type(settings)).items():
        if get_origin(hint) is Literal and getattr(settings, name) not in get_args(hint):
            msg = f"{name} is {getattr(settings, name)!r}; it must be one of {', '.join(map(str, get_args(hint)))}"
            raise ValueError(msg)


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
        check_words(self)
        if self.spatial_dims not in (2, 3):
            msg = f"spatial_dims must be 2 or 3, got {self.spatial_dims}"
            raise ValueError(msg)
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.channels or self.channels[0] % 2:
            msg = f"channels must begin with an even number (sines and cosines of the noise level), got {self.channels}"
            raise ValueError(msg)

    @property
    def cells(self) -> tuple[int, ...]:
        """Voxels of the image to a cell of each level's grid, finest first."""
        return tuple(self.stem_factor * 2**level for level in range(len(self.channels)))

    @property
    def reach(self) -> int | None:
        """Voxels around a cell of the coarsest grid that the prediction there depends on; beyond them nothing counts.

        None = the whole image counts, however large: group normalisation takes its statistics over all of it, and
        attention looks everywhere.
        """
        if self.normalisation != "none" or self.attention:
            return None
        cells = self.cells
        ways = {"plain": (0, 0), "convolution": (1, 0), "block": (2, 2)}  # convolutions of a way up, of a way down
        up, down = ways[self.resampling]
        # From the prediction back to the image. A convolution looks one cell of its grid further, a residual block two;
        # what lies on a finer grid was read from whole cells of the coarser one.
        reach = cells[0]  # head
        for fine, coarse in zip(cells, cells[1:], strict=False):
            reach += (2 * (self.blocks + 1) + up) * fine
            reach = -(-reach // coarse) * coarse
        reach += (2 * (self.blocks + 1) + 4 + 2 * self.blocks) * cells[-1]  # deepest level, with the two middle blocks
        for fine, coarse in reversed(list(zip(cells, cells[1:], strict=False))):
            reach += down * coarse + (2 * self.blocks + (self.resampling == "convolution")) * fine
        reach += cells[0]  # stem
        return reach

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
