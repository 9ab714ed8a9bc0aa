"""The U-Net: published sizes, any image size, and what it promises about features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import COMPACT_LIKE, PAPER_LIKE, tiny_network
from torch.utils.checkpoint import checkpoint

from scorefusion.fusion.features import FeatureAlignment
from scorefusion.fusion.members import Member
from scorefusion.fusion.planes import Plane
from scorefusion.networks import unet
from scorefusion.networks.blocks import noise_time
from scorefusion.networks.shapes import crop_to, pad_to_multiple, shuffle, unshuffle
from scorefusion.networks.sizes import UNetConfig, fusion_config, plane_config
from scorefusion.networks.unet import UNet, count_parameters


def _tiny(dims: int, **changes: Any) -> UNet:
    """With normalisation and residual resampling, unlike the compact networks."""
    settings = {"channels": (4, 8), "blocks": 2, "stem_factor": 1, "normalisation": "group", "resampling": "block"}
    return tiny_network(dims, 3, 2, std=0.2, **{**settings, **changes})


class TestPublishedSizes:
    """Within 1 % of the numbers computed from the paper's code."""

    def test_paper_plane_network_has_62_6_million_parameters(self) -> None:
        with torch.device("meta"):
            assert count_parameters(UNet(plane_config("paper", 10))) == pytest.approx(62.6e6, rel=0.01)

    def test_paper_fusion_network_has_55_5_and_3_1_million(self) -> None:
        with torch.device("meta"):
            plane = UNet(plane_config("paper", 10))
            fusion = UNet(fusion_config("paper", 9, 3))
            alignment = FeatureAlignment([plane] * 3, [Member(n, p) for n, p in enumerate(Plane)], fusion)
        assert count_parameters(fusion) == pytest.approx(55.5e6, rel=0.01)
        assert count_parameters(alignment) == 3_061_440  # 3.1 M: the sum of the paper's table of layers
        assert count_parameters(fusion) + count_parameters(alignment) == pytest.approx(58.6e6, rel=0.01)
        assert fusion.injection_channels == (192, 192, 128, 64)  # at 1/8, 1/4, 1/2, 1

    def test_compact_networks_stay_below_3_million_in_all(self) -> None:
        plane = UNet(plane_config("compact", 7, 9))
        fusion = UNet(fusion_config("compact", 6, 3, 6))
        alignment = FeatureAlignment([plane], [Member(0, p) for p in Plane], fusion)
        assert sum(map(count_parameters, (plane, fusion, alignment))) < 3e6


class TestUnknownWords:
    @pytest.mark.parametrize(
        ("field", "word", "known"),
        [
            ("resampling", "blok", "block, convolution, plain"),
            ("normalisation", "batch", "group, none"),
            ("modulation", "scale", "scale_shift, shift"),
        ],
    )
    def test_a_word_that_a_network_does_not_know_is_refused(self, field: str, word: str, known: str) -> None:
        settings = plane_config("compact", 7).to_dict() | {field: word}
        with pytest.raises(ValueError, match=f"{field} is '{word}'; it must be one of {known}"):
            UNetConfig.from_dict(settings)


class TestReach:
    """How far the image around a cell of the coarsest grid is looked at: from the configuration, and by gradients."""

    @pytest.mark.parametrize("dims", [2, 3])
    @pytest.mark.parametrize(
        "settings",
        [
            {"channels": (4,)},
            {"channels": (4, 6), "stem_factor": 2},
            {"channels": (4, 6, 8), "stem_factor": 2},
            {"channels": (4, 6), "blocks": 2, "resampling": "convolution", "replicate_edges": True},
            {"channels": (4, 6), "blocks": 2, "resampling": "block"},
        ],
        ids=["flat", "shipped fusion", "shipped plane", "strided", "residual"],
    )
    def test_is_where_the_gradient_ends(self, dims: int, settings: dict[str, Any]) -> None:
        fields = {"blocks": 1, "stem_factor": 1, "normalisation": "none", "resampling": "plain", **settings}
        network = tiny_network(dims, 1, 1, std=0.3, **fields)
        reach, cell = network.config.reach, network.size_multiple
        assert reach is not None
        start = -(-(reach + 2) // cell) * cell
        x = torch.randn(1, 1, *(cell,) * (dims - 1), 2 * start + cell, requires_grad=True)
        y, _ = network(x, torch.tensor([0.4]))
        y[..., start : start + cell].sum().backward()
        assert x.grad is not None
        touched = x.grad.abs().flatten(0, -2).amax(dim=0).nonzero().flatten()
        assert start - int(touched.min()) == reach
        assert int(touched.max()) - (start + cell - 1) <= reach

    def test_of_the_named_sizes(self) -> None:
        assert fusion_config("compact", 6, 3).reach == 58
        assert replace(fusion_config("paper", 9, 3), normalisation="none").reach == 204

    def test_group_normalisation_and_attention_see_the_whole(self) -> None:
        assert fusion_config("paper", 9, 3).reach is None
        assert replace(plane_config("paper", 9), normalisation="none").reach is None


class TestAnySize:
    @pytest.mark.parametrize("name", ["paper", "compact"])
    @pytest.mark.parametrize("size", [(17, 22), (8, 31)])
    def test_plane_network_keeps_the_size(self, name: str, size: tuple[int, int]) -> None:
        config = plane_config(name, 6)
        small = UNetConfig.from_dict(
            config.to_dict() | {"channels": [4 * (n + 1) for n in range(len(config.channels))]}
        )
        y, _ = UNet(UNetConfig.from_dict(small.to_dict() | {"head_width": 4}))(torch.randn(2, 6, *size), torch.rand(2))
        assert y.shape == (2, 1, *size)

    def test_volume_network_keeps_the_size(self) -> None:
        y, _ = _tiny(3)(torch.randn(2, 3, 5, 7, 10), torch.rand(2))
        assert y.shape == (2, 2, 5, 7, 10)

    def test_padding_repeats_the_last_voxel_and_is_undone(self) -> None:
        x = torch.randn(2, 1, 5, 6, 7)
        padded = pad_to_multiple(x, 4)
        assert padded.shape[2:] == (8, 8, 8)
        assert torch.equal(padded[:, :, 5:, :6, :7], x[:, :, 4:].expand(-1, -1, 3, -1, -1))
        assert torch.equal(crop_to(padded, (5, 6, 7)), x)

    @pytest.mark.parametrize("dims", [2, 3])
    def test_shuffle_undoes_unshuffle(self, dims: int) -> None:
        x = torch.randn(2, 3, *(4, 6, 8)[:dims])
        assert torch.equal(shuffle(unshuffle(x, 2), 2), x)

    def test_unshuffle_is_torchs_in_2d(self) -> None:
        x = torch.randn(2, 3, 6, 8)
        assert torch.equal(unshuffle(x, 2), torch.nn.functional.pixel_unshuffle(x, 2))


class TestConditioning:
    def test_a_fresh_network_predicts_zero(self) -> None:
        y, _ = UNet(plane_config("compact", 7, 9))(torch.randn(1, 7, 16, 16), torch.rand(1), torch.rand(1, 9))
        assert torch.equal(y, torch.zeros_like(y))

    @pytest.mark.parametrize("change", ["level", "context"])
    def test_output_depends_on_level_and_context(self, change: str) -> None:
        network = _tiny(2, context_size=4)
        x = torch.randn(1, 3, 8, 8)
        before, _ = network(x, torch.tensor([0.2]), torch.zeros(1, 4))
        level = torch.tensor([0.7 if change == "level" else 0.2])
        after, _ = network(x, level, torch.ones(1, 4) if change == "context" else torch.zeros(1, 4))
        assert not torch.allclose(before, after)

    def test_each_image_has_its_own_level(self) -> None:
        network = _tiny(2)
        x = torch.randn(2, 3, 8, 8)
        levels = torch.tensor([0.1, 0.9])
        together, _ = network(x, levels)
        for n in range(2):
            assert torch.allclose(together[n : n + 1], network(x[n : n + 1], levels[n : n + 1])[0], atol=1e-5)

    def test_missing_context_is_refused(self) -> None:
        with pytest.raises(ValueError, match="length 4"):
            _tiny(2, context_size=4)(torch.randn(1, 3, 8, 8), torch.rand(1))


class TestFeatures:
    def test_features_have_the_announced_scales_and_channels(self) -> None:
        network = _tiny(2, channels=(4, 8, 12), stem_factor=2)
        _, features = network(torch.randn(1, 3, 16, 32), torch.rand(1), return_features=True)
        seen = [(16 // f.shape[2], f.shape[1]) for f in features]
        assert (
            seen
            == list(zip(network.feature_scales, network.feature_channels, strict=True))
            == [(8, 12), (4, 8), (2, 4)]
        )

    @pytest.mark.parametrize("blocks", [1, 2])
    def test_injection_fits_every_scale_and_changes_the_output(self, blocks: int) -> None:
        network = _tiny(3, blocks=blocks, channels=(4, 8, 12))
        x = torch.randn(1, 3, 8, 8, 12)
        plain, _ = network(x, torch.rand(1).fill_(0.5))
        for scale, channels in zip(network.feature_scales, network.injection_channels, strict=True):
            extra = torch.randn(1, channels, 8 // scale, 8 // scale, 12 // scale)
            changed, _ = network(x, torch.rand(1).fill_(0.5), injected={scale: extra})
            assert not torch.allclose(plain, changed)


class TestConfig:
    def test_survives_json(self) -> None:
        import json

        config = plane_config("compact", 7, 9)
        assert UNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    def test_unknown_size_names_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match="paper, compact"):
            plane_config("huge", 7)

    def test_wrong_dimension(self) -> None:
        with pytest.raises(ValueError, match="2 or 3"):
            UNetConfig(4, 1, 1, (8,))

    @pytest.mark.parametrize("channels", [(), (5, 8)])
    def test_an_odd_first_level_is_refused(self, channels: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="begin with an even number"):
            UNetConfig(2, 1, 1, channels)


class TestNoiseTime:
    def test_is_the_cosine_schedules_own_time(self) -> None:
        time = torch.tensor([0.0, 0.25, 0.5, 1.0])
        alpha_bar = torch.cos(0.5 * torch.pi * time) ** 2
        assert torch.allclose(noise_time(alpha_bar), time, atol=1e-6)
        assert torch.allclose(noise_time(alpha_bar, 1000.0), 1000 * time, atol=1e-3)
        assert noise_time(torch.tensor([1.0 + 1e-6])) == 0


class TestCheckpointing:
    """Activations computed again in the backward pass are the same activations."""

    def _step(self, network: UNet, checkpointing: bool) -> tuple[list[torch.Tensor], int]:
        """Gradients, and the bytes that wait for the backward pass: saved tensors and what is computed again from."""
        kept: dict[int, int] = {}
        weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        def count(part: Callable[..., Any], *arguments: Any, use_reentrant: bool) -> Any:
            for argument in torch.utils._pytree.tree_leaves(arguments):
                if isinstance(argument, torch.Tensor):
                    keep(argument)
            return checkpoint(part, *arguments, use_reentrant=use_reentrant)

        network.checkpointing = checkpointing
        network.zero_grad()
        generator = torch.Generator().manual_seed(3)
        spatial = (16, 8, 12)[: network.config.spatial_dims]
        x = torch.randn(2, 3, *spatial, generator=generator)
        scale = network.feature_scales[-1]
        injected = {
            scale: torch.randn(2, network.injection_channels[-1], *(s // scale for s in spatial), generator=generator)
        }
        torch.manual_seed(4)  # of the dropout
        with pytest.MonkeyPatch.context() as patch, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            patch.setattr(unet, "checkpoint", count)
            y, features = network(x, torch.tensor([0.2, 0.7]), injected=injected, return_features=True)
            loss = y.square().mean() + sum(feature.square().mean() for feature in features)
        bytes_kept = sum(kept.values())
        loss.backward()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None], bytes_kept

    @pytest.mark.parametrize("dims", [2, 3])
    @pytest.mark.parametrize("settings", [COMPACT_LIKE, {**PAPER_LIKE, "dropout": 0.2}], ids=["compact", "paper"])
    def test_same_gradients_bit_for_bit_from_less_memory(self, dims: int, settings: dict[str, Any]) -> None:
        network = tiny_network(dims, 3, 2, **{**settings, "stem_factor": 1}).train()
        plain, kept = self._step(network, False)
        again, kept_again = self._step(network, True)
        assert len(plain) == len(again) > 20
        for before, after in zip(plain, again, strict=True):
            assert before.abs().max() > 0
            assert torch.equal(before, after)
        assert kept_again < 0.6 * kept

    def test_is_off_by_default_and_without_effect_in_use(self) -> None:
        network = tiny_network(2, 3)
        assert network.checkpointing is False
        x, level = torch.randn(1, 3, 8, 8), torch.tensor([0.4])
        with torch.inference_mode():
            expected, _ = network(x, level)
            network.checkpointing = True
            assert torch.equal(network(x, level)[0], expected)
