"""Fusion rules: the average at first, weights that sum to one, features and base shifts in their places."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tiny_models import tiny_ensemble, tiny_fusion, tiny_network, tiny_volume

from scorefusion.diffusion.schedule import NoiseSchedule, Prediction
from scorefusion.errors import RequestError
from scorefusion.fusion.base import rebase, rebase_prediction
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.features import FeatureAccumulator
from scorefusion.fusion.gate import AcquisitionGate
from scorefusion.fusion.inputs import InputLayout, ModelInputs
from scorefusion.fusion.members import Member
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.rules import AlternatingPlanes, PlaneAverage, ScoreFusion, SinglePlane, VolumeOnly, VolumeRule

SHAPE = (11, 14, 17)  # lopsided, and nothing divides it
LEVEL = torch.tensor([0.3, 0.6])


def _inputs(conditions: int = 1, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> tuple[torch.Tensor, ModelInputs]:
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(2, 1, *shape, generator=generator)
    known = torch.randn(2, conditions, *shape, generator=generator)
    return x_t, ModelInputs(known, torch.rand(2, 6, generator=generator))


def _ask(rule: ScoreFusion, x_t: torch.Tensor, inputs: ModelInputs) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """The plane networks' predictions and aligned features."""
    assert rule.alignment is not None
    sink = FeatureAccumulator(rule.alignment, x_t)
    return rule.ensemble.predict(x_t, inputs, LEVEL, gathered=sink), sink.align()


@pytest.fixture(autouse=True)
def _no_gradients():  # noqa: ANN202
    with torch.inference_mode():
        yield


class TestStartsAtTheAverage:
    @pytest.mark.parametrize("features", [False, True])
    @pytest.mark.parametrize("shared", [False, True])
    def test_fresh_fusion_is_the_plane_average_bit_for_bit(self, features: bool, shared: bool) -> None:
        ensemble = tiny_ensemble(shared=shared)
        x_t, inputs = _inputs()
        average = PlaneAverage(ensemble)(x_t, inputs, LEVEL)
        assert average.std() > 0.01
        assert torch.equal(tiny_fusion(ensemble, features=features, fresh=True)(x_t, inputs, LEVEL), average)

    def test_average_is_the_mean_of_the_single_planes(self) -> None:
        ensemble = tiny_ensemble()
        x_t, inputs = _inputs()
        singles = [SinglePlane(ensemble, plane)(x_t, inputs, LEVEL) for plane in Plane]
        expected = torch.cat(singles, dim=1).mean(dim=1, keepdim=True)
        assert torch.allclose(PlaneAverage(ensemble)(x_t, inputs, LEVEL), expected, atol=1e-6)

    def test_alternating_takes_the_planes_in_turn(self) -> None:
        ensemble = tiny_ensemble()
        x_t, inputs = _inputs()
        rule = AlternatingPlanes(ensemble)
        for step, plane in enumerate([*Plane, *Plane]):
            expected = SinglePlane(ensemble, plane)(x_t, inputs, LEVEL)
            assert torch.equal(rule(x_t, inputs, LEVEL, step), expected)


class TestWeights:
    def test_sum_to_one_for_any_network(self) -> None:
        rule = tiny_fusion(tiny_ensemble())
        x_t, inputs = _inputs(shape=(8, 12, 16))
        predictions, features = _ask(rule, x_t, inputs)
        weights, _ = rule.weights_and_correction(x_t, inputs, LEVEL, predictions, features)
        assert weights.shape == (2, 3, 8, 12, 16)
        assert weights.abs().max() > 0.05
        total = (1 / 3 + weights).sum(dim=1)
        assert torch.allclose(total, torch.ones_like(total), atol=1e-5)

    def test_equal_predictions_pass_through_but_for_the_correction(self) -> None:
        rule = tiny_fusion(tiny_ensemble())
        x_t, inputs = _inputs(shape=(8, 12, 16))
        same = torch.randn(2, 1, 8, 12, 16).expand(-1, 3, -1, -1, -1)
        weights, correction = rule.weights_and_correction(x_t, inputs, LEVEL, same)
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


class TestSomePlanes:
    def test_two_planes_are_the_mean_of_two(self) -> None:
        ensemble = tiny_ensemble(shared=False)
        x_t, inputs = _inputs()
        two = [SinglePlane(ensemble, plane)(x_t, inputs, LEVEL) for plane in (Plane.SAGITTAL, Plane.CORONAL)]
        average = PlaneAverage(ensemble, [Plane.CORONAL, Plane.SAGITTAL])(x_t, inputs, LEVEL)
        assert torch.equal(average, torch.cat(two, dim=1).mean(dim=1, keepdim=True))


class TestPermutation:
    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_permuted_input_gives_the_permuted_output(self, order: tuple[int, int, int]) -> None:
        """Networks that share weights and cannot tell rows from columns see a permuted head as the same head."""
        layout = InputLayout(slab_radius=1, position=False, plane_context=False, acquisition_context=False)
        network = tiny_network(2, layout.plane_channels(1), 1, 0)
        for parameter in network.parameters():
            if parameter.dim() == 4:
                parameter.copy_(0.5 * (parameter + parameter.transpose(2, 3)))
        # A transposed image also swaps the unshuffled neighbours (0,1) and (1,0): make the stem and head blind to it.
        stem, head = network.stem.weight, network.head.weight
        stem.view(-1, layout.plane_channels(1), 4, 3, 3)[:, :, [1, 2]] = (
            stem.view(-1, layout.plane_channels(1), 4, 3, 3)[:, :, [1, 2]].mean(dim=2, keepdim=True).clone()
        )
        head[[1, 2]] = head[[1, 2]].mean(dim=0, keepdim=True).clone()
        network.head.bias[[1, 2]] = network.head.bias[[1, 2]].mean()
        average = PlaneAverage(PlaneEnsemble([network], [Member(0, plane) for plane in Plane], layout))
        x_t, inputs = _inputs(shape=(8, 12, 16))
        axes = (0, 1, *(2 + axis for axis in order))
        moved = ModelInputs(inputs.conditions.permute(axes))
        expected = average(x_t, ModelInputs(inputs.conditions), LEVEL).permute(axes)
        assert expected.std() > 0.01
        assert torch.allclose(average(x_t.permute(axes), moved, LEVEL), expected, atol=1e-5)

    def test_slab_neighbours_run_forward_in_every_plane(self) -> None:
        layout = InputLayout(slab_radius=1, position=False, foreground=False)
        ramp = torch.arange(SHAPE[1], dtype=torch.float32).reshape(1, 1, 1, -1, 1).expand(1, 1, *SHAPE)
        slab = layout.slab(ramp, ModelInputs(ramp), [0], Plane.CORONAL, 4, 5)
        assert [float(slab[0, n].mean()) for n in range(3)] == [3.0, 4.0, 5.0]


class TestTiles:
    def _rule(self, alone: bool = False, **settings: Any) -> VolumeRule:
        """Loud weights and two levels: what is far away counts."""
        if alone:
            return tiny_volume(InputLayout(slab_radius=0), std=0.15, **settings)
        return tiny_fusion(tiny_ensemble(), std=0.15, **settings)

    @pytest.mark.parametrize("alone", [False, True], ids=["fusion", "3D network alone"])
    def test_tiles_with_the_halo_that_ships_equal_the_whole(self, alone: bool) -> None:
        rule = self._rule(alone)
        x_t, inputs = _inputs(shape=(6, 11, 170))
        whole = rule(x_t, inputs, LEVEL)
        assert whole.std() > 0.01
        windows = []
        rule.ensemble.on_work = windows.append
        rule.tile = (8, 12, 16)
        assert (rule(x_t, inputs, LEVEL) - whole).abs().max() < 1e-5 * whole.abs().max()
        assert len(windows) == 11 + (0 if alone else 3)  # 170 voxels in tiles of 16, and a call for each plane

    def test_a_halo_that_is_too_small_is_blended_without_seams(self) -> None:
        """With less than a third of the surroundings the answer differs, but not most of all at the borders."""
        rule = tiny_volume(InputLayout(slab_radius=0), std=0.1)
        x_t, inputs = _inputs(shape=(8, 8, 160))
        whole = rule(x_t, inputs, LEVEL)
        rule.tile, rule.halo = (8, 8, 32), 16
        change = rule(x_t, inputs, LEVEL) - whole
        assert 1e-4 < change.abs().max() / whole.abs().max() < 0.03
        jump = change.diff(dim=4).abs().amax(dim=(0, 1, 2, 3))
        borders = jump[[31, 63, 95, 127]]
        assert borders.max() < jump.max()
        rule.halo = 0
        hard = (rule(x_t, inputs, LEVEL) - whole).diff(dim=4).abs().amax(dim=(0, 1, 2, 3))
        assert hard[[31, 63, 95, 127]].min() > borders.max()

    @pytest.mark.parametrize("settings", [{"normalisation": "group"}, {"attention": True, "head_width": 4}])
    def test_networks_that_need_the_whole_volume_are_not_cut(self, settings: dict[str, Any]) -> None:
        rule = self._rule(alone=True, **settings)
        x_t, inputs = _inputs(shape=(8, 8, 32))
        assert rule.exact_halo is None
        rule.tile = (8, 8, 16)
        with pytest.raises(RequestError, match="group normalisation or attention.*whole volume"):
            rule(x_t, inputs, LEVEL)


class TestSeveralConditions:
    """Networks conditioned on different images predict residuals of different bases."""

    def _two_ensembles(self, prediction: str = "clean") -> PlaneEnsemble:
        layout = InputLayout(slab_radius=1, residual_gain=4.0, prediction=prediction)  # type: ignore[arg-type]
        return tiny_ensemble(layout, groups=[(0,), (1,)])

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
        rule = tiny_fusion(self._two_ensembles(), conditions=2)
        x_t, inputs = _inputs(2, shape=(8, 12, 16))
        predictions, features = _ask(rule, x_t, inputs)
        weights, _ = rule.weights_and_correction(x_t, inputs, LEVEL, predictions, features)
        assert weights.shape[1] == 6
        assert torch.allclose(weights.sum(dim=1), torch.zeros(2, 8, 12, 16), atol=1e-5)
        assert rule.alignment is not None
        assert len(rule.alignment.layers) == sum(len(scales) for scales in rule.alignment.scales) == 12

    @pytest.mark.parametrize("missing", [0, 1])
    def test_a_missing_condition_leaves_its_networks_out(self, missing: int) -> None:
        rule = tiny_fusion(self._two_ensembles(), conditions=2)
        x_t, both = _inputs(2)
        present = (missing != 0, missing != 1)
        broken = both.conditions.clone()
        broken[:, missing] = float("nan")  # must never be read
        inputs = ModelInputs(broken, both.acquisition, present)
        fused = rule(x_t, inputs, LEVEL)
        assert torch.isfinite(fused).all()
        assert rule.ensemble.active(inputs) == ([3, 4, 5] if missing == 0 else [0, 1, 2])

    def test_weights_of_the_rest_still_sum_to_one(self) -> None:
        rule = tiny_fusion(self._two_ensembles(), conditions=2)
        x_t, both = _inputs(2, shape=(8, 12, 16))
        inputs = ModelInputs(both.conditions, both.acquisition, (True, False))
        predictions, features = _ask(rule, x_t, inputs)
        weights, _ = rule.weights_and_correction(x_t, inputs, LEVEL, predictions, features)
        assert weights.shape[1] == 3
        assert torch.allclose(weights.sum(dim=1), torch.zeros(2, 8, 12, 16), atol=1e-5)

    def test_fresh_fusion_of_the_rest_is_their_average(self) -> None:
        ensemble = self._two_ensembles()
        x_t, both = _inputs(2)
        inputs = ModelInputs(both.conditions, both.acquisition, (False, True))
        expected = PlaneAverage(ensemble)(x_t, inputs, LEVEL)
        assert torch.equal(tiny_fusion(ensemble, fresh=True, conditions=2)(x_t, inputs, LEVEL), expected)

    def test_one_network_that_is_told_of_absence_works_with_what_is_there(self) -> None:
        layout = InputLayout(slab_radius=1, presence_context=2)
        ensemble = tiny_ensemble(layout, groups=[(0, 1)])
        x_t, both = _inputs(2)
        whole = PlaneAverage(ensemble)(x_t, both, LEVEL)
        part = PlaneAverage(ensemble)(x_t, ModelInputs(both.conditions, None, (True, False)), LEVEL)
        assert torch.isfinite(part).all()
        assert not torch.allclose(whole, part)

    def test_nothing_to_work_with_is_refused(self) -> None:
        ensemble = self._two_ensembles()
        x_t, both = _inputs(2)
        with pytest.raises(RequestError, match="none of the model's plane networks can work"):
            ensemble.predict(x_t, ModelInputs(both.conditions, None, (False, False)), LEVEL)
        elsewhere = PlaneEnsemble(
            ensemble.plane_networks, [Member(0, Plane.AXIAL, (0,)), Member(1, Plane.CORONAL, (1,))], ensemble.layout
        )
        with pytest.raises(RequestError, match="networks of the plane coronal can work"):
            SinglePlane(elsewhere, Plane.CORONAL)(x_t, ModelInputs(both.conditions, None, (True, False)), LEVEL)

    def test_passes_count_the_members_that_speak(self) -> None:
        ensemble = self._two_ensembles()
        _, both = _inputs(2)
        one = ModelInputs(both.conditions, None, (True, False))
        rules = [PlaneAverage(ensemble), tiny_fusion(ensemble, conditions=2), AlternatingPlanes(ensemble)]
        rules.append(PlaneAverage(ensemble, [Plane.CORONAL, Plane.AXIAL]))
        assert [rule.passes(both) for rule in rules] == [6, 7, 1, 4]
        assert [rule.passes(one) for rule in rules] == [3, 4, 1, 2]


class TestVolumeOnly:
    def test_needs_no_planes(self) -> None:
        rule = tiny_volume(InputLayout(slab_radius=0))
        x_t, inputs = _inputs()
        assert rule(x_t, inputs, LEVEL).shape == (2, 1, *SHAPE)
        assert (rule.passes(inputs), rule.size_multiple, rule.ensemble.members) == (1, 4, ())

    def test_a_regression_sees_no_noise_whatever_it_is_given(self) -> None:
        inputs_rule = InputLayout(slab_radius=0, prediction="clean")
        regression = tiny_volume(inputs_rule, "regression")
        x_t, inputs = _inputs()
        answer = regression(x_t, inputs, LEVEL)
        assert answer.std() > 0.001
        assert torch.equal(regression(3 * x_t + 1, inputs, 1 - LEVEL, step=2), answer)
        clean = VolumeOnly(regression.network, inputs_rule)
        assert torch.equal(clean(torch.zeros_like(x_t), inputs, torch.zeros(2)), answer)
        assert not torch.allclose(clean(x_t, inputs, LEVEL), answer)

    @pytest.mark.parametrize("prediction", ["noise", "v"])
    def test_a_regression_predicts_the_clean_residual(self, prediction: str) -> None:
        with pytest.raises(ValueError, match=f"predicts the clean residual, got prediction '{prediction}'"):
            tiny_volume(InputLayout(slab_radius=0, prediction=prediction), "regression")  # type: ignore[arg-type]


def test_wrong_channel_count_names_both_numbers() -> None:
    layout = InputLayout(slab_radius=1)
    with pytest.raises(ValueError, match="8 input channels; its network 0 has 5"):
        PlaneEnsemble([tiny_network(2, 5, 1, 0)], [Member(0, Plane.AXIAL)], layout)


class TestAcquisitionGate:
    @pytest.mark.parametrize("prediction", ["noise", "v"])
    def test_is_refused_where_a_gain_would_not_be_one_of_the_image(self, prediction: Prediction) -> None:
        rule = tiny_fusion(tiny_ensemble(InputLayout(prediction=prediction)), features=False)
        with pytest.raises(ValueError, match=f"a gate needs networks that predict the clean residual.*'{prediction}'"):
            ScoreFusion(rule.ensemble, rule.network, None, AcquisitionGate(3, 0))

    def _rule(self) -> ScoreFusion:
        ensemble = tiny_ensemble(InputLayout(slab_radius=1, acquisition_context=True, prediction="clean"))
        rule = tiny_fusion(ensemble, fresh=True)
        rule.gate = AcquisitionGate(3, ensemble.layout.volume_context_size)
        return rule

    def test_a_fresh_gate_leaves_the_average_bit_for_bit(self) -> None:
        rule = self._rule()
        x_t, inputs = _inputs()
        assert torch.equal(rule(x_t, inputs, LEVEL), PlaneAverage(rule.ensemble)(x_t, inputs, LEVEL))

    def test_weights_sum_to_one_with_any_gate(self) -> None:
        rule = self._rule()
        assert rule.gate is not None
        torch.nn.init.normal_(rule.gate.head.weight, std=0.3)
        x_t, inputs = _inputs(shape=(8, 12, 16))
        predictions, features = _ask(rule, x_t, inputs)
        weights, correction = rule.weights_and_correction(x_t, inputs, LEVEL, predictions, features)
        assert weights.abs().max() > 0.05
        assert torch.allclose(weights.sum(dim=1), torch.zeros(2, 8, 12, 16), atol=1e-5)
        assert correction.abs().max() > 0.01

    def test_a_gate_fitted_to_all_members_is_left_out_where_one_is_missing(self) -> None:
        layout = InputLayout(slab_radius=1, plane_context=True, prediction="clean")
        fusion = tiny_fusion(tiny_ensemble(layout, groups=((0,), (1,))), fresh=True, conditions=2)
        fusion.gate = AcquisitionGate(6, 0)
        torch.nn.init.normal_(fusion.gate.head.weight, std=0.3)
        x_t = torch.randn(1, 1, 8, 12, 16)
        conditions = torch.rand(1, 2, 8, 12, 16)
        both, alone = ModelInputs(conditions), ModelInputs(conditions, present=(True, False))
        average, level = PlaneAverage(fusion.ensemble), torch.tensor([0.3])
        assert torch.equal(fusion(x_t, alone, level), average(x_t, alone, level))
        assert not torch.allclose(fusion(x_t, both, level), average(x_t, both, level), atol=1e-3)

    def test_least_squares_finds_the_plane_that_knows(self) -> None:
        """One member right, two noisy: the fitted gate gives the weight to the first, and no gain."""
        generator = torch.Generator().manual_seed(0)
        grams = []
        for _ in range(40):
            truth = torch.randn(1, 500, generator=generator)
            noisy = truth + torch.randn(2, 500, generator=generator)
            images = torch.cat([truth, noisy, truth])
            grams.append(images @ images.T / 500)
        from scorefusion.training.gate import GramMatrices, fit_gate

        gate = AcquisitionGate(3, 6)
        acquisitions = torch.rand(40, 6, generator=generator)
        level = torch.rand(40, generator=generator)
        fitted, held_out = fit_gate(gate, GramMatrices(torch.stack(grams), level, acquisitions), ridge=1e-6)
        assert fitted < 0.05
        assert held_out < 0.05
        free, gain = gate(level, acquisitions)
        assert torch.allclose(1 / 3 + free[:, 0].flatten() + gain.flatten() / 3, torch.ones(40), atol=0.1)
