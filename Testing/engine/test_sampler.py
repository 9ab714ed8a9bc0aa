"""The loop and its solvers: against diffusers, against a Gaussian whose answer is known, and its promises to callers.

Set SCOREFUSION_TEST_DEVICE=cuda to run the same checks on a GPU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefusion.diffusion.sampler import SOLVERS, sample
from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.errors import Cancelled, RequestError

DEVICE = os.environ.get("SCOREFUSION_TEST_DEVICE", "cpu")
SHAPE = (2, 1, 5, 6, 7)  # batch of two, three different sizes
THEIR_PREDICTION = {"noise": "epsilon", "v": "v_prediction", "clean": "sample"}
THEIR_LEVELS = {
    "paper": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.09},
    "mild": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
OUR_LEVELS = {
    "paper": NoiseSchedule.linear(),
    "mild": NoiseSchedule.linear(beta_end=0.02),
    "cosine": NoiseSchedule.cosine(),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype).to(DEVICE)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor, int], Tensor]:
    """A random convolution network of x_t and t, bounded as a trained one would be."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # TF32 keeps three digits
    first, last = randn(4, 1, 3, 3, 3, seed=11) * 0.3, randn(1, 4, 3, 3, 3, seed=12) * 0.3

    def forward(x_t: Tensor, t: int) -> Tensor:
        features = torch.tanh(torch.conv3d(x_t, first.to(x_t), padding=1) + math.cos(0.01 * t))
        return torch.conv3d(features, last.to(x_t), padding=1)

    return forward


# A noise prediction is divided by sqrt(alpha_bar), and ours stops at ALPHA_BAR_FLOOR: where the levels go below it,
# only clamped estimates can agree.
COMPARABLE = [
    (levels, prediction, clamp)
    for levels in OUR_LEVELS
    for prediction in THEIR_PREDICTION
    for clamp in (None, 1.0)
    if prediction != "noise" or clamp or levels == "mild"
]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
@pytest.mark.parametrize(("levels", "prediction", "clamp"), COMPARABLE)
class TestAgainstDiffusers:
    """Same network, start and noise, so the same result."""

    @pytest.fixture
    def diffusers(self) -> Any:
        return pytest.importorskip("diffusers", reason="diffusers is the oracle of these tests")

    @pytest.fixture
    def ours(self, network: Callable, levels: str, prediction: str, clamp: float | None) -> Callable[..., Tensor]:
        schedule = OUR_LEVELS[levels].with_prediction(prediction)

        def run(timesteps: list[int], **options: Any) -> Tensor:
            x_t, generator = randn(*SHAPE, seed=0, dtype=torch.float64), seeded(5)
            return sample(
                lambda x, t, step: network(x, t),
                x_t,
                schedule,
                timesteps=timesteps,
                clamp=clamp,
                generator=lambda step: torch.randn(SHAPE, generator=generator, dtype=torch.float64),
                **options,
            )

        return run

    @pytest.fixture
    def theirs(self, network: Callable, levels: str, prediction: str) -> Callable[..., Tensor]:
        def run(scheduler_class: type, timesteps: list[int], step_options: dict[str, Any], **options: Any) -> Tensor:
            scheduler = scheduler_class(**THEIR_LEVELS[levels], prediction_type=THEIR_PREDICTION[prediction], **options)
            # Their table is float32, in which 1 - alpha_bar near t = 0 keeps three digits. The same levels (compared in
            # test_schedule.py) in float64 leave only the formulas to differ.
            scheduler.alphas_cumprod = torch.tensor(OUR_LEVELS[levels].alpha_bar)
            if scheduler_class.__name__ == "DDIMScheduler":
                scheduler.set_timesteps(len(timesteps))  # takes no list
                assert scheduler.timesteps.tolist() == timesteps
            else:
                scheduler.set_timesteps(timesteps=timesteps)
            x_t = randn(*SHAPE, seed=0, dtype=torch.float64)
            for t in timesteps:
                x_t = scheduler.step(network(x_t, t), torch.tensor(t), x_t, **step_options).prev_sample
            return x_t

        return run

    # diffusers' DDIM assumes one stride throughout, which "linspace" does not have.
    @pytest.mark.parametrize("num_steps", [1, 4, 10, 50])
    @pytest.mark.parametrize("spacing", ["trailing", "leading"])
    @pytest.mark.parametrize("eta", [0.0, 0.6])
    def test_ddim(self, diffusers, ours, theirs, levels, clamp, num_steps, spacing, eta) -> None:
        timesteps = OUR_LEVELS[levels].timesteps(num_steps, spacing=spacing)
        expected = theirs(
            diffusers.DDIMScheduler,
            timesteps,
            # Ours always takes the noise from the clamped x0; theirs does so on request.
            {"eta": eta, "use_clipped_model_output": True, "generator": seeded(5)},
            clip_sample=clamp is not None,
            set_alpha_to_one=True,
            timestep_spacing=spacing,
        )
        result = ours(timesteps, solver="ddim", eta=eta)
        torch.testing.assert_close(result, expected, atol=1e-9, rtol=0)

    @pytest.mark.parametrize("num_steps", [1, 4, 13, 50])
    @pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
    def test_ddpm(self, diffusers, ours, theirs, levels, clamp, num_steps, spacing) -> None:
        timesteps = OUR_LEVELS[levels].timesteps(num_steps, spacing=spacing)
        expected = theirs(
            diffusers.DDPMScheduler,
            timesteps,
            {"generator": seeded(5)},
            clip_sample=clamp is not None,
            variance_type="fixed_small",
        )
        result = ours(timesteps, solver="ddpm")
        torch.testing.assert_close(result, expected, atol=1e-9, rtol=0)

    @pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 20])
    @pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
    def test_dpmpp(self, diffusers, ours, theirs, levels, clamp, num_steps, spacing) -> None:
        timesteps = OUR_LEVELS[levels].timesteps(num_steps, spacing=spacing)
        expected = theirs(
            diffusers.DPMSolverMultistepScheduler,
            timesteps,
            {},
            algorithm_type="dpmsolver++",
            solver_order=2,
            final_sigmas_type="zero",
            thresholding=clamp is not None,  # with sample_max_value = 1 a plain clamp to [-1, 1]
            sample_max_value=1.0,
        )
        result = ours(timesteps, solver="dpmpp")
        float32_rounding = 1e-5 * max(1.0, expected.abs().max().item())  # of their state and levels
        torch.testing.assert_close(result, expected, atol=float32_rounding, rtol=0)


class TestAgainstAGaussian:
    """Data N(mean, std^2), denoised by its exact posterior mean.

    Every step is then affine in the start and in each draw, so the distribution of the result follows from its response
    to one unit at a time: no Monte Carlo, no tolerance for luck.
    """

    mean, std = 0.3, 0.2

    def posterior_mean(self, x_t: Tensor, alpha_bar: float) -> Tensor:
        gain = math.sqrt(alpha_bar) * self.std**2 / (alpha_bar * self.std**2 + 1 - alpha_bar)
        return self.mean + gain * (x_t - math.sqrt(alpha_bar) * self.mean)

    def mean_and_std(self, schedule: NoiseSchedule, timesteps: list[int], **options: Any) -> tuple[float, float]:
        """Mean and standard deviation of the result, starting from the exact distribution of x_t."""
        alpha_bar = schedule.alpha_bar[timesteps[0]]
        start_mean = math.sqrt(alpha_bar) * self.mean
        start_std = math.sqrt(alpha_bar * self.std**2 + 1 - alpha_bar)
        units = torch.eye(
            len(timesteps) + 1, dtype=torch.float64, device=DEVICE
        )  # row 0: nothing; 1: start; 2...: draws
        units = torch.cat([torch.zeros_like(units[:1]), units])
        result = sample(
            lambda x_t, t, step: self.posterior_mean(x_t, schedule.alpha_bar[t]),
            start_mean + start_std * units[:, 0],
            schedule.with_prediction("clean"),
            timesteps=timesteps,
            generator=lambda step: units[:, step + 1],
            **options,
        )
        response = result[1:] - result[0]
        return result[0].item(), response.square().sum().sqrt().item()

    @pytest.mark.parametrize(("levels", "start"), [("paper", 350), ("cosine", 999)])
    @pytest.mark.parametrize(("solver", "eta"), [("ddim", 0.0), ("ddim", 0.5), ("ddpm", 0.0), ("dpmpp", 0.0)])
    def test_more_steps_reach_the_data(self, levels: str, start: int, solver: str, eta: float) -> None:
        schedule = OUR_LEVELS[levels]
        errors = []
        for num_steps in (10, 50, 350):
            mean, std = self.mean_and_std(schedule, schedule.timesteps(num_steps, start), solver=solver, eta=eta)
            errors.append(abs(std - self.std) / self.std)
            assert mean == pytest.approx(self.mean, abs=1e-6)
        assert errors[1] < errors[0] / 2
        assert errors[2] < errors[1] / 2
        assert errors[2] < 0.05

    def test_the_second_order_solver_needs_fewer_steps(self) -> None:
        schedule = OUR_LEVELS["cosine"]
        timesteps = schedule.timesteps(50)
        _, first_order = self.mean_and_std(schedule, timesteps, solver="ddim")
        _, second_order = self.mean_and_std(schedule, timesteps, solver="dpmpp")
        assert abs(second_order - self.std) < 0.2 * abs(first_order - self.std)

    @pytest.mark.parametrize("solver", list(SOLVERS))
    @pytest.mark.parametrize("levels", list(OUR_LEVELS))
    def test_one_step_is_exactly_the_posterior_mean(self, solver: str, levels: str) -> None:
        schedule = OUR_LEVELS[levels].with_prediction("clean")
        x_t = randn(*SHAPE, seed=0)
        expected = self.posterior_mean(x_t, schedule.alpha_bar[400])
        result = sample(
            lambda x_t, t, step: self.posterior_mean(x_t, schedule.alpha_bar[t]),
            x_t,
            schedule,
            timesteps=schedule.timesteps(1, start=400),
            solver=solver,
        )
        assert torch.equal(result, expected)


class TestProjection:
    """Stand-in for a measurement: block means along the last axis are known."""

    measured = 0.37

    def project(self, x0: Tensor) -> Tensor:
        return x0 - x0.mean(dim=-1, keepdim=True) + self.measured

    @pytest.mark.parametrize("solver", list(SOLVERS))
    @pytest.mark.parametrize("num_steps", [1, 2, 7])
    def test_the_result_keeps_the_measurement(self, network: Callable, solver: str, num_steps: int) -> None:
        schedule = NoiseSchedule.linear()
        result = sample(
            lambda x_t, t, step: network(x_t, t),
            randn(*SHAPE, seed=0),
            schedule,
            timesteps=schedule.timesteps(num_steps),
            solver=solver,
            project=self.project,
            clamp=1.0,
            generator=seeded(1),
        )
        means = result.mean(dim=-1)
        torch.testing.assert_close(means, torch.full_like(means, self.measured), atol=1e-6, rtol=0)

    def test_one_clean_step_is_the_projected_clamped_prediction_to_the_last_bit(self) -> None:
        schedule = NoiseSchedule.cosine(prediction="clean")
        prediction = 2 * randn(*SHAPE, seed=3)
        for solver in SOLVERS:
            result = sample(
                lambda x_t, t, step: prediction,
                randn(*SHAPE, seed=0),
                schedule,
                timesteps=schedule.timesteps(1),
                solver=solver,
                project=self.project,
                clamp=1.0,
            )
            assert torch.equal(result, self.project(prediction.clamp(-1, 1)))

    def test_the_history_of_the_solver_is_projected(self) -> None:
        """Where the projection fixes everything, nothing is left to extrapolate: a straight line to the answer."""
        schedule = NoiseSchedule.cosine(prediction="clean")
        answer, x_t = randn(*SHAPE, seed=4), randn(*SHAPE, seed=0)
        timesteps = schedule.timesteps(3)
        states = []

        def denoise(state: Tensor, t: int, step: int) -> Tensor:
            states.append(state)
            return randn(*SHAPE, seed=step)  # wrong, and different, at each step

        sample(denoise, x_t, schedule, timesteps=timesteps, solver="dpmpp", project=lambda x0: answer)
        noise = schedule.to_noise(x_t, answer, timesteps[0])
        for t, state in zip(timesteps, states, strict=True):
            torch.testing.assert_close(state, schedule.add_noise(answer, noise, t), atol=1e-5, rtol=0)


class TestNoise:
    def run(self, network: Callable, generator: object, **options: Any) -> Tensor:
        schedule = NoiseSchedule.cosine(prediction="v")
        return sample(
            lambda x_t, t, step: network(x_t, t),
            randn(*SHAPE, seed=0),
            schedule,
            timesteps=schedule.timesteps(4),
            generator=generator,
            **{"solver": "ddpm"} | options,
        )

    def test_a_seed_fixes_the_result(self, network: Callable) -> None:
        assert torch.equal(self.run(network, seeded(1)), self.run(network, seeded(1)))
        assert not torch.equal(self.run(network, seeded(1)), self.run(network, seeded(2)))

    @pytest.mark.parametrize(("solver", "eta"), [("ddpm", 0.0), ("ddim", 1.0), ("ddim", 0.0), ("dpmpp", 0.0)])
    def test_the_global_generator_is_left_alone(self, network: Callable, solver: str, eta: float) -> None:
        before = torch.get_rng_state()
        self.run(network, seeded(1), solver=solver, eta=eta)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_noise_source_replaces_the_generator(self, network: Callable) -> None:
        asked = []

        def draw(step: int) -> Tensor:
            asked.append(step)
            return torch.randn(SHAPE, generator=generator)

        generator = seeded(1)
        assert torch.equal(self.run(network, draw), self.run(network, seeded(1)))
        assert asked == [0, 1, 2]  # the last step ends in x0 itself

    def test_ancestral_sampling_is_ddim_with_eta_1(self, network: Callable) -> None:
        ddpm = self.run(network, seeded(1))
        torch.testing.assert_close(self.run(network, seeded(1), solver="ddim", eta=1.0), ddpm, atol=1e-5, rtol=0)

    def test_missing_noise_is_refused_only_where_it_is_drawn(self, network: Callable) -> None:
        self.run(network, None, solver="dpmpp")
        self.run(network, None, solver="ddim")
        with pytest.raises(RequestError, match="manual_seed"):
            self.run(network, None, solver="ddpm")


class TestTheLoop:
    def test_networks_are_told_the_level_itself(self) -> None:
        """Respacing must not renumber the levels (the published code told 2D networks the level of t / 2)."""
        schedule = NoiseSchedule.linear(prediction="clean")
        clean, noise = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
        timesteps = schedule.timesteps(5, start=350)
        seen = []

        def denoise(x_t: Tensor, t: int, step: int) -> Tensor:
            seen.append((step, t))
            # With a perfect estimate the state is exactly add_noise at that t: the level told is the level it has.
            torch.testing.assert_close(x_t, schedule.add_noise(clean, noise, t), atol=1e-5, rtol=0)
            return clean

        sample(denoise, schedule.add_noise(clean, noise, timesteps[0]), schedule, timesteps=timesteps)
        assert seen == list(enumerate(timesteps))

    def test_each_step_is_reported_with_its_estimate(self, network: Callable) -> None:
        schedule = NoiseSchedule.cosine(prediction="v")
        reports = []
        result = sample(
            lambda x_t, t, step: network(x_t, t),
            randn(*SHAPE, seed=0),
            schedule,
            timesteps=schedule.timesteps(3),
            on_step=lambda step, num_steps, x0: reports.append((step, num_steps, x0)),
        )
        assert [report[:2] for report in reports] == [(0, 3), (1, 3), (2, 3)]
        assert reports[-1][2] is result

    def test_cancelling_ends_the_run(self) -> None:
        schedule = NoiseSchedule.cosine(prediction="clean")
        evaluations = []

        def denoise(x_t: Tensor, t: int, step: int) -> Tensor:
            evaluations.append(step)
            return x_t

        def cancel(step: int, num_steps: int, x0: Tensor) -> None:
            if step == 1:
                raise Cancelled

        with pytest.raises(Cancelled):
            sample(denoise, randn(*SHAPE, seed=0), schedule, timesteps=schedule.timesteps(5), on_step=cancel)
        assert evaluations == [0, 1]

    @pytest.mark.parametrize("solver", list(SOLVERS))
    def test_single_precision_is_enough_on_the_papers_schedule(self, network: Callable, solver: str) -> None:
        schedule = NoiseSchedule.linear()  # ends at alpha_bar = 6.6e-21
        single, double = (
            sample(
                lambda x_t, t, step: network(x_t, t),
                randn(*SHAPE, seed=0).to(dtype),
                schedule,
                timesteps=schedule.timesteps(50),
                solver=solver,
                clamp=1.0,
                generator=seeded(1),
            )
            for dtype in (torch.float32, torch.float64)
        )
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)

    def test_a_half_precision_network_leaves_the_state_single(self) -> None:
        schedule = NoiseSchedule.cosine(prediction="noise")
        result = sample(
            lambda x_t, t, step: torch.tanh(x_t.bfloat16()),
            randn(*SHAPE, seed=0),
            schedule,
            timesteps=schedule.timesteps(3),
        )
        assert result.dtype == torch.float32
        assert result.isfinite().all()

    @pytest.mark.parametrize(
        ("options", "hint"),
        [
            ({"solver": "euler"}, "choose one of ddim, ddpm, dpmpp"),
            ({"solver": "dpmpp", "eta": 0.5}, "only 'ddim'"),
            ({"eta": 1.5}, "must be 0 to 1"),
            ({"timesteps": []}, "fall strictly"),
            ({"timesteps": [5, 5]}, "fall strictly"),
            ({"timesteps": [5, 800]}, "fall strictly"),
            ({"timesteps": [1000, 5]}, "within 999 to 0"),
            ({"timesteps": [5, -1]}, "within 999 to 0"),
        ],
    )
    def test_a_wrong_request_is_refused_before_any_work(self, options: dict, hint: str) -> None:
        def denoise(x_t: Tensor, t: int, step: int) -> Tensor:
            pytest.fail("a network ran")

        arguments = {"timesteps": [999, 499]} | options
        with pytest.raises(RequestError, match=hint):
            sample(denoise, randn(*SHAPE, seed=0), NoiseSchedule.linear(), **arguments)
