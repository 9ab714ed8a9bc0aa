"""Noise levels against the published numbers and diffusers, and every conversion against its inverse."""

from __future__ import annotations

import itertools
import json
import os

import numpy as np
import pytest
import torch

from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.errors import RequestError

PREDICTIONS = ["noise", "v", "clean"]
DEVICE = os.environ.get("SCOREFUSION_TEST_DEVICE", "cpu")
SCHEDULES = [NoiseSchedule.linear(), NoiseSchedule.cosine()]


@pytest.fixture
def x0() -> torch.Tensor:
    return torch.randn(2, 1, 4, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(DEVICE)


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(2, 1, 4, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(DEVICE)


class TestLevels:
    @pytest.mark.parametrize(
        ("t", "published"),
        [(50, 0.89), (100, 0.63), (150, 0.35), (200, 0.16), (250, 0.057), (300, 0.016), (350, 0.0036), (999, 6.6e-21)],
    )
    def test_the_linear_default_has_the_levels_of_the_paper(self, t: int, published: float) -> None:
        assert float(f"{NoiseSchedule.linear().alpha_bar[t]:.2g}") == published

    @pytest.mark.parametrize(
        ("schedule", "options"),
        [
            (NoiseSchedule.linear(beta_end=0.02), {"beta_schedule": "linear", "beta_end": 0.02}),
            (NoiseSchedule.linear(), {"beta_schedule": "linear", "beta_end": 0.09}),
            (NoiseSchedule.linear(400), {"beta_schedule": "linear", "beta_end": 0.09, "num_train_timesteps": 400}),
            (NoiseSchedule.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
            (NoiseSchedule.cosine(300), {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 300}),
        ],
    )
    def test_levels_are_those_of_diffusers(self, schedule: NoiseSchedule, options: dict) -> None:
        diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle of this test")
        theirs = diffusers.DDPMScheduler(**options).alphas_cumprod.numpy()
        np.testing.assert_allclose(schedule.alpha_bar, theirs, rtol=1e-4)  # theirs is float32

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_signal_falls_strictly_and_never_vanishes(self, schedule: NoiseSchedule) -> None:
        assert schedule.alpha_bar.dtype == np.float64
        assert schedule.alpha_bar[0] < 1
        assert schedule.alpha_bar[-1] > 0
        assert (np.diff(schedule.alpha_bar) < 0).all()

    def test_no_call_can_degrade_the_table(self, x0: torch.Tensor, noise: torch.Tensor) -> None:
        schedule = NoiseSchedule.cosine()
        before = schedule.alpha_bar.copy()
        half = schedule.add_noise(x0.bfloat16(), noise.bfloat16(), torch.tensor([3, 999]))
        assert half.dtype == torch.bfloat16
        assert np.array_equal(schedule.alpha_bar, before)
        with pytest.raises(ValueError, match="read-only"):
            schedule.alpha_bar[0] = 0.5


class TestConfig:
    @pytest.mark.parametrize(
        "schedule",
        [
            NoiseSchedule.linear(),
            NoiseSchedule.linear(200, 1e-6, 0.01, prediction="v"),
            NoiseSchedule.cosine(500, prediction="clean"),
        ],
    )
    def test_config_survives_json(self, schedule: NoiseSchedule) -> None:
        restored = NoiseSchedule.from_config(json.loads(json.dumps(schedule.to_config())))
        assert restored == schedule
        assert np.array_equal(restored.alpha_bar, schedule.alpha_bar)

    def test_a_cosine_config_names_only_what_applies(self) -> None:
        config = {"kind": "cosine", "num_train_timesteps": 1000, "prediction": "clean"}
        assert NoiseSchedule.cosine(prediction="clean").to_config() == config

    def test_another_prediction_keeps_the_levels(self) -> None:
        assert NoiseSchedule.cosine(50).with_prediction("v") == NoiseSchedule.cosine(50, prediction="v")

    @pytest.mark.parametrize(
        ("config", "hint"),
        [
            ({"kind": "sigmoid"}, "choose one of linear, cosine"),
            ({"kind": "cosine", "prediction": "epsilon"}, "choose one of noise, v, clean"),
            ({"kind": "cosine", "beta_end": 0.02}, "use kind 'linear'"),
            ({"kind": "cosine", "num_train_timesteps": 0}, "at least 1"),
            ({"kind": "linear"}, "needs 0 < beta_start"),
            ({"kind": "linear", "beta_start": 0.1, "beta_end": 0.01}, "got 0.1 and 0.01"),
            ({"kind": "linear", "beta_strat": 0.1}, "beta_strat"),
            ({"prediction": "v"}, "needs its 'kind'"),
        ],
    )
    def test_a_wrong_config_is_refused_with_a_way_out(self, config: dict, hint: str) -> None:
        with pytest.raises(RequestError, match=hint):
            NoiseSchedule.from_config(config)


class TestTimesteps:
    @pytest.mark.parametrize(
        ("spacing", "expected"),
        [
            ("trailing", [999, 799, 599, 399, 199]),
            ("leading", [800, 600, 400, 200, 0]),
            ("linspace", [999, 749, 500, 250, 0]),
        ],
    )
    def test_spacing(self, spacing: str, expected: list[int]) -> None:
        assert NoiseSchedule.linear().timesteps(5, spacing=spacing) == expected

    @pytest.mark.parametrize(
        ("spacing", "expected"),
        [
            ("trailing", [350, 262, 175, 87]),
            ("leading", [261, 174, 87, 0]),
            ("linspace", [350, 233, 117, 0]),
        ],
    )
    def test_start_below_pure_noise(self, spacing: str, expected: list[int]) -> None:
        assert NoiseSchedule.linear().timesteps(4, start=350, spacing=spacing) == expected

    @pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
    @pytest.mark.parametrize("num_steps", [2, 4, 7, 25, 50, 999, 1000])
    def test_spacing_is_that_of_diffusers(self, spacing: str, num_steps: int) -> None:
        diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle of this test")
        theirs = diffusers.DDPMScheduler(timestep_spacing=spacing)
        theirs.set_timesteps(num_steps)
        assert NoiseSchedule.linear().timesteps(num_steps, spacing=spacing) == theirs.timesteps.tolist()

    @pytest.mark.parametrize("spacing", ["trailing", "linspace"])
    def test_a_single_step_is_taken_at_the_start(self, spacing: str) -> None:
        # diffusers' "linspace" would denoise at t = 0 alone, where the state is pure noise
        assert NoiseSchedule.cosine().timesteps(1, start=350, spacing=spacing) == [350]

    def test_steps_fall_strictly_within_the_start_at_any_count(self) -> None:
        schedule = NoiseSchedule.cosine(60)
        for spacing, start in itertools.product(["trailing", "leading", "linspace"], [0, 17, 59]):
            for num_steps in range(1, start + 2):
                steps = schedule.timesteps(num_steps, start, spacing)
                assert len(steps) == num_steps
                assert start >= steps[0]
                assert steps[-1] >= 0
                assert all(t > t_next for t, t_next in itertools.pairwise(steps))

    @pytest.mark.parametrize(
        ("arguments", "hint"),
        [
            ({"num_inference_steps": 0}, "there are 1 to 1000"),
            ({"num_inference_steps": 1001}, "there are 1 to 1000"),
            ({"num_inference_steps": 5, "start": 3}, "from timestep 3 there are 1 to 4"),
            ({"num_inference_steps": 5, "start": 1000}, "the schedule has 0 to 999"),
            ({"num_inference_steps": 5, "start": -1}, "the schedule has 0 to 999"),
            ({"num_inference_steps": 5, "spacing": "karras"}, "choose one of trailing, leading, linspace"),
        ],
    )
    def test_an_impossible_request_is_refused_with_a_way_out(self, arguments: dict, hint: str) -> None:
        with pytest.raises(RequestError, match=hint):
            NoiseSchedule.linear().timesteps(**arguments)


class TestConversions:
    @pytest.mark.parametrize("levels", SCHEDULES)
    @pytest.mark.parametrize("prediction", PREDICTIONS)
    @pytest.mark.parametrize("t", [0, 350, torch.tensor([12, 400])])
    def test_the_target_leads_back_to_x0_and_noise(
        self, levels: NoiseSchedule, prediction: str, t: int | torch.Tensor, x0: torch.Tensor, noise: torch.Tensor
    ) -> None:
        schedule = levels.with_prediction(prediction)
        x_t = schedule.add_noise(x0, noise, t)
        target = schedule.from_x0_noise(x0, noise, t)
        torch.testing.assert_close(schedule.to_x0(x_t, target, t), x0, atol=1e-10, rtol=0)
        torch.testing.assert_close(schedule.to_noise(x_t, target, t), noise, atol=1e-10, rtol=0)

    @pytest.mark.parametrize("given", PREDICTIONS)
    @pytest.mark.parametrize("wanted", PREDICTIONS)
    def test_any_prediction_becomes_any_other(
        self, given: str, wanted: str, x0: torch.Tensor, noise: torch.Tensor
    ) -> None:
        t = torch.tensor([77, 301])
        ours, theirs = NoiseSchedule.linear(prediction=given), NoiseSchedule.linear(prediction=wanted)
        x_t = ours.add_noise(x0, noise, t)
        value = ours.from_x0_noise(x0, noise, t)
        converted = theirs.from_x0_noise(ours.to_x0(x_t, value, t), ours.to_noise(x_t, value, t), t)
        torch.testing.assert_close(converted, theirs.from_x0_noise(x0, noise, t))

    @pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 1, 4, 5), (2, 1, 4, 5, 6)])
    def test_a_batch_of_timesteps_acts_on_each_case_alone(self, shape: tuple[int, ...]) -> None:
        schedule = NoiseSchedule.linear(prediction="v")
        x0, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3)).to(DEVICE)
        t = torch.tensor([5, 350], device=DEVICE)
        together = schedule.add_noise(x0, noise, t)
        for case, level in enumerate(t.tolist()):
            torch.testing.assert_close(together[case], schedule.add_noise(x0, noise, level)[case])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_x0_stays_finite_where_no_signal_is_left(self, dtype: torch.dtype) -> None:
        schedule = NoiseSchedule.linear()  # alpha_bar = 6.6e-21 at t = 999
        x_t = torch.full((2, 3), 3.0, dtype=dtype, device=DEVICE)
        for t in (999, torch.tensor([999, 998])):
            assert schedule.to_x0(x_t, -x_t, t).isfinite().all()

    def test_a_half_precision_prediction_is_lifted_to_the_state(self, x0: torch.Tensor, noise: torch.Tensor) -> None:
        for prediction in PREDICTIONS:
            schedule = NoiseSchedule.cosine(prediction=prediction)
            assert schedule.to_x0(x0.float(), noise.bfloat16(), 500).dtype == torch.float32
            assert schedule.to_noise(x0.float(), noise.bfloat16(), 500).dtype == torch.float32

    def test_v_is_that_of_diffusers(self, x0: torch.Tensor, noise: torch.Tensor) -> None:
        diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle of this test")
        t = torch.tensor([9, 800], device=DEVICE)
        theirs = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").get_velocity(x0, noise, t)
        ours = NoiseSchedule.cosine(prediction="v").from_x0_noise(x0, noise, t)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("t", [-1, 1000, torch.tensor([5, 1000]), torch.tensor([-1, 5]), torch.tensor([0.5, 0.7])])
    def test_a_level_outside_the_table_is_refused(self, t: int | torch.Tensor, x0: torch.Tensor) -> None:
        with pytest.raises((ValueError, IndexError)):
            NoiseSchedule.linear().add_noise(x0, x0, t)
