"""What a GPU would refuse or wait for, seen without one: all work on the stand-in device (`standin_device.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from standin_device import NAME, StandIn, standin_device, standin_fabric  # noqa: E402
from test_evaluation_run import brain_like  # noqa: E402
from test_same_voxels import head  # noqa: E402
from test_training_data import phantom  # noqa: E402
from test_training_run import NETWORKS  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from scorefusion.bundle.folder import Bundle  # noqa: E402
from scorefusion.bundle.store import find_bundle  # noqa: E402
from scorefusion.errors import RequestError  # noqa: E402
from scorefusion.evaluation.cli import app as evaluate  # noqa: E402
from scorefusion.imaging.files import write_volume  # noqa: E402
from scorefusion.imaging.volume import Volume  # noqa: E402
from scorefusion.pipeline import translate  # noqa: E402
from scorefusion.progress import Reporter  # noqa: E402
from scorefusion.run import devices  # noqa: E402
from scorefusion.training.recipe import parse_recipe  # noqa: E402
from scorefusion.training.run import Run  # noqa: E402
from scorefusion.training.trainer import Trainer  # noqa: E402

SHIPPED = ("brain-sr", "brain-t1-to-t2", "brain-t2-to-t1", "brain-t1-to-flair", "brain-t1-t2-to-flair")


@pytest.fixture
def gpu() -> Iterator[StandIn]:
    with standin_device() as state:
        yield state


def small(contrast: str) -> Volume:
    """The middle of `head`."""
    whole = head(contrast)
    return Volume(whole.data[:, 8:32, 10:38, : 6 if contrast == "thick" else 20], whole.affine)


def inputs_of(bundle: Bundle) -> Any:
    if bundle.task == "super_resolution":
        return small("thick")
    return {condition["name"]: small(condition["name"]) for condition in bundle.section["conditions"]}


class TestTheStandIn:
    def test_it_refuses_what_a_gpu_refuses(self, gpu: StandIn) -> None:
        there, here = torch.zeros(3, device=NAME), torch.zeros(3)
        with pytest.raises(RuntimeError, match="two devices"):
            there + here
        with pytest.raises(RuntimeError, match="two devices"):
            torch.nn.functional.conv1d(there[None], here[None, None])
        with pytest.raises((RuntimeError, TypeError), match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="device type for generator"):
            torch.randn(3, device=NAME, generator=torch.Generator())
        assert (there + torch.tensor(2.0)).cpu().tolist() == [2.0, 2.0, 2.0]  # a number of the CPU is welcome
        assert not gpu.lacks

    @pytest.mark.parametrize(
        "wait",
        [
            lambda x: float(x.sum()),
            lambda x: bool((x > 0).any()),
            lambda x: x.cpu(),
            lambda x: x.nonzero(),
            lambda x: x[x > 0],
            lambda x: x[[0, 2]],
            lambda x: x + torch.ones(3).to(NAME),
            lambda x: torch.tensor([1.0, 2.0], device=NAME),
        ],
    )
    def test_it_counts_what_makes_the_host_wait(self, gpu: StandIn, wait: Any) -> None:
        there = torch.arange(3.0, device=NAME)
        assert gpu.synchronisations == []
        wait(there)
        assert len(gpu.synchronisations) == 1

    def test_it_computes_gradients_and_does_not_count_what_a_gpu_does_alone(self, gpu: StandIn) -> None:
        layer = torch.nn.Conv2d(1, 2, 3).to(NAME)
        x = torch.randn(1, 1, 6, 6, device=NAME, generator=torch.Generator(NAME).manual_seed(1))
        gpu.synchronisations.clear()
        layer(x).square().mean().backward()
        torch.optim.AdamW(layer.parameters()).step()
        moved = torch.ones(3).to(NAME, non_blocking=True)
        moved[moved > 0] = 2.0
        assert gpu.synchronisations == []
        assert layer.weight.grad is not None
        assert layer.weight.grad.device.type == NAME


class TestTranslate:
    @pytest.mark.parametrize("model", SHIPPED)
    @pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
    def test_every_shipped_model_and_preset_gives_the_voxels_of_the_cpu(
        self, gpu: StandIn, model: str, preset: str
    ) -> None:
        bundle = find_bundle(model)
        options = {"preset": preset, "samples": min(2, bundle.section["presets"][preset].get("samples", 1)), "seed": 3}
        inputs = inputs_of(bundle)
        there = translate(inputs, bundle, device=NAME, **options)
        assert there.provenance["Device"].startswith(NAME)
        assert "aten.convolution" in gpu.operators
        here = translate(inputs, bundle, device="cpu", precision="float32", **options)
        np.testing.assert_allclose(there.volume.data, here.volume.data, atol=1e-3 * float(np.ptp(here.volume.data)))


NETWORK_STAGES: dict[str, Any] = {
    "planes": {"steps": 3, "blocks": 2, "slices": 1},
    "prior": {"blocks_to_fit": 8, "crop": 24, "margin": 2},
    "fusion": {"steps": 2, "blocks": 1, "crop": 24, "pool": 2, "margin": 2},
    "volumes": {"steps": 2, "blocks": 1, "pool": 1, "margin": 2, "checkpointing": True},
    "joint": {"steps": 2, "blocks": 1, "crop": 24, "pool": 2, "margin": 2},
}
SR: dict[str, Any] = {
    "name": "tiny-sr",
    "task": "super_resolution",
    "conditions": [{"name": "image", "coarse": True}],
    "networks": {**NETWORKS, "prior": True, "position": True},
    "data": {"datalist": "list.json", "block": [24, 24, 24], "pool": 2},
    "stages": NETWORK_STAGES,
}
TRANSLATION: dict[str, Any] = {
    "name": "tiny-translate",
    "task": "translation",
    "conditions": [{"name": "t1", "contrasts": ["t1"]}, {"name": "t2", "contrasts": ["t2"], "optional": True}],
    "target": {"name": "flair", "contrasts": ["flair"]},
    "networks": {**NETWORKS, "base": "mapped_condition", "residual_gain": 2.0},
    "data": {
        "datalist": "list.json",
        "block": [24, 24, 24],
        "pool": 2,
        "augmentation": {"shade": 0.1, "noise": 0.05, "coarse_share": 0.5},
    },
    "stages": {key: NETWORK_STAGES[key] for key in ("planes", "fusion")},
}
ALONE = {"stages": {"volume": {"steps": 2, "blocks": 1, "crop": 24, "margin": 2}}}
RECIPES: dict[str, dict[str, Any]] = {
    "all stages of super-resolution": SR,
    "noise prediction": {**SR, "networks": {**NETWORKS, "prediction": "noise", "schedule": "linear"},
                         "stages": {key: NETWORK_STAGES[key] for key in ("planes", "joint")}},
    "a mapped base and an optional condition": TRANSLATION,
    "networks for each condition": {**TRANSLATION,
                                    "networks": {**TRANSLATION["networks"], "base": "condition",
                                                 "per_condition": True}},
    "3D diffusion alone": {**SR, "networks": NETWORKS, **ALONE},
    "3D regression alone": {**TRANSLATION, "networks": {**TRANSLATION["networks"], "kind": "regression"}, **ALONE},
}  # fmt: skip


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A datalist of three persons."""
    import nibabel

    people = []
    for number in range(3):
        contrasts = {}
        for index, name in enumerate(("t1", "t2", "flair")):
            contrasts[name] = f"p{number}_{name}.nii.gz"
            data = phantom((28, 32, 26), seed=10 * number + index)
            nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / contrasts[name])
        people.append({"subject": f"p{number}", "contrasts": contrasts})
    (tmp_path / "list.json").write_text(json.dumps({"training": people[:2], "validation": people[2:]}))
    return tmp_path


class TestTraining:
    @pytest.mark.parametrize("what", RECIPES)
    def test_every_stage_runs_to_a_model_that_translates_and_no_step_waits_for_the_device(
        self, gpu: StandIn, scans: Path, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited: dict[str, list[str]] = {}
        take_step = Trainer.take_step

        def counted(trainer: Trainer, feed: Any) -> None:
            before = len(gpu.synchronisations)
            take_step(trainer, feed)
            waited[f"{trainer.name} {trainer.step}"] = gpu.synchronisations[before:]

        monkeypatch.setattr(Trainer, "take_step", counted)
        recipe = parse_recipe(RECIPES[what], what)
        bundle = Run(recipe, scans / "run", standin_fabric(), Reporter(), near=scans).run()
        assert bundle is not None
        for name in set(recipe.stages) - {"prior"}:
            assert "validation_gain_db" in (scans / "run" / name / "log.csv").read_text()
            assert waited[f"{name} 2"] == []
        assert not any(waited.values())
        inputs: Any = scans / "p2_t1.nii.gz"
        if recipe.task == "super_resolution":
            inputs = Volume(phantom((28, 32, 8))[None], np.diag([1.0, 1.0, 4.0, 1.0]))
        result = translate(inputs, bundle, device=NAME, preset="fast", steps=1 if "regression" in what else 2)
        assert np.isfinite(result.volume.data).all()

    def test_a_stopped_run_goes_on(self, gpu: StandIn, scans: Path) -> None:
        for steps in (2, 4):
            content = {**SR, "stages": {"planes": {**SR["stages"]["planes"], "steps": steps}}}
            Run(parse_recipe(content, "tiny"), scans / "run", standin_fabric(), Reporter(), near=scans).run()
        assert torch.load(scans / "run" / "planes" / "state.ckpt", weights_only=True)["step"] == 4


class TestWaiting:
    @pytest.mark.parametrize("model", ["brain-sr", "brain-t1-t2-to-flair"])
    def test_more_sampling_steps_do_not_wait_more_often(self, gpu: StandIn, model: str) -> None:
        bundle = find_bundle(model)
        inputs = inputs_of(bundle)
        if isinstance(inputs, dict):
            del inputs["t2"]  # optional: what is missing is filled in, in every step
        counts = []
        for steps in (2, 5):
            gpu.synchronisations.clear()
            translate(inputs, bundle, device=NAME, preset="best", samples=1, steps=steps)
            counts.append(sorted(gpu.synchronisations))
        assert counts[0] == counts[1]


class TestEvaluate:
    def test_super_resolution(self, gpu: StandIn, tmp_path: Path) -> None:
        write_volume(brain_like(), tmp_path / "S01.nii.gz")
        case = {"subject": "S01", "target": "S01.nii.gz", "contrast": "t1", "skull_stripped": True}
        (tmp_path / "scans.json").write_text(json.dumps({"test": [case]}))
        arguments = [
            str(tmp_path / "scans.json"),
            "--setting",
            "thick4@A",
            "--methods",
            "cubic,model",
            "--plans",
            "fast",
        ]
        out = tmp_path / "results"
        done = CliRunner().invoke(evaluate, [*arguments, "--model", "brain-sr", "--out", str(out), "--device", NAME])
        assert done.exit_code == 0, done.output
        assert "fusion+proj@fast" in (out / "evaluation.csv").read_text()
        assert "aten.convolution" in gpu.operators

    def test_translation(self, gpu: StandIn, tmp_path: Path) -> None:
        contrasts = {}
        for name in ("t1", "t2"):
            contrasts[name] = f"{name}.nii.gz"
            write_volume(small(name), tmp_path / contrasts[name])
        case = {"subject": "P1", "contrasts": contrasts, "skull_stripped": True}
        (tmp_path / "pairs.json").write_text(json.dumps({"test": [case]}))
        out = tmp_path / "results"
        arguments = [str(tmp_path / "pairs.json"), "--model", "brain-t1-to-t2", "--plans", "fast", "--no-pictures"]
        done = CliRunner().invoke(evaluate, [*arguments, "--out", str(out), "--device", NAME])
        assert done.exit_code == 0, done.output
        assert "@fast" in (out / "translation.csv").read_text()
        assert "aten.convolution" in gpu.operators


class TestSelfCheck:
    @pytest.fixture(autouse=True)
    def _auto_finds_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "AUTOMATIC", (NAME,))

    @pytest.mark.parametrize(
        "fault",
        [
            {"lacks": {"aten.avg_pool2d"}},
            {"lacks": {"aten.avg_pool3d"}},
            {"miscomputes": {"aten.silu"}},
            {"miscomputes": {"aten.avg_pool2d"}},
        ],
        ids=str,
    )
    def test_a_device_that_fails_an_operator_of_the_model_is_left_for_the_cpu_aloud(
        self, gpu: StandIn, fault: dict[str, set[str]]
    ) -> None:
        vars(gpu).update(fault)
        assert devices.device_problem(NAME) is None  # a plain convolution is right
        events: list[dict[str, Any]] = []
        result = translate(small("thick"), "brain-sr", on_event=events.append)
        said = [event for event in events if event.get("code") == "cpu-fallback"]
        assert len(said) == 1
        assert "brain-sr" in said[0]["message"]
        assert result.provenance["Device"] == "cpu"
        assert [w["code"] for w in result.provenance["Warnings"]].count("cpu-fallback") == 1
        expected = translate(small("thick"), "brain-sr", device="cpu")
        assert np.array_equal(result.volume.data, expected.volume.data)

    def test_a_device_that_was_named_is_never_replaced(self, gpu: StandIn) -> None:
        gpu.lacks = {"aten.avg_pool2d"}
        with pytest.raises(RequestError, match=r"avg_pool2d.*Use another device, or auto"):
            translate(small("thick"), "brain-sr", device=NAME)

    def test_a_sound_device_is_used_even_without_float64(self, gpu: StandIn) -> None:
        gpu.has_float64 = False
        result = translate(small("thick"), "brain-sr")
        assert result.provenance["Device"].startswith(NAME)
        assert not any(w["code"] == "cpu-fallback" for w in result.provenance["Warnings"])
