"""The part of a slice that networks are shown: as wide as the head, and the same answer there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny_ensemble, tiny_fusion

from scorefusion.fusion.inputs import InputLayout, ModelInputs
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.windows import MARGIN, find_window, spread
from scorefusion.networks.unet import UNet

SIZE = (96, 112, 80)
LAYOUT = InputLayout(1, False, True, True, True, 0, 4.0, "clean")


def ball(centre: tuple[int, int, int] = (30, 60, 40), radius: float = 14.0) -> np.ndarray:
    """`(I, J, K)` bool."""
    places = np.stack(np.indices(SIZE), axis=-1) - np.array(centre)
    return np.linalg.norm(places, axis=-1) < radius


class TestWindow:
    @pytest.mark.parametrize("plane", list(Plane))
    def test_it_holds_the_head_of_its_slices_with_the_margin_on_whole_cells(self, plane: Plane) -> None:
        region = ball()
        first, second = plane.in_plane_axes
        size = SIZE[first], SIZE[second]
        start = {0: 24, 1: 56, 2: 32}[plane.axis]
        window = find_window(region, plane, start, start + 16, size, 8)
        assert window is not None
        inside = np.moveaxis(region, plane.axis, 0)[start : start + 16]
        for axis, edge in enumerate(window):
            places = np.flatnonzero(inside.any(axis=(0, 2 - axis)))
            assert edge.start <= max(0, places[0] - MARGIN)
            assert edge.stop >= min(size[axis], places[-1] + 1 + MARGIN)
            assert edge.start % 8 == edge.stop % 8 == 0
            assert edge.stop - edge.start < size[axis]

    def test_slices_of_air_have_none(self) -> None:
        assert find_window(ball(), Plane.AXIAL, 60, 76, SIZE[:2], 8) is None
        assert find_window(None, Plane.AXIAL, 60, 76, SIZE[:2], 8) == (slice(0, 96), slice(0, 112))

    def test_features_stand_where_they_were_found(self) -> None:
        window, size = (slice(16, 48), slice(8, 64)), (64, 96)
        whole = [torch.rand(2, 3, size[0] // scale, size[1] // scale) for scale in (8, 4)]
        parts = [
            feature[..., window[0].start // s : window[0].stop // s, window[1].start // s : window[1].stop // s]
            for feature, s in zip(whole, (8, 4), strict=True)
        ]
        for feature, part, scale in zip(whole, parts, (8, 4), strict=True):
            found = spread(part, window, size, scale)
            assert found.shape == feature.shape
            assert torch.equal(found[found != 0], part[part != 0])
            assert torch.equal(found[found != 0], feature[found != 0])


class TestAnswer:
    def inputs(self) -> tuple[torch.Tensor, ModelInputs, np.ndarray]:
        generator = torch.Generator().manual_seed(0)
        region = ball(radius=20.0)
        image = torch.where(torch.from_numpy(region), torch.rand(SIZE, generator=generator), -torch.ones(()))
        noisy = torch.randn(1, 1, *SIZE, generator=generator)
        return noisy, ModelInputs(image[None, None], torch.zeros(1, 6)), region

    @torch.inference_mode()
    def test_it_is_the_same_in_the_head_and_zero_in_the_air(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rule = tiny_fusion(tiny_ensemble(LAYOUT, std=0.08), std=0.08)
        noisy, inputs, region = self.inputs()
        level = torch.tensor([0.3])
        whole = rule.ensemble.predict(noisy, inputs, level)
        shown: list[int] = []
        forward = UNet.forward
        monkeypatch.setattr(
            UNet, "forward", lambda s, x, *a, **k: (shown.append(x[:, 0].numel()), forward(s, x, *a, **k))[1]
        )
        windowed = rule.ensemble.predict(noisy, replace(inputs, region=region), level)
        assert sum(shown) < 0.5 * 3 * np.prod(SIZE)
        inside = torch.from_numpy(region)
        scale = float(whole[..., inside].abs().max())
        assert float((windowed - whole)[..., inside].abs().max()) < 0.02 * scale
        assert torch.equal(windowed[0, 2, :, :, 72:], torch.zeros(96, 112, 8))  # axial slices without a head

    @torch.inference_mode()
    def test_a_network_that_predicts_noise_is_shown_everything(self) -> None:
        ensemble = tiny_ensemble(replace(LAYOUT, prediction="noise"), std=0.08)
        noisy, inputs, region = self.inputs()
        level = torch.tensor([0.3])
        expected = ensemble.predict(noisy, inputs, level)
        assert torch.equal(ensemble.predict(noisy, replace(inputs, region=region), level), expected)

    def test_listeners_are_told_of_every_voxel(self) -> None:
        ensemble = tiny_ensemble(LAYOUT, std=0.08)
        noisy, inputs, region = self.inputs()
        told: list[int] = []
        ensemble.on_work = told.append
        with torch.inference_mode():
            ensemble.predict(noisy, replace(inputs, region=region), torch.tensor([0.3]))
        assert sum(told) == 3 * np.prod(SIZE)
