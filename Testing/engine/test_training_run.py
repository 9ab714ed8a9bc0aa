"""`scorefusion train` from a recipe to a model that translates, on tiny made scans."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_training_data import phantom, write
from typer.testing import CliRunner

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import load_model
from scorefusion.errors import RequestError
from scorefusion.fusion.base import own_base_shift
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.fusion.rules import PlaneAverage, ScoreFusion, VolumeOnly
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.intensity import fit_intensity_scale
from scorefusion.imaging.intensity_map import read_maps
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import translate
from scorefusion.progress import Reporter
from scorefusion.training.blocks import Block, BlockSource
from scorefusion.training.cli import app
from scorefusion.training.losses import FusionLoss, PlaneLoss, add_noise, draw_timesteps
from scorefusion.training.networks import make_ensemble, make_fusion, warm_start
from scorefusion.training.packed import PackedData, pack, unpack
from scorefusion.training.recipe import parse_recipe
from scorefusion.training.run import Run, make_fabric
from scorefusion.training.trainer import generator_for
from scorefusion.training.volumes import TrainingVolume

NETWORKS = {
    "slab_radius": 1,
    "plane": {"channels": [8, 12], "embedding_size": 16},
    "fusion": {"channels": [8, 8], "embedding_size": 16},
    "volume": {"channels": [8, 8], "embedding_size": 16},
}
SR = {
    "name": "tiny-sr",
    "task": "super_resolution",
    "conditions": [{"name": "image", "coarse": True}],
    "networks": {**NETWORKS, "prior": True},
    "data": {"datalist": "list.json", "block": [32, 32, 32], "pool": 3},
    "stages": {
        "planes": {"steps": 4, "blocks": 2, "slices": 1},
        "prior": {"blocks_to_fit": 12, "crop": 32, "margin": 2},
        "fusion": {"steps": 3, "blocks": 2, "crop": 32, "pool": 3, "margin": 2},
        "volumes": {"steps": 2, "blocks": 1, "pool": 1, "margin": 2, "checkpointing": True},
    },
}
TRANSLATION = {
    "name": "tiny-translate",
    "task": "translation",
    "conditions": [{"name": "t1", "contrasts": ["t1"]}, {"name": "t2", "contrasts": ["t2"], "optional": True}],
    "target": {"name": "flair", "contrasts": ["flair"]},
    "networks": {**NETWORKS, "base": "condition", "residual_gain": 2.0, "per_condition": True},
    "data": {"datalist": "list.json", "block": [32, 32, 32], "pool": 3},
    "stages": {
        "planes": {"steps": 3, "blocks": 2, "slices": 1},
        "fusion": {"steps": 2, "blocks": 1, "crop": 32, "pool": 2},
    },
}


@pytest.fixture
def a_study(tmp_path):
    """A folder with scans of four persons, a datalist and a recipe: returns a function that writes the recipe."""
    sections = {"training": [], "validation": [], "test": []}
    for number, section in enumerate(["training", "training", "validation", "test"]):
        contrasts = {
            key: write(tmp_path, f"p{number}_{key}.nii.gz", phantom(seed=10 * number + n))
            for n, key in enumerate(("t1", "t2", "flair"))
        }
        sections[section].append({"subject": f"p{number}", "contrasts": contrasts})
    (tmp_path / "list.json").write_text(json.dumps(sections))

    def write_recipe(content):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write_recipe


def run_cli(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class TestSuperResolution:
    def test_all_stages_end_in_a_model_that_works_on_a_scan(self, a_study, tmp_path):
        done = run_cli(a_study(SR), "--out", tmp_path / "run")
        assert done.exit_code == 0, done.output
        bundle = Bundle(tmp_path / "run" / "bundle" / "tiny-sr")
        model = load_model(bundle)
        assert isinstance(model.rule, ScoreFusion)
        assert model.rule.gate is not None
        assert bundle.section["training"]["subjects"] == ["p0", "p1"]
        assert str(tmp_path) not in json.dumps(bundle.metadata)  # where the scans lay is nobody's business
        assert bundle.section["training"]["recipe"]["seed"] == 0
        assert "Not measured yet" in bundle.card()
        coarse = read_volume(tmp_path / "p3_t1.nii.gz")
        thick = Volume(coarse.data, np.diag([1.0, 1.0, 4.0, 1.0]))
        result = translate(thick, model=str(bundle.folder), preset="fast", device="cpu")
        assert result.volume.spacing[2] == pytest.approx(1.0, abs=0.01)
        for stage in ("planes", "fusion", "volumes"):
            assert (tmp_path / "run" / stage / "log.csv").read_text().count(
                "validation_gain_db"
            ) == 2  # before and after
            assert len(list((tmp_path / "run" / stage / "pictures").glob("*.png"))) == 2
            assert list((tmp_path / "run" / stage / "tensorboard").iterdir())

    def test_the_exported_networks_are_the_averaged_ones(self, a_study, tmp_path):
        run_cli(a_study({**SR, "stages": {"planes": SR["stages"]["planes"]}}), "--out", tmp_path / "run")
        model = load_model(Bundle(tmp_path / "run" / "bundle" / "tiny-sr"))
        assert isinstance(model.rule, PlaneAverage)
        average = load_file(tmp_path / "run" / "planes" / "average.safetensors")
        for name, value in model.ensemble.state_dict().items():
            torch.testing.assert_close(value, average[f"ensemble.{name}"].half().float())

    def test_the_same_command_twice_changes_nothing(self, a_study, tmp_path):
        recipe = a_study(SR)
        run_cli(recipe, "--out", tmp_path / "run")
        first = Bundle(tmp_path / "run" / "bundle" / "tiny-sr").hash
        run_cli(recipe, "--out", tmp_path / "run")
        assert Bundle(tmp_path / "run" / "bundle" / "tiny-sr").hash == first
        run_cli(recipe, "--out", tmp_path / "another")
        weights = [Bundle(tmp_path / name / "bundle" / "tiny-sr").section["files"] for name in ("run", "another")]
        assert weights[0] == weights[1]  # the metadata also say how many seconds it took

    def test_regression_network_alone(self, a_study, tmp_path):
        content = {
            **SR,
            "networks": {**NETWORKS, "kind": "regression"},
            "stages": {"volume": {"steps": 3, "blocks": 2, "crop": 32, "margin": 2, "pure_noise_share": 1.0}},
        }
        done = run_cli(a_study(content), "--out", tmp_path / "run")
        assert done.exit_code == 0, done.output
        model = load_model(Bundle(tmp_path / "run" / "bundle" / "tiny-sr"))
        assert isinstance(model.rule, VolumeOnly)
        assert model.rule.kind == "regression"

    def test_warm_start_takes_over_what_fits(self, a_study, tmp_path):
        run_cli(a_study({**SR, "stages": {"planes": SR["stages"]["planes"]}}), "--out", tmp_path / "run")
        bundle = Bundle(tmp_path / "run" / "bundle" / "tiny-sr")
        recipe = parse_recipe(SR, "")
        ensemble = make_ensemble(recipe)
        taken = warm_start(ensemble, bundle)
        assert taken.left == 0
        source = load_model(bundle).ensemble.state_dict()
        assert all(torch.equal(value, source[name]) for name, value in ensemble.state_dict().items())
        sizes = {**NETWORKS, "prior": True, "plane": {"channels": [6, 10], "embedding_size": 12}}
        other = make_ensemble(parse_recipe({**SR, "networks": sizes}, ""))
        with pytest.raises(RequestError, match="no network of the recipe's sizes"):
            warm_start(other, bundle)


class TestPacked:
    """Training on a machine that has one file and few packages."""

    def test_a_run_needs_the_file_only(self, a_study, tmp_path):
        content = {**TRANSLATION, "stages": {"planes": TRANSLATION["stages"]["planes"]}}
        labels = np.zeros((40, 40, 40), np.float32)
        labels[8:32, 8:32, 8:32], labels[12:28, 12:28, 12:28], labels[18:22, 18:22, 18:22] = 3, 2, 1
        write(tmp_path, "labels.nii.gz", labels)
        content["data"] = {**content["data"], "synthetic": {"share": 0.5, "labels": ["labels.nii.gz"]}}
        recipe = a_study(content)
        done = run_cli(recipe, "--pack", tmp_path / "packed.safetensors", "--pack-edge", 36)
        assert done.exit_code == 0, done.output
        packed = unpack(tmp_path / "packed.safetensors")
        assert [volume.subject for volume in packed.train] == ["p0", "p1"]
        assert [volume.subject for volume in packed.val] == ["p2"]
        assert len(packed.labels) == 1
        assert max(packed.train[0].data.shape[1:] + packed.labels[0].classes.shape) <= 36

        for path in tmp_path.glob("*.nii.gz"):
            path.unlink()
        blocked = "import sys; sys.modules['nibabel'] = sys.modules['SimpleITK'] = None; "
        command = [str(recipe), "--out", "run", "--set", "data.datalist=packed.safetensors", "--leave-out", "p1"]
        code = f"{blocked}from scorefusion.training.cli import app; app({command!r})"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        bundle = Bundle(tmp_path / "run" / "bundle" / "tiny-translate")
        assert bundle.section["training"]["subjects"] == ["p0"]
        checked = run_cli(recipe, "--check", "--set", "data.datalist=packed.safetensors")
        assert "2 packed volumes of 2 persons" in checked.output

    @pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
    def test_the_script_for_gpu_machines_leaves_few_files(self, a_study, tmp_path):
        recipe = a_study({**SR, "stages": {"planes": SR["stages"]["planes"]}})
        (tmp_path / "gpu").mkdir()
        assert run_cli(recipe, "--pack", tmp_path / "gpu" / "data.safetensors").exit_code == 0
        script = Path(__file__).parents[1] / "benchmarks" / "gpu_training.sh"
        command = ["bash", script, "run", tmp_path / "gpu", tmp_path / "out", recipe, "--accelerator", "cpu"]
        environment = {**os.environ, "PYTHON": sys.executable}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        left = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert left == ["bundle.tar", "log-planes.csv", "picture-planes.png"]
        with tarfile.open(tmp_path / "out" / "bundle.tar") as archive:
            assert "./tiny-sr/models/plane.safetensors" in archive.getnames()

    def test_intensities_keep_eight_bits_about_the_middle_of_the_head(self, tmp_path):
        data = np.full((1, 60, 50, 40), -1.0, np.float16)
        data[0, 30:50, 10:30, 8:28] = np.random.default_rng(0).uniform(-0.8, 1.4, (20, 20, 20))
        volume = TrainingVolume("a/t1", "a", ("t1",), data, (0, 2), 0.5)
        pack(PackedData((volume,)), tmp_path / "x.safetensors", edge=24)
        (back,) = unpack(tmp_path / "x.safetensors").train
        assert (back.name, back.subject, back.contrasts, back.sharp_axes, back.weight) == (
            "a/t1", "a", ("t1",), (0, 2), 0.5,
        )  # fmt: skip
        assert np.abs(back.data.astype(float) - data[:, 28:52, 8:32, 6:30].astype(float)).max() < 0.008
        with pytest.raises(RequestError, match="something.safetensors"):
            pack(PackedData((volume,)), tmp_path / "x.npz")

    def test_other_files_are_refused(self, a_study, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(b"no such thing")
        done = run_cli(a_study(SR), "--set", "data.datalist=x.safetensors")
        assert done.exit_code == 2
        assert "make it anew: scorefusion train RECIPE --pack" in done.output
        volume = TrainingVolume("a/t1", "a", ("t1",), np.zeros((1, 40, 40, 40), np.float16))
        pack(PackedData((volume,)), tmp_path / "y.safetensors")
        done = run_cli(a_study(TRANSLATION), "--set", "data.datalist=y.safetensors")
        assert "packed for other conditions" in done.output
        volume = TrainingVolume("a/t1", "a", ("t1", "t2", "flair"), np.zeros((3, 40, 40, 40), np.float16))
        pack(PackedData((volume,), medians=(None, None, 0.25)), tmp_path / "y.safetensors")
        done = run_cli(a_study(TRANSLATION), "--set", "data.datalist=y.safetensors")
        assert "packed with medians at" in done.output


class TestTranslation:
    def test_ensembles_of_single_conditions_end_in_one_model(self, a_study, tmp_path):
        done = run_cli(a_study(TRANSLATION), "--out", tmp_path / "run")
        assert done.exit_code == 0, done.output
        bundle = Bundle(tmp_path / "run" / "bundle" / "tiny-translate")
        assert [entry["conditions"] for entry in bundle.section["networks"]["planes"]] == [["t1"], ["t2"]]
        both = {key: read_volume(tmp_path / f"p3_{key}.nii.gz") for key in ("t1", "t2")}
        result = translate(both, model=str(bundle.folder), preset="fast", device="cpu")
        assert result.volume.data.shape == both["t1"].data.shape
        alone = translate({"t1": both["t1"]}, model=str(bundle.folder), preset="fast", device="cpu")
        assert np.isfinite(alone.volume.data).all()

    def test_a_mapped_base_is_the_same_in_training_and_in_use(self, a_study, tmp_path):
        """The networks' first word is nothing: an untrained model gives the curve of its training scans."""
        networks = {**TRANSLATION["networks"], "base": "mapped_condition"}
        stages = {"planes": {"steps": 1, "blocks": 1, "slices": 1, "learning_rate": 1e-9}}
        content = {**TRANSLATION, "networks": networks, "stages": stages}
        done = run_cli(a_study(content), "--out", tmp_path / "run")
        assert done.exit_code == 0, done.output
        bundle = Bundle(tmp_path / "run" / "bundle" / "tiny-translate")
        kept = json.loads((tmp_path / "run" / "maps.json").read_text())
        maps = read_maps(bundle.section)
        assert maps is not None
        assert maps == read_maps(kept)
        assert maps.joint is not None
        t1 = read_volume(tmp_path / "p3_t1.nii.gz")
        result = translate({"t1": t1}, model=str(bundle.folder), preset="fast", device="cpu")
        source = torch.from_numpy(fit_intensity_scale(t1.data).normalise(t1.data[0]))
        expected = maps.single[0](source)
        got, inside = torch.from_numpy(result.volume.data[0]) / 500.0 - 1.0, source > -0.9
        torch.testing.assert_close(got[inside], expected[inside], atol=5e-3, rtol=0)

    def test_models_of_single_conditions_become_the_ensembles_of_one(self, a_study, tmp_path):
        """Weights by noise level are fitted, too, and a fresh fusion says the mean of what the models say alone."""
        single = {**TRANSLATION, "networks": {**TRANSLATION["networks"], "per_condition": False}}
        stages = {"planes": TRANSLATION["stages"]["planes"]}
        folders = []
        for condition in TRANSLATION["conditions"]:
            alone = {key: value for key, value in condition.items() if key != "optional"}
            content = {**single, "name": f"tiny-{alone['name']}", "conditions": [alone], "stages": stages}
            assert run_cli(a_study(content), "--out", tmp_path / alone["name"]).exit_code == 0
            folders.append(tmp_path / alone["name"] / "bundle" / f"tiny-{alone['name']}")
        both = {**TRANSLATION, "networks": {**TRANSLATION["networks"], "prior": True}}
        both["stages"] = {"prior": {"blocks_to_fit": 12, "crop": 32, "margin": 2}, "joint": {"steps": 1, "crop": 32}}
        warm = [part for folder in folders for part in ("--warm-start", folder)]
        done = run_cli(a_study(both), "--out", tmp_path / "both", *warm)
        assert done.exit_code == 0, done.output
        assert (tmp_path / "both" / "prior" / "prior.safetensors").exists()
        made = Bundle(tmp_path / "both" / "bundle" / "tiny-translate")
        assert made.section["training"]["recipe"]["warm_start"] == ["tiny-t1", "tiny-t2"]
        assert str(tmp_path) not in json.dumps(made.metadata)

        recipe = parse_recipe({**both, "warm_start": [str(folder) for folder in folders]}, "")
        fused = Run(recipe, tmp_path / "again", make_fabric(accelerator="cpu"), Reporter(), near=tmp_path).rule().eval()
        t1, t2 = torch.rand(2, 1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        noisy, level = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1)), torch.full((1,), 0.3)
        half_gain = 0.5 * fused.layout.residual_gain
        images = []
        for folder, own in zip(folders, (t1, t2), strict=True):
            rule = PlaneAverage(load_model(Bundle(folder)).ensemble)
            # The same noisy image, relative to the model's own base.
            own_noisy = noisy + level.sqrt() * half_gain * (t1 - own)
            images.append(own + rule(own_noisy, ModelInputs(own), level) / half_gain)
        said = t1 + fused(noisy, ModelInputs(torch.cat([t1, t2], dim=1)), level) / half_gain
        assert torch.allclose(said, (images[0] + images[1]) / 2, atol=2e-3)
        with pytest.raises(RequestError, match="one for each of the 1 conditions"):
            parse_recipe({**content, "warm_start": [str(folder) for folder in folders]}, "")

    def test_left_out_persons_are_neither_read_nor_listed(self, a_study, tmp_path):
        stages = {"planes": {"steps": 1, "blocks": 1, "slices": 1}}
        run_cli(a_study({**TRANSLATION, "stages": stages}), "--out", tmp_path / "run", "--leave-out", "p0")
        bundle = Bundle(tmp_path / "run" / "bundle" / "tiny-translate")
        assert bundle.section["training"]["subjects"] == ["p1"]

    def test_leave_one_out_learns_from_everybody_else(self, a_study, tmp_path):
        stages = {"planes": {"steps": 1, "blocks": 1, "slices": 1}}
        data = {**TRANSLATION["data"], "train_on": ["train", "val", "test"], "leave_out": ["p2"]}
        run_cli(a_study({**TRANSLATION, "stages": stages, "data": data}), "--out", tmp_path / "run")
        bundle = Bundle(tmp_path / "run" / "bundle" / "tiny-translate")
        assert bundle.section["training"]["subjects"] == ["p0", "p1", "p3"]  # p2 was the only one for validation


class TestResume:
    def test_killed_run_ends_where_the_unbroken_one_does(self, a_study, tmp_path):
        stages = {"planes": {"steps": 40, "blocks": 2, "slices": 1, "checkpoint_minutes": 0.0001}}
        recipe = a_study({**SR, "stages": stages})
        command = [sys.executable, "-m", "scorefusion", "train", str(recipe), "--quiet", "--out"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment)
        checkpoint = tmp_path / "killed" / "planes" / "state.ckpt"
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = torch.load(checkpoint, weights_only=True)["step"]
        for name in ("killed", "whole"):
            assert subprocess.run([*command, str(tmp_path / name)], env=environment, check=False).returncode == 0
        averages = [load_file(tmp_path / name / "planes" / "average.safetensors") for name in ("killed", "whole")]
        assert all(torch.equal(averages[0][key], averages[1][key]) for key in averages[0])
        assert 0 < before < 40, "the kill came too late to show anything"

    def test_a_folder_belongs_to_one_recipe(self, a_study, tmp_path):
        recipe = a_study({**SR, "stages": {"planes": SR["stages"]["planes"]}})
        run_cli(recipe, "--out", tmp_path / "run")
        done = run_cli(recipe, "--out", tmp_path / "run", "--set", "networks.slab_radius=2")
        assert done.exit_code == 2
        assert "networks.slab_radius: 1 -> 2" in done.output
        longer = run_cli(recipe, "--out", tmp_path / "run", "--set", "stages.planes.steps=5")
        assert longer.exit_code == 0, longer.output


class TestCheck:
    def test_good_recipe_is_ready_and_nothing_is_written(self, a_study, tmp_path):
        done = run_cli(a_study(SR), "--check", "--out", tmp_path / "run")
        assert done.exit_code == 0, done.output
        assert "Ready to train" in done.output
        assert "train: 6 volumes of 2 persons" in done.output
        assert "memory: about" in done.output
        assert not (tmp_path / "run").exists()

    def test_finds_what_is_wrong_before_the_first_step(self, a_study, tmp_path):
        recipe = a_study(SR)
        (tmp_path / "p0_t1.nii.gz").unlink()
        bad = phantom()
        bad[3, 3, 3] = np.nan
        write(tmp_path, "p1_t1.nii.gz", bad)
        write(tmp_path, "p1_t2.nii.gz", np.full((40, 44, 36), 7, np.float32))
        done = run_cli(recipe, "--check")
        assert done.exit_code == 2
        for part in ("p0_t1.nii.gz", "p1_t1.nii.gz", "p1_t2.nii.gz"):
            assert part in done.output

    def test_not_enough_memory_is_an_error_with_a_way_out(self, a_study, monkeypatch):
        monkeypatch.setattr("scorefusion.training.check.available_memory", lambda device: 1000)
        done = run_cli(a_study(SR), "--check")
        assert done.exit_code == 2
        assert "GiB are needed" in done.output

    def test_steps_become_hours(self, a_study):
        done = run_cli(a_study(SR), "--check")
        assert "stage planes: about" in done.output


class TestLosses:
    def block(self, content=SR, channels=1):
        recipe = parse_recipe(content, "")
        data = torch.rand(channels, 36, 36, 36, generator=torch.Generator().manual_seed(4)) * 1.6 - 0.8
        source = BlockSource(recipe, [TrainingVolume("a", "a", ("t1",) * channels, data.half().numpy())], (32, 32, 32))
        return recipe, source.draw(0)

    def test_a_share_of_the_levels_is_pure_noise(self):
        schedule = parse_recipe(SR, "").noise_schedule
        t = draw_timesteps(4000, schedule, 0.3, torch.Generator().manual_seed(0))
        assert (t == 999).float().mean() == pytest.approx(0.3, abs=0.03)
        assert t.float().mean() == pytest.approx(0.3 * 999 + 0.7 * 499.5, rel=0.03)

    def test_fresh_plane_networks_miss_all_there_is(self):
        recipe, block = self.block()
        loss = PlaneLoss(make_ensemble(recipe), recipe.noise_schedule, recipe.stages["planes"])
        value = loss([block] * 8, generator_for(0)).item()
        assert value == pytest.approx(1.0, abs=0.15)  # predicts 0: error = what there is to find

    def test_plane_loss_sees_what_inference_sees(self):
        """The prediction for a slice inside a batch of patches is the one of the whole volume."""
        recipe, block = self.block()
        ensemble = make_ensemble(recipe)
        for parameter in ensemble.parameters():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator_for(1))
        loss = PlaneLoss(ensemble, recipe.noise_schedule, recipe.stages["planes"])
        noisy = add_noise(block.residual[None], recipe.noise_schedule, 0.0, generator_for(2))
        whole = ensemble.predict(noisy.x_t, block.inputs, noisy.alpha_bar)
        for number, member in enumerate(ensemble.members):
            axis = 2 + member.plane.axis
            from scorefusion.training.losses import _slab

            slab = _slab(ensemble, noisy.x_t.narrow(axis, 5, 1), block, member, 5)
            context = ensemble.layout.plane_vector(block.inputs, member.plane, 1)
            single, _ = ensemble.plane_networks[0](slab, noisy.alpha_bar, context)
            expected = whole[:, number].select(axis - 1, 5)
            torch.testing.assert_close(single[:, 0], expected, atol=1e-5, rtol=1e-4)
        assert loss.stage.slices == 1

    def test_fusion_loss_is_the_rule_itself(self):
        recipe, block = self.block()
        rule = make_fusion(recipe, make_ensemble(recipe))
        for parameter in rule.parameters():
            torch.nn.init.normal_(parameter, std=0.05, generator=generator_for(1))
        loss = FusionLoss(rule, recipe.noise_schedule, recipe.stages["fusion"])
        crop = loss.prepare(block, generator_for(3))
        expected = rule(crop.noisy.x_t, block.inputs, crop.noisy.alpha_bar)
        margin = recipe.stages["fusion"].margin
        inner = (..., *[slice(margin, 32 - margin)] * 3)
        error = (expected - crop.noisy.wanted)[inner].square().mean() * block.weight
        torch.testing.assert_close(loss([crop]), error, rtol=1e-4, atol=0)

    def test_every_trained_weight_of_the_fusion_gets_a_gradient(self):
        recipe, block = self.block()
        rule = make_fusion(recipe, make_ensemble(recipe))
        for parameter in rule.parameters():
            torch.nn.init.normal_(parameter, std=0.05, generator=generator_for(1))
        rule.ensemble.requires_grad_(False)
        loss = FusionLoss(rule, recipe.noise_schedule, recipe.stages["fusion"])
        loss([loss.prepare(block, generator_for(3))]).backward()
        parts = [*rule.network.named_parameters(), *rule.alignment.named_parameters()]
        assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for _, parameter in parts)
        assert all(parameter.grad is None for parameter in rule.ensemble.parameters())

    def test_frozen_plane_networks_keep_out_of_training_mode(self):
        recipe, _ = self.block()
        loss = FusionLoss(make_fusion(recipe, make_ensemble(recipe)), recipe.noise_schedule, recipe.stages["fusion"])
        loss.train()
        assert loss.rule.network.training
        assert not loss.rule.ensemble.networks[0].training

    def test_members_with_another_base_learn_their_own_residual(self):
        recipe, block = self.block(TRANSLATION, channels=3)
        block = Block(block.conditions, block.residual, torch.ones(()))
        ensemble = make_ensemble(recipe)
        second = next(member for member in ensemble.members if member.conditions == (1,))
        shift = own_base_shift(block.inputs, second, 2.0)
        truth = block.conditions[0] + block.residual[0]  # gain 2
        torch.testing.assert_close(block.conditions[1] + (block.residual + shift[0])[0], truth)
        assert own_base_shift(block.inputs, ensemble.members[0], 2.0) is None


def test_a_network_can_learn_its_task(tmp_path, a_study):
    """Two hundred steps on one phantom: the loss falls well below that of knowing nothing."""
    stage = {"steps": 200, "blocks": 2, "slices": 2, "learning_rate": 8e-3}
    stage |= {"warmup_steps": 5, "pure_noise_share": 0.0}
    recipe = parse_recipe({**SR, "stages": {"planes": stage}}, "")
    a_study(SR)
    run = Run(recipe, tmp_path / "run", make_fabric("cpu"), Reporter(), tmp_path)
    smooth = TrainingVolume("s", "s", ("t1",), _smooth_phantom()[None].astype(np.float16))
    run.volumes = [smooth]
    blocks = [run.source("planes", recipe.stages["planes"]).draw(number) for number in range(24)]
    knowing_nothing = np.mean([float(block.residual.square().mean()) * block.weight for block in blocks])
    run.run()
    rows = (tmp_path / "run" / "planes" / "log.csv").read_text().splitlines()
    loss = next(float(row.split(",")[3]) for row in rows if row.startswith("200,") and ",loss," in row)
    assert loss < 0.8 * knowing_nothing


def _smooth_phantom():
    axes = np.meshgrid(*(np.linspace(0, 6, 40),) * 3, indexing="ij")
    return np.clip(np.sin(axes[0]) * np.cos(axes[1]) + np.sign(np.sin(1.5 * axes[2])) * 0.5, -0.8, 1)
