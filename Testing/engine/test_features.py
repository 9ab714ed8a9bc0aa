"""Features of the plane networks in the fusion network: in their places, from networks of any depth, with gradients."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_ensemble, tiny_fusion, tiny_network

from scorefusion.fusion.features import FeatureAccumulator, FeatureAlignment, FeatureRecorder
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.rules import PlaneAverage, ScoreFusion

LEVEL = torch.tensor([0.3, 0.6])
DEPTHS = ((6, 8), (4, 6, 8), (4,))  # of the sagittal, coronal and axial network


def _inputs(shape: tuple[int, int, int] = (11, 14, 17)) -> tuple[torch.Tensor, ModelInputs]:
    generator = torch.Generator().manual_seed(1)
    x_t, known = (torch.randn(2, 1, *shape, generator=generator) for _ in range(2))
    return x_t, ModelInputs(known, torch.rand(2, 6, generator=generator))


def _assert_near(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()


def _mixed(fresh: bool = False) -> ScoreFusion:
    ensemble = tiny_ensemble(shared=False, widths=DEPTHS)
    return tiny_fusion(ensemble, fresh=fresh, channels=(6, 8, 10))


class TestPlaces:
    @pytest.mark.parametrize("axis", range(3))
    def test_each_plane_puts_voxel_ijk_at_voxel_ijk(self, axis: int) -> None:
        """A coordinate image, averaged over blocks by every plane's layer, must land where the volume has it."""
        ensemble = tiny_ensemble()
        volume = tiny_network(3, ensemble.layout.volume_channels(1, 3), 3, ensemble.layout.volume_context_size)
        alignment = FeatureAlignment(ensemble.plane_networks, ensemble.members, volume)
        shape = (8, 12, 16)
        coordinate = (
            torch.arange(shape[axis], dtype=torch.float32)
            .reshape(*(1,) * (2 + axis), -1, *(1,) * (2 - axis))
            .expand(1, 1, *shape)
        )
        network = ensemble.plane_networks[0]
        with torch.no_grad():
            for number, member in enumerate(ensemble.members):
                sinks = FeatureAccumulator(alignment, coordinate), FeatureRecorder(alignment)
                for scale in alignment.scales[number]:
                    layer = alignment.layers[f"member{number}_scale{scale}"]
                    torch.nn.init.constant_(layer.weight, 1.0 / (scale * layer.in_channels))
                for start in range(0, shape[member.plane.axis], alignment.max_stride):
                    stack = coordinate.narrow(2 + member.plane.axis, start, alignment.max_stride)
                    slices = stack.movedim(2 + member.plane.axis, 1).flatten(0, 1)  # (S, 1, H, W)
                    features = [
                        torch.nn.functional.avg_pool2d(slices, scale).expand(-1, channels, -1, -1)
                        for scale, channels in zip(network.feature_scales, network.feature_channels, strict=True)
                    ]
                    for sink in sinks:
                        sink.add(number, member.plane, start, features, 1)
                for sink in sinks:
                    aligned = sink.align()
                    assert sorted(aligned) == [2, 4]
                    for scale, value in aligned.items():
                        expected = torch.nn.functional.avg_pool3d(coordinate, scale)
                        assert torch.allclose(value[:, :1], expected, atol=1e-4)

    @torch.no_grad()
    def test_slice_batches_do_not_matter(self) -> None:
        rule = tiny_fusion(tiny_ensemble())
        x_t, inputs = _inputs()
        whole = rule(x_t, inputs, LEVEL)
        rule.ensemble.slice_pixels = 1  # the least that the strides allow
        _assert_near(rule(x_t, inputs, LEVEL), whole)

    def test_sizes_that_the_strides_do_not_divide_are_refused(self) -> None:
        rule = tiny_fusion(tiny_ensemble())
        assert rule.alignment is not None
        with pytest.raises(ValueError, match=r"divisible by 4, got \(8, 10, 12\)"):
            FeatureAccumulator(rule.alignment, torch.zeros(1, 1, 8, 10, 12))
        recorder = FeatureRecorder(rule.alignment)
        recorder.add(0, Plane.SAGITTAL, 0, [torch.zeros(6, 8, 3, 3), torch.zeros(6, 6, 6, 6)], 1)
        with pytest.raises(ValueError, match=r"divisible by 4, got \(6,\)"):
            recorder.align()


class TestMixedDepths:
    def test_each_member_meets_the_encoder_at_its_own_scales(self) -> None:
        alignment = _mixed().alignment
        assert alignment is not None
        assert alignment.source_scales == ((4, 2), (8, 4, 2), (2,))
        assert alignment.scales == ((4, 2), (8, 4, 2), (2,))
        assert alignment.max_stride == 8
        shallow = tiny_fusion(tiny_ensemble(shared=False, widths=DEPTHS), channels=(6,)).alignment
        assert shallow is not None
        assert (shallow.scales, shallow.max_stride) == (((2,), (2,), (2,)), 2)

    @torch.no_grad()
    def test_fresh_fusion_is_the_plane_average_bit_for_bit(self) -> None:
        rule = _mixed(fresh=True)
        x_t, inputs = _inputs()
        average = PlaneAverage(rule.ensemble)(x_t, inputs, LEVEL)
        assert average.std() > 0.01
        assert torch.equal(rule(x_t, inputs, LEVEL), average)

    @torch.no_grad()
    def test_slice_batches_do_not_matter(self) -> None:
        rule = _mixed()
        x_t, inputs = _inputs()
        whole = rule(x_t, inputs, LEVEL)
        rule.ensemble.slice_pixels = 1
        _assert_near(rule(x_t, inputs, LEVEL), whole)

    def test_gradients_reach_every_alignment_layer(self) -> None:
        rule = _mixed()
        rule.ensemble.requires_grad_(False)
        x_t, inputs = _inputs()
        rule(x_t, inputs, LEVEL).square().mean().backward()
        assert rule.alignment is not None
        assert len(rule.alignment.layers) == 6
        for name, layer in rule.alignment.layers.items():
            assert layer.weight.grad.abs().max() > 1e-8, name  # type: ignore[union-attr]


class TestTraining:
    """Under gradients features are recorded and aligned once; in use they are added up while they come in."""

    @pytest.mark.parametrize("slice_pixels", [2**20, 1])
    def test_same_numbers_with_and_without_gradients(self, slice_pixels: int) -> None:
        rule = tiny_fusion(tiny_ensemble())
        rule.ensemble.slice_pixels = slice_pixels
        x_t, inputs = _inputs()
        with torch.no_grad():
            used = rule(x_t, inputs, LEVEL)
        trained = rule(x_t, inputs, LEVEL)
        assert trained.requires_grad
        _assert_near(trained, used)

    def test_gradients_do_not_depend_on_slice_batches(self) -> None:
        rule = tiny_fusion(tiny_ensemble())
        assert rule.alignment is not None
        x_t, inputs = _inputs()
        gradients = []
        for slice_pixels in (2**20, 1):
            rule.ensemble.slice_pixels = slice_pixels
            rule.zero_grad()
            rule(x_t, inputs, LEVEL).square().mean().backward()
            gradients.append([p.grad.clone() for p in rule.alignment.parameters() if p.grad is not None])
        assert len(gradients[0]) == 12  # 3 members, 2 scales, weight and bias
        for whole, pieces in zip(*gradients, strict=True):
            assert whole.abs().max() > 1e-8
            _assert_near(pieces, whole)

    def test_one_recording_serves_many_steps(self) -> None:
        """What the frozen plane networks said is kept; only the layers run again."""
        rule = tiny_fusion(tiny_ensemble())
        assert rule.alignment is not None
        x_t, inputs = _inputs(shape=(8, 12, 16))
        recorder = FeatureRecorder(rule.alignment)
        with torch.no_grad():
            predictions = rule.ensemble.predict(x_t, inputs, LEVEL, gathered=recorder)
        first = rule.combine(x_t, inputs, LEVEL, predictions, recorder.align(rule.alignment))
        _assert_near(first, rule(x_t, inputs, LEVEL))
        with torch.no_grad():
            for parameter in rule.alignment.parameters():
                parameter += 0.1
        second = rule.combine(x_t, inputs, LEVEL, predictions, recorder.align())
        _assert_near(second, rule(x_t, inputs, LEVEL))
        assert not torch.allclose(first, second)

    def test_lowered_precision_is_kept_up_to_the_alignment(self) -> None:
        rule = tiny_fusion(tiny_ensemble())
        rule.ensemble.autocast = torch.bfloat16
        x_t, inputs = _inputs()
        with torch.no_grad():
            used = rule(x_t, inputs, LEVEL)
        trained = rule(x_t, inputs, LEVEL)
        _assert_near(trained, used)
        rule.ensemble.autocast = None
        assert (rule(x_t, inputs, LEVEL) - used).abs().max() > 1e-3 * used.abs().max()
