"""Fusion rules: the average at first, weights that sum to one, features and base shifts in their places."""

from __future__ import annotations

import itertools

import pytest
import torch

from scorefusion.fusion import (
    AcquisitionPrior,
    AlternatingPlanes,
    FeatureAccumulator,
    FeatureAlignment,
    InputRule,
    Member,
    ModelInputs,
    PlaneAverage,
    PlaneEnsemble,
    ScoreFusion,
    SinglePlane,
    VolumeOnly,
    rebase,
    rebase_prediction,
    tiles,
)
from scorefusion.planes import Plane
from scorefusion.schedule import NoiseSchedule
from scorefusion.training.stages import fit_prior
from scorefusion.unet import UNet, UNetConfig

SHAPE = (11, 14, 17)  # lopsided, and nothing divides it
LEVEL = torch.tensor([0.3, 0.6])


def _network(dims: int, in_channels: int, out_channels: int, context: int, seed: int = 0, std: float = 0.15) -> UNet:
    torch.manual_seed(seed)
    config = UNetConfig(
        dims, in_channels, out_channels, (6, 8), blocks=1, stem_factor=2, normalisation="none", resampling="plain",
        context_size=context, embedding_size=8,
    )  # fmt: skip
    network = UNet(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return network.eval()


def _ensemble(rule: InputRule | None = None, shared: bool = True, conditions: int = 1) -> PlaneEnsemble:
    rule = rule or InputRule(slab_radius=1, plane_context=True, acquisition_context=True, residual_gain=4.0)
    channels, context = rule.plane_channels(conditions), rule.plane_context_size
    networks = [_network(2, channels, 1, context, seed) for seed in range(1 if shared else 3)]
    seen = tuple(range(conditions))
    members = [Member(0 if shared else n, plane, seen) for n, plane in enumerate(Plane)]
    return PlaneEnsemble(networks, members, rule).eval()


def _fusion(ensemble: PlaneEnsemble, features: bool = True, fresh: bool = False, conditions: int = 1) -> ScoreFusion:
    members = len(ensemble.members)
    rule = ensemble.rule
    network = _network(3, rule.volume_channels(conditions, members), members, rule.volume_context_size, 5, 0.1)
    alignment = FeatureAlignment(ensemble.plane_networks, ensemble.members, network) if features else None
    if alignment is not None and not fresh:
        for parameter in alignment.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    if fresh:
        for parameter in network.head.parameters():
            torch.nn.init.zeros_(parameter)
    return ScoreFusion(ensemble, network, alignment).eval()


def _inputs(conditions: int = 1, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> tuple[torch.Tensor, ModelInputs]:
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(2, 1, *shape, generator=generator)
    known = torch.randn(2, conditions, *shape, generator=generator)
    return x_t, ModelInputs(known, torch.rand(2, 6, generator=generator))


@pytest.fixture(autouse=True)
def _no_gradients():  # noqa: ANN202
    with torch.inference_mode():
        yield


class TestStartsAtTheAverage:
    @pytest.mark.parametrize("features", [False, True])
    @pytest.mark.parametrize("shared", [False, True])
    def test_fresh_fusion_is_the_plane_average_bit_for_bit(self, features: bool, shared: bool) -> None:
        ensemble = _ensemble(shared=shared)
        x_t, inputs = _inputs()
        average = PlaneAverage(ensemble)(x_t, inputs, LEVEL)
        assert average.std() > 0.01
        assert torch.equal(_fusion(ensemble, features, fresh=True)(x_t, inputs, LEVEL), average)

    def test_average_is_the_mean_of_the_single_planes(self) -> None:
        ensemble = _ensemble()
        x_t, inputs = _inputs()
        singles = [SinglePlane(ensemble, plane)(x_t, inputs, LEVEL) for plane in Plane]
        expected = torch.cat(singles, dim=1).mean(dim=1, keepdim=True)
        assert torch.allclose(PlaneAverage(ensemble)(x_t, inputs, LEVEL), expected, atol=1e-6)

    def test_alternating_takes_the_planes_in_turn(self) -> None:
        ensemble = _ensemble()
        x_t, inputs = _inputs()
        rule = AlternatingPlanes(ensemble)
        for step, plane in enumerate([*Plane, *Plane]):
            expected = SinglePlane(ensemble, plane)(x_t, inputs, LEVEL)
            assert torch.equal(rule(x_t, inputs, LEVEL, step), expected)


class TestWeights:
    def test_sum_to_one_for_any_network(self) -> None:
        rule = _fusion(_ensemble())
        x_t, inputs = _inputs(shape=(8, 12, 16))
        predictions, features = rule.ensemble.predict(x_t, inputs, LEVEL, alignment=rule.alignment)
        weights, _ = rule.weights_and_correction(x_t, inputs, LEVEL, predictions, features)
        assert weights.shape == (2, 3, 8, 12, 16)
        assert weights.abs().max() > 0.05
        total = (1 / 3 + weights).sum(dim=1)
        assert torch.allclose(total, torch.ones_like(total), atol=1e-5)

    def test_equal_predictions_pass_through_but_for_the_correction(self) -> None:
        rule = _fusion(_ensemble())
        x_t, inputs = _inputs(shape=(8, 12, 16))
        same = torch.randn(2, 1, 8, 12, 16).expand(-1, 3, -1, -1, -1)
        weights, correction = rule.weights_and_correction(x_t, inputs, LEVEL, same, {})
        fused = same.mean(dim=1, keepdim=True) + (weights * same).sum(dim=1, keepdim=True) + correction
        assert torch.allclose(fused, same[:, :1] + correction, atol=1e-4)

    def test_fusing_noise_or_clean_or_v_is_the_same(self) -> None:
        """With weights that sum to one, fusion commutes with the affine change of prediction."""
        schedule = NoiseSchedule.linear()
        x_t, t = torch.randn(2, 1, 6, 7, 8), 120
        noise = torch.randn(2, 3, 6, 7, 8)
        weights = torch.randn(2, 3, 6, 7, 8)
        weights = weights - weights.mean(dim=1, keepdim=True) + 1 / 3
        fused = (weights * noise).sum(dim=1, keepdim=True)
        clean = schedule.to_x0(x_t.expand(-1, 3, -1, -1, -1), noise, t)
        expected = schedule.to_x0(x_t, fused, t)
        assert torch.allclose((weights * clean).sum(dim=1, keepdim=True), expected, atol=1e-4)


class TestPermutation:
    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_permuted_input_gives_the_permuted_output(self, order: tuple[int, int, int]) -> None:
        """Networks that share weights and cannot tell rows from columns see a permuted head as the same head."""
        rule = InputRule(slab_radius=1, position=False, plane_context=False, acquisition_context=False)
        network = _network(2, rule.plane_channels(1), 1, 0)
        for parameter in network.parameters():
            if parameter.dim() == 4:
                parameter.copy_(0.5 * (parameter + parameter.transpose(2, 3)))
        # A transposed image also swaps the unshuffled neighbours (0,1) and (1,0): make the stem and head blind to it.
        stem, head = network.stem.weight, network.head.weight
        stem.view(-1, rule.plane_channels(1), 4, 3, 3)[:, :, [1, 2]] = (
            stem.view(-1, rule.plane_channels(1), 4, 3, 3)[:, :, [1, 2]].mean(dim=2, keepdim=True).clone()
        )
        head[[1, 2]] = head[[1, 2]].mean(dim=0, keepdim=True).clone()
        network.head.bias[[1, 2]] = network.head.bias[[1, 2]].mean()
        average = PlaneAverage(PlaneEnsemble([network], [Member(0, plane) for plane in Plane], rule))
        x_t, inputs = _inputs(shape=(8, 12, 16))
        axes = (0, 1, *(2 + axis for axis in order))
        moved = ModelInputs(inputs.conditions.permute(axes))
        expected = average(x_t, ModelInputs(inputs.conditions), LEVEL).permute(axes)
        assert expected.std() > 0.01
        assert torch.allclose(average(x_t.permute(axes), moved, LEVEL), expected, atol=1e-5)

    def test_slab_neighbours_run_forward_in_every_plane(self) -> None:
        rule = InputRule(slab_radius=1, position=False, foreground=False)
        ramp = torch.arange(SHAPE[1], dtype=torch.float32).reshape(1, 1, 1, -1, 1).expand(1, 1, *SHAPE)
        slab = rule.slab(ramp, ModelInputs(ramp), [0], Plane.CORONAL, 4, 5)
        assert [float(slab[0, n].mean()) for n in range(3)] == [3.0, 4.0, 5.0]


class TestFeatureAlignment:
    @pytest.mark.parametrize("axis", range(3))
    def test_each_plane_puts_voxel_ijk_at_voxel_ijk(self, axis: int) -> None:
        """A coordinate image, averaged over blocks by every plane's layer, must land where the volume has it."""
        ensemble = _ensemble()
        volume = _network(3, ensemble.rule.volume_channels(1, 3), 3, ensemble.rule.volume_context_size)
        alignment = FeatureAlignment(ensemble.plane_networks, ensemble.members, volume)
        shape = (8, 12, 16)
        coordinate = (
            torch.arange(shape[axis], dtype=torch.float32)
            .reshape(*(1,) * (2 + axis), -1, *(1,) * (2 - axis))
            .expand(1, 1, *shape)
        )
        for number, member in enumerate(ensemble.members):
            accumulator = FeatureAccumulator(alignment, coordinate)
            for scale in alignment.scales:
                layer = alignment.layers[f"member{number}_scale{scale}"]
                torch.nn.init.constant_(layer.weight, 1.0 / (scale * layer.in_channels))
            for start in range(0, shape[member.plane.axis], alignment.max_stride):
                features = []
                for scale, channels in zip(
                    ensemble.plane_networks[0].feature_scales, ensemble.plane_networks[0].feature_channels, strict=True
                ):
                    stack = coordinate.narrow(2 + member.plane.axis, start, alignment.max_stride)
                    slices = stack.movedim(2 + member.plane.axis, 1).flatten(0, 1)  # (S, 1, H, W)
                    coarse = torch.nn.functional.avg_pool2d(slices, scale)
                    features.append(coarse.expand(-1, channels, -1, -1))
                accumulator.add(number, member.plane, start, features, 1)
            for scale in alignment.scales:
                expected = torch.nn.functional.avg_pool3d(coordinate, scale)
                assert torch.allclose(accumulator.total[scale][:, :1], expected, atol=1e-4)

    def test_slice_batches_do_not_matter(self) -> None:
        rule = _fusion(_ensemble())
        x_t, inputs = _inputs()
        whole = rule(x_t, inputs, LEVEL)
        rule.ensemble.slice_pixels = 1  # the least that the strides allow
        assert torch.allclose(rule(x_t, inputs, LEVEL), whole, atol=1e-5)


class TestTiles:
    def test_cores_cover_the_volume_once(self) -> None:
        seen = torch.zeros(16, 24, 40)
        for core, window, inner in tiles((16, 24, 40), (8, 16, 16), halo=5, multiple=4):
            seen[core] += 1
            assert all(w.start % 4 == 0 for w in window)
            block = torch.arange(16 * 24 * 40).reshape(16, 24, 40)
            assert torch.equal(block[window][inner], block[core])
        assert torch.equal(seen, torch.ones_like(seen))

    def test_tiled_fusion_equals_the_whole(self) -> None:
        rule = _fusion(_ensemble())
        x_t, inputs = _inputs(shape=(6, 11, 170))
        whole = rule(x_t, inputs, LEVEL)
        rule.tile, rule.halo = (8, 12, 16), 56  # the receptive field of this network, so that nothing is cut off
        assert torch.allclose(rule(x_t, inputs, LEVEL), whole, atol=1e-5)


class TestSeveralConditions:
    """Networks conditioned on different images predict residuals of different bases."""

    def _two_ensembles(self, prediction: str = "clean") -> PlaneEnsemble:
        rule = InputRule(slab_radius=1, residual_gain=4.0, prediction=prediction)  # type: ignore[arg-type]
        networks = [_network(2, rule.plane_channels(1), 1, 0, seed) for seed in range(2)]
        members = [Member(n, plane, (n,)) for n in range(2) for plane in Plane]
        return PlaneEnsemble(networks, members, rule).eval()

    @pytest.mark.parametrize("kind", ["noise", "v", "clean"])
    def test_base_shift_is_exact_for_perfect_networks(self, kind: str) -> None:
        """r_t of the other base, predicted perfectly there, comes back as the perfect prediction here (method 6)."""
        schedule = NoiseSchedule.linear(prediction=kind)  # type: ignore[arg-type]
        target, base, other, noise = (torch.randn(2, 1, 4, 5, 6) for _ in range(4))
        t, gain = 130, 4.0
        level = torch.full((2,), float(schedule.alpha_bar[t]))
        mine, theirs = (0.5 * gain * (target - b) for b in (base, other))
        x_t = schedule.add_noise(mine, noise, t)
        shift = 0.5 * gain * (base - other)
        assert torch.allclose(rebase(x_t, shift, level), schedule.add_noise(theirs, noise, t), atol=1e-5)
        there = schedule.from_x0_noise(theirs, noise, t)
        here = rebase_prediction(there, shift, level, kind)  # type: ignore[arg-type]
        assert torch.allclose(here, schedule.from_x0_noise(mine, noise, t), atol=1e-5)

    def test_six_weights_sum_to_one_with_features_for_all(self) -> None:
        rule = _fusion(self._two_ensembles(), conditions=2)
        x_t, inputs = _inputs(2, shape=(8, 12, 16))
        predictions, features = rule.ensemble.predict(x_t, inputs, LEVEL, alignment=rule.alignment)
        weights, _ = rule.weights_and_correction(x_t, inputs, LEVEL, predictions, features)
        assert weights.shape[1] == 6
        assert torch.allclose(weights.sum(dim=1), torch.zeros(2, 8, 12, 16), atol=1e-5)
        assert rule.alignment is not None
        assert len(rule.alignment.layers) == 6 * len(rule.alignment.scales)

    @pytest.mark.parametrize("missing", [0, 1])
    def test_a_missing_condition_leaves_its_networks_out(self, missing: int) -> None:
        rule = _fusion(self._two_ensembles(), conditions=2)
        x_t, both = _inputs(2)
        present = (missing != 0, missing != 1)
        broken = both.conditions.clone()
        broken[:, missing] = float("nan")  # must never be read
        inputs = ModelInputs(broken, both.acquisition, present)
        fused = rule(x_t, inputs, LEVEL)
        assert torch.isfinite(fused).all()
        assert rule.ensemble.active(inputs) == ([3, 4, 5] if missing == 0 else [0, 1, 2])

    def test_weights_of_the_rest_still_sum_to_one(self) -> None:
        rule = _fusion(self._two_ensembles(), conditions=2)
        x_t, both = _inputs(2, shape=(8, 12, 16))
        inputs = ModelInputs(both.conditions, both.acquisition, (True, False))
        predictions, features = rule.ensemble.predict(x_t, inputs, LEVEL, alignment=rule.alignment)
        weights, _ = rule.weights_and_correction(x_t, inputs, LEVEL, predictions, features)
        assert weights.shape[1] == 3
        assert torch.allclose(weights.sum(dim=1), torch.zeros(2, 8, 12, 16), atol=1e-5)

    def test_fresh_fusion_of_the_rest_is_their_average(self) -> None:
        ensemble = self._two_ensembles()
        x_t, both = _inputs(2)
        inputs = ModelInputs(both.conditions, both.acquisition, (False, True))
        expected = PlaneAverage(ensemble)(x_t, inputs, LEVEL)
        assert torch.equal(_fusion(ensemble, fresh=True, conditions=2)(x_t, inputs, LEVEL), expected)

    def test_one_network_that_is_told_of_absence_works_with_what_is_there(self) -> None:
        rule = InputRule(slab_radius=1, presence_context=2)
        ensemble = _ensemble(rule, conditions=2)
        x_t, both = _inputs(2)
        whole = PlaneAverage(ensemble)(x_t, both, LEVEL)
        part = PlaneAverage(ensemble)(x_t, ModelInputs(both.conditions, None, (True, False)), LEVEL)
        assert torch.isfinite(part).all()
        assert not torch.allclose(whole, part)

    def test_nothing_to_work_with_is_refused(self) -> None:
        ensemble = self._two_ensembles()
        x_t, both = _inputs(2)
        with pytest.raises(ValueError, match="none of the model's plane networks"):
            ensemble.predict(x_t, ModelInputs(both.conditions, None, (False, False)), LEVEL)


class TestVolumeOnly:
    def test_needs_no_planes(self) -> None:
        rule = InputRule(slab_radius=0)
        network = _network(3, rule.volume_channels(1, 0), 1, rule.volume_context_size)
        x_t, inputs = _inputs()
        assert VolumeOnly(network, rule)(x_t, inputs, LEVEL).shape == (2, 1, *SHAPE)


def test_wrong_channel_count_names_both_numbers() -> None:
    rule = InputRule(slab_radius=1)
    with pytest.raises(ValueError, match="8 input channels; its network 0 has 5"):
        PlaneEnsemble([_network(2, 5, 1, 0)], [Member(0, Plane.AXIAL)], rule)


class TestAcquisitionPrior:
    def _rule(self) -> ScoreFusion:
        ensemble = _ensemble()
        rule = _fusion(ensemble, fresh=True)
        rule.prior = AcquisitionPrior(3, ensemble.rule.volume_context_size)
        return rule

    def test_a_fresh_prior_leaves_the_average_bit_for_bit(self) -> None:
        rule = self._rule()
        x_t, inputs = _inputs()
        assert torch.equal(rule(x_t, inputs, LEVEL), PlaneAverage(rule.ensemble)(x_t, inputs, LEVEL))

    def test_weights_sum_to_one_with_any_prior(self) -> None:
        rule = self._rule()
        assert rule.prior is not None
        torch.nn.init.normal_(rule.prior.head.weight, std=0.3)
        x_t, inputs = _inputs(shape=(8, 12, 16))
        predictions, features = rule.ensemble.predict(x_t, inputs, LEVEL, alignment=rule.alignment)
        weights, correction = rule.weights_and_correction(x_t, inputs, LEVEL, predictions, features)
        assert weights.abs().max() > 0.05
        assert torch.allclose(weights.sum(dim=1), torch.zeros(2, 8, 12, 16), atol=1e-5)
        assert correction.abs().max() > 0.01

    def test_least_squares_finds_the_plane_that_knows(self) -> None:
        """One member right, two noisy: the fitted prior gives the weight to the first, and no gain."""
        generator = torch.Generator().manual_seed(0)
        grams = []
        for _ in range(40):
            truth = torch.randn(1, 500, generator=generator)
            noisy = truth + torch.randn(2, 500, generator=generator)
            images = torch.cat([truth, noisy, truth])
            grams.append(images @ images.T / 500)
        prior = AcquisitionPrior(3, 6)
        acquisitions = torch.rand(40, 6, generator=generator)
        level = torch.rand(40, generator=generator)
        fitted, held_out = fit_prior(prior, torch.stack(grams), level, acquisitions, ridge=1e-6)
        assert fitted < 0.05
        assert held_out < 0.05
        free, gain = prior(level, acquisitions)
        assert torch.allclose(1 / 3 + free[:, 0].flatten() + gain.flatten() / 3, torch.ones(40), atol=0.1)
