"""Another device gives the CPU's answer: networks, fusion, acquisition, gradients, and whole restorations.

Set SCOREFUSION_TEST_DEVICE=cuda on a GPU machine. Without it the CPU is compared with itself, so that this file keeps
up with the engine.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from scorefusion.diffusion.noise import NoiseField
from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.features import FeatureAlignment
from scorefusion.fusion.inputs import InputLayout, ModelInputs
from scorefusion.fusion.members import Member
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.rules import AlternatingPlanes, FusionRule, PlaneAverage, ScoreFusion
from scorefusion.imaging.acquisition import Acquisition
from scorefusion.networks.sizes import UNetConfig
from scorefusion.networks.unet import UNet
from scorefusion.run.request import SamplingPlan
from scorefusion.run.restore import restore

DEVICE = torch.device(os.environ.get("SCOREFUSION_TEST_DEVICE", "cpu"))
SHAPE = (10, 12, 15)  # three sizes, in need of padding
PAPER_LIKE = {"channels": (16, 32), "attention": True, "head_width": 16, "embedding_size": 16}
COMPACT_LIKE = {"channels": (8, 12), "blocks": 1, "stem_factor": 2, "normalisation": "none", "resampling": "plain"}


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """TF32 keeps three digits; a test of formulas wants seven."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    found = (cudnn.allow_tf32, matmul.allow_tf32)
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = found


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomised(module: nn.Module) -> nn.Module:
    """Seeded weights in place of zero-initialised ones, which would hide mistakes."""
    for number, parameter in enumerate(module.parameters()):
        if parameter.dim() > 1:
            parameter.data.copy_(randn(*parameter.shape, seed=number) * parameter[0].numel() ** -0.5)
    return module.eval()


def network(dims: int, in_channels: int, out_channels: int, settings: dict, context_size: int = 0) -> UNet:
    config = UNetConfig(dims, in_channels, out_channels, context_size=context_size, **settings)
    return randomised(UNet(config))  # type: ignore[return-value]


def fusion_rule(kind: str) -> FusionRule:
    inputs = InputLayout(slab_radius=1, plane_context=True, residual_gain=4.0)
    members = [Member(0, plane) for plane in Plane]
    plane_network = network(2, inputs.plane_channels(1), 1, COMPACT_LIKE, inputs.plane_context_size)
    ensemble = PlaneEnsemble([plane_network], members, inputs)
    if kind == "average":
        return PlaneAverage(ensemble)
    if kind == "alternating":
        return AlternatingPlanes(ensemble)
    volume_network = network(3, inputs.volume_channels(1, 3), 3, COMPACT_LIKE, inputs.volume_context_size)
    alignment = FeatureAlignment([plane_network], members, volume_network) if kind == "features" else None
    rule = ScoreFusion(ensemble, volume_network, alignment)
    rule.tile = (8, 8, 12) if kind == "tiles" else None
    rule.halo = 4
    return randomised(rule)  # type: ignore[return-value]


def assert_close(there: Tensor, here: Tensor, relative: float = 1e-4) -> None:
    difference = (there.cpu() - here).square().mean().sqrt() / here.std()
    assert difference <= relative


class TestNetworks:
    @pytest.mark.parametrize("dims", [2, 3])
    @pytest.mark.parametrize("settings", [PAPER_LIKE, COMPACT_LIKE], ids=["paper-like", "compact-like"])
    @pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
    def test_prediction(self, dims: int, settings: dict, dtype: torch.dtype, limit: float) -> None:
        unet = network(dims, 3, 2, settings, context_size=4)
        x, alpha_bar, context = randn(2, 3, *SHAPE[:dims], seed=1), torch.tensor([0.2, 0.7]), randn(2, 4, seed=2)
        there = copy.deepcopy(unet).to(DEVICE)
        with torch.inference_mode():
            expected, _ = unet(x, alpha_bar, context)
            with torch.autocast(DEVICE.type, dtype=dtype, enabled=dtype != torch.float32):
                result, _ = there(x.to(DEVICE), alpha_bar.to(DEVICE), context.to(DEVICE))
        assert_close(result.float(), expected, limit)

    @pytest.mark.parametrize("settings", [PAPER_LIKE, COMPACT_LIKE], ids=["paper-like", "compact-like"])
    def test_gradients(self, settings: dict) -> None:
        unet = network(3, 3, 2, settings)
        there = copy.deepcopy(unet).to(DEVICE)
        x, alpha_bar = randn(1, 3, 8, 8, 12, seed=1), torch.tensor([0.4])
        unet(x, alpha_bar)[0].square().mean().backward()
        there(x.to(DEVICE), alpha_bar.to(DEVICE))[0].square().mean().backward()
        for (name, here), moved in zip(unet.named_parameters(), there.parameters(), strict=True):
            assert here.grad is not None, name
            assert moved.grad is not None, name
            torch.testing.assert_close(moved.grad.cpu(), here.grad, atol=1e-5, rtol=1e-3, msg=name)


class TestFusionAndRestoration:
    @pytest.mark.parametrize("kind", ["average", "alternating", "scores", "features", "tiles"])
    def test_one_evaluation(self, kind: str) -> None:
        rule = fusion_rule(kind)
        x_t, condition, alpha_bar = randn(2, 1, *SHAPE, seed=1), randn(2, 1, *SHAPE, seed=2), torch.tensor([0.2, 0.7])
        with torch.inference_mode():
            expected = rule(x_t, ModelInputs(condition), alpha_bar, 1)
            result = rule.to(DEVICE)(x_t.to(DEVICE), ModelInputs(condition.to(DEVICE)), alpha_bar.to(DEVICE), 1)
        assert_close(result, expected)

    @pytest.mark.parametrize(("solver", "samples"), [("ddpm", 1), ("dpmpp", 2)])
    def test_a_restored_volume(self, solver: str, samples: int) -> None:
        rule = fusion_rule("features")
        acquisition = Acquisition.isotropic(SHAPE, 2.5)
        measured = 0.5 * randn(1, 1, *acquisition.coarse_shape, seed=3)
        condition = acquisition.upsample(measured)

        def run(device: torch.device) -> Tensor:
            result = restore(
                rule.to(device),
                NoiseSchedule.cosine(prediction="clean"),
                ModelInputs(condition.to(device)),
                SamplingPlan(steps=3, solver=solver, samples=samples),
                NoiseField(SHAPE, seed=5),
                acquisition,
                measured.to(device),
            )
            deviation = acquisition.forward(result.mean) - measured.to(device)
            assert deviation.abs().max() < 1e-4
            return result.mean

        with torch.inference_mode():
            expected = run(torch.device("cpu"))
            assert_close(run(DEVICE), expected, 1e-3)

    def test_noise_is_the_same_to_the_last_bit(self) -> None:
        here, there = (NoiseField(SHAPE, seed=7).draw(1, 2, device) for device in ("cpu", DEVICE))
        assert torch.equal(there.cpu(), here)


class TestAcquisition:
    @pytest.mark.parametrize(
        "acquisition",
        [Acquisition.isotropic(SHAPE, 2), Acquisition.thick_slices(SHAPE, 2, 3.3, 2.5, profile="gaussian")],
        ids=["isotropic", "thick slices"],
    )
    def test_operators(self, acquisition: Acquisition) -> None:
        x, y = randn(2, 1, *SHAPE, seed=1), randn(2, 1, *acquisition.coarse_shape, seed=2)
        pairs = [
            (acquisition.forward(x.to(DEVICE)), acquisition.forward(x)),
            (acquisition.pseudo_inverse(y.to(DEVICE)), acquisition.pseudo_inverse(y)),
            (acquisition.upsample(y.to(DEVICE)), acquisition.upsample(y)),
            (acquisition.project(x.to(DEVICE), y.to(DEVICE)), acquisition.project(x, y)),
        ]
        for there, here in pairs:
            torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=0)
