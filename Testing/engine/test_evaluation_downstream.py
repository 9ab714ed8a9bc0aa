"""What a model does to a segmentation: Dice, label maps, MONAI bundles as segmenters, training, the table."""

from __future__ import annotations

import csv
import json
import math
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nibabel")
pytest.importorskip("monai")

from typer.testing import CliRunner  # noqa: E402

from scorefusion.bundle.folder import Bundle  # noqa: E402
from scorefusion.datasets.case import Case  # noqa: E402
from scorefusion.datasets.datalist import Datalist, project_datalist, read_datalist  # noqa: E402
from scorefusion.errors import BundleError, Cancelled, GeometryError, RequestError, VolumeError  # noqa: E402
from scorefusion.evaluation.benchmark import classical_methods  # noqa: E402
from scorefusion.evaluation.downstream import cli  # noqa: E402
from scorefusion.evaluation.downstream.labels import TISSUES, dice, masks_of, read_labels, standard_name  # noqa: E402
from scorefusion.evaluation.downstream.score import document, gap_share, run_downstream, with_shares  # noqa: E402
from scorefusion.evaluation.downstream.segmenter import Segmenter, build_network, load_segmenter  # noqa: E402
from scorefusion.evaluation.downstream.train import (  # noqa: E402
    Training,
    TrainingOptions,
    Windows,
    read_example,
    train_segmenter,
    usable_cases,
)
from scorefusion.evaluation.rows import Benchmark, Row, mean  # noqa: E402
from scorefusion.evaluation.simulate import Setting  # noqa: E402
from scorefusion.evaluation.suites import suite_of  # noqa: E402
from scorefusion.imaging.files import write_volume  # noqa: E402
from scorefusion.imaging.foreground import foreground_box  # noqa: E402
from scorefusion.imaging.volume import Volume  # noqa: E402
from scorefusion.progress import Reporter  # noqa: E402

SHAPE = (36, 40, 33)
UNET = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 4, "channels": [4, 8], "strides": [2],
}  # fmt: skip
TINY = TrainingOptions(minutes=5, window=16, features=(4, 4, 8, 8, 8, 4), precision="float32", device="cpu")


def phantom(seed: int) -> tuple[Volume, Volume]:
    """A stripped head of three wavy shells, CSF around GM around WM, and its tissue map; axes LPS."""
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*(np.linspace(-1.2, 1.2, size) for size in SHAPE), indexing="ij")
    radius = np.sqrt(i**2 + j**2 + k**2) + 0.08 * np.sin(7 * i + seed) * np.cos(6 * j) + 0.04 * np.sin(11 * k)
    labels = np.select([radius < 0.5, radius < 0.8, radius < 1.0], [3, 2, 1], 0)
    data = np.array([0.0, 150.0, 350.0, 600.0])[labels] + 12.0 * rng.standard_normal(SHAPE) * (labels > 0)
    affine = np.diag([-1.1, -1.0, 1.25, 1.0])
    affine[:3, 3] = (20.0, 10.0, -30.0)
    return Volume(data[None].astype(np.float32), affine), Volume(labels[None].astype(np.float32), affine)


def write_phantom(folder: Path, seed: int) -> Case:
    image, labels = phantom(seed)
    write_volume(image, folder / f"P{seed}.nii.gz")
    write_volume(labels, folder / f"P{seed}_tissue.nii.gz")
    paths = {"tissue": folder / f"P{seed}_tissue.nii.gz"}
    return Case(f"P{seed}", {"t1": folder / f"P{seed}.nii.gz"}, masks=paths, skull_stripped=True)


@pytest.fixture
def datalist(tmp_path: Path) -> Datalist:
    cases = [write_phantom(tmp_path, seed) for seed in range(4)]
    return Datalist("phantoms", tuple(cases[:2]), (cases[2],), (cases[3],))


class Writes(torch.nn.Module):
    """As TorchScript it writes a file wherever it is called."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x.repeat(1, 4, 1, 1, 1)


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


class Levels(torch.nn.Module):
    """Each voxel belongs to the level of the phantom that is nearest to it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-((x + 1.0) ** 2), -((x + 0.5) ** 2), -((x - 0.15) ** 2), -((x - 1.0) ** 2)], dim=1)


def write_monai_bundle(
    folder: Path,
    config: dict[str, Any] | None = None,
    channels: dict[str, str] | None = None,
    network: torch.nn.Module | None = None,
) -> Path:
    """A bundle as others make them: a network's definition and its weights; a U-Net unless one is given."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]}
    config = {"network_def": UNET, "inferer": inferer, **(config or {})}
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    channels = channels or {"0": "background", "1": "Cerebrospinal fluid", "2": "grey matter", "3": "WM"}
    outputs = {"pred": {"channel_def": channels}}
    metadata = {"name": "levels", "version": "1.2.3", "network_data_format": {"outputs": outputs}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.manual_seed(0)
    network = network or build_network(config)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def levels_segmenter(**facts: Any) -> Segmenter:
    return Segmenter(Levels().eval(), TISSUES, (16, 16, 16), notes={"segmenter": "levels 1.2.3"}, **facts)


class TestDice:
    def test_by_hand(self) -> None:
        found = torch.tensor([[1, 1, 0], [0, 0, 1]]).bool()
        reference = torch.tensor([[1, 0, 0], [0, 1, 1]]).bool()
        assert dice(found, reference) == pytest.approx(2 * 2 / (3 + 3))
        assert dice(found, found) == 1.0
        assert dice(found, ~found) == 0.0

    def test_nothing_against_nothing_is_no_figure(self) -> None:
        empty = torch.zeros(3, 4, 5, dtype=torch.bool)
        assert math.isnan(dice(empty, empty))
        assert mean([math.nan, 0.5, 1.0]) == 0.75
        assert math.isnan(mean([math.nan]))

    @pytest.mark.parametrize(("value", "share"), [(0.80, 0.0), (0.90, 1.0), (0.85, 0.5), (0.78, -0.2), (0.91, 1.1)])
    def test_share_of_the_gap(self, value: float, share: float) -> None:
        assert gap_share(value, cubic=0.80, truth=0.90) == pytest.approx(share)

    def test_no_gap_no_share(self) -> None:
        assert math.isnan(gap_share(0.9, cubic=0.9, truth=0.904))
        assert math.isnan(gap_share(0.9, cubic=math.nan, truth=0.95))


class TestLabels:
    def test_a_map_in_other_axes_lands_on_a_crop_of_its_volume(self, tmp_path: Path) -> None:
        image, labels = phantom(0)
        write_volume(labels, tmp_path / "map.nii.gz")
        volume, reorientation = image.canonical()
        cropped = volume.crop(foreground_box(volume.data[0] > 500))
        found = read_labels(tmp_path / "map.nii.gz", cropped.grid, 3)
        assert found.shape == cropped.data.shape[1:] != volume.data.shape[1:]
        levels = [float(cropped.data[0][found.numpy() == label].mean()) for label in range(1, 4)]
        assert levels == pytest.approx([150, 350, 600], abs=5)

    def test_another_grid_is_refused(self, tmp_path: Path) -> None:
        image, labels = phantom(0)
        moved = labels.affine.copy()
        moved[0, 3] += 0.4
        write_volume(Volume(labels.data, moved), tmp_path / "moved.nii.gz")
        write_volume(Volume(labels.data[:, 3:], labels.affine), tmp_path / "short.nii.gz")
        for name in ("moved", "short"):
            with pytest.raises(GeometryError, match=rf"{name}.nii.gz.*is not on the grid of its volume.*resample"):
                read_labels(tmp_path / f"{name}.nii.gz", image.canonical()[0].grid, 3)

    def test_an_image_is_no_label_map(self, tmp_path: Path) -> None:
        image, _ = phantom(0)
        write_volume(image, tmp_path / "image.nii.gz")
        with pytest.raises(VolumeError, match="expected whole numbers from 0"):
            read_labels(tmp_path / "image.nii.gz", image.canonical()[0].grid, 3)

    def test_tissues_have_many_names(self) -> None:
        names = ["Grey matter", "gray_matter", "WM", "white-matter", "Cerebrospinal Fluid", "thalamus"]
        assert [standard_name(name) for name in names] == ["GM", "GM", "WM", "WM", "CSF", "thalamus"]


class TestNetworkConfig:
    @pytest.mark.parametrize(
        "value", ["$__import__('pathlib').Path('ran').touch()", "%other.json#key", "$@classes", "@classes"]
    )
    def test_what_is_no_plain_value_is_refused_and_does_not_run(
        self, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        config = {"classes": 4, "network_def": {**UNET, "out_channels": value}}
        with pytest.raises(BundleError, match="network_def::out_channels.*write the value itself"):
            build_network(config)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("target", ["os.system", "pathlib.Path", "monai.transforms.LoadImage", "NoSuchNet", None])
    def test_only_networks_of_monai_are_built(self, target: str | None, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="only the networks of monai.networks.nets"):
            build_network({"network_def": {**UNET, "_target_": target}})

    def test_no_component_inside_the_network(self, tmp_path: Path) -> None:
        config = {"network_def": {**UNET, "act": {"_target_": "os.system", "command": "true"}}}
        with pytest.raises(BundleError, match="asks for another '_target_' inside it"):
            build_network(config)

    def test_bad_arguments_are_told(self) -> None:
        with pytest.raises(BundleError, match="MONAI cannot build monai.networks.nets.UNet.*chanels"):
            build_network({"network_def": {**UNET, "chanels": [4]}})
        with pytest.raises(BundleError, match="has no 'network_def'"):
            build_network({"network": UNET})


class TestAnyMonaiBundle:
    def test_a_bundle_says_what_it_is_and_windows_are_put_together(self, tmp_path: Path) -> None:
        segmenter = load_segmenter(write_monai_bundle(tmp_path / "levels"), device="cpu", precision="float32")
        assert (segmenter.classes, segmenter.window, segmenter.exclusive) == (("CSF", "GM", "WM"), (16, 16, 16), True)
        assert segmenter.notes["segmenter"].startswith("levels 1.2.3, model.pt ")
        image, labels = phantom(1)
        found = levels_segmenter().segment(torch.from_numpy(image.data[0]))
        truth = masks_of(torch.from_numpy(labels.data[0]), TISSUES)
        assert min(dice(found[name], truth[name]) for name in TISSUES) > 0.995

    @pytest.mark.parametrize("file", ["model.ts", "model.pt", "model.safetensors"])
    def test_a_file_that_runs_code_is_refused_without_being_run(self, file: str, tmp_path: Path) -> None:
        """TorchScript can write files when it is called, and pickle when it is read."""
        folder, ran = write_monai_bundle(tmp_path / "evil"), tmp_path / "ran"
        (folder / "models" / "model.pt").unlink()
        if file == "model.ts":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                torch.jit.save(torch.jit.script(Writes(str(ran))), str(folder / "models" / file))
        else:
            (folder / "models" / file).write_bytes(pickle.dumps(Touches(str(ran))))
        with pytest.raises(BundleError, match="can run code, so it is not opened|no file of tensors only"):
            load_segmenter(folder, device="cpu")
        assert not ran.exists()

    def test_weights_may_be_safetensors(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        folder = write_monai_bundle(tmp_path / "b")
        given, data = load_segmenter(folder, device="cpu"), torch.rand(17, 18, 19)
        save_file(
            torch.load(folder / "models" / "model.pt", weights_only=True), folder / "models" / "model.safetensors"
        )
        (folder / "models" / "model.pt").unlink()
        again = load_segmenter(folder, device="cpu")
        assert again.notes["segmenter"].startswith("levels 1.2.3, model.safetensors ")
        assert all(torch.equal(mask, again.segment(data)[name]) for name, mask in given.segment(data).items())

    @pytest.mark.parametrize("kind", ["json", "yaml"])
    def test_weights_fill_the_network_of_the_configuration(self, kind: str, tmp_path: Path) -> None:
        torch.manual_seed(0)
        network = build_network({"network_def": UNET})
        config = {"network_def": UNET, "network": "$@network_def.to('cuda')"}
        folder = write_monai_bundle(tmp_path / "unet", config, network=network)
        if kind == "yaml":
            yaml = pytest.importorskip("yaml")
            written = folder / "configs" / "inference.json"
            (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(json.loads(written.read_text())))
            written.unlink()
        segmenter = load_segmenter(folder, device="cpu", precision="float32")
        data = phantom(0)[0].data[0, 10:26, 10:26, 10:26].copy()
        with torch.no_grad():
            logits = network.eval()(segmenter.prepare(torch.from_numpy(data)[None])[None])
        expected = masks_of(logits[0].argmax(dim=0), TISSUES)
        found = segmenter.segment(torch.from_numpy(data))
        assert all(torch.equal(found[name], expected[name]) for name in TISSUES)

    def test_channels_without_background_are_masks_by_themselves(self, tmp_path: Path) -> None:
        channels = {"0": "whole", "1": "core", "2": "rim", "3": "edge"}
        segmenter = load_segmenter(write_monai_bundle(tmp_path / "b", channels=channels), device="cpu")
        assert (segmenter.classes, segmenter.exclusive) == (("whole", "core", "rim", "edge"), False)
        data = torch.rand(16, 16, 16)
        with torch.no_grad():
            logits = segmenter.network(segmenter.prepare(data[None])[None])[0]
        for mask, channel in zip(segmenter.segment(data).values(), logits, strict=True):
            assert torch.equal(mask, channel > 0)

    def test_its_intensity_transforms_are_used_and_the_rest_named(self, tmp_path: Path) -> None:
        steps = [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1, 1, 1]},
            {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True},
        ]
        config = {"preprocessing": {"_target_": "Compose", "transforms": steps}}
        segmenter = load_segmenter(write_monai_bundle(tmp_path / "b", config), device="cpu")
        prepared = segmenter.prepare(torch.from_numpy(phantom(0)[0].data))
        inside = prepared[prepared != 0]
        assert float(inside.mean()) == pytest.approx(0.0, abs=1e-4)
        assert float(inside.std()) == pytest.approx(1.0, abs=1e-3)
        assert "NormalizeIntensity; left out of its preprocessing: Spacing" in segmenter.notes["preparation"]
        steps[1]["axcodes"] = "LPS"
        with pytest.raises(BundleError, match="in LPS order; only RAS is offered"):
            load_segmenter(write_monai_bundle(tmp_path / "c", config), device="cpu")

    def test_expressions_elsewhere_are_left_aside_and_classes_need_no_names(self, tmp_path: Path) -> None:
        config = {"inferer": "$monai.inferers.SlidingWindowInferer(8)", "preprocessing": ["$touch()", "@other"]}
        folder = write_monai_bundle(tmp_path / "b", config)
        (folder / "configs" / "metadata.json").unlink()
        segmenter = load_segmenter(folder, device="cpu")
        assert (segmenter.classes, segmenter.window) == (("class 1", "class 2", "class 3"), (64, 64, 64))
        assert "left out of its preprocessing: $touch(), @other" in segmenter.notes["preparation"]

    def test_what_cannot_be_used_is_refused_with_the_reason(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="nowhere cannot be used: there is no folder"):
            load_segmenter(tmp_path / "nowhere")
        with pytest.raises(BundleError, match="none of configs/inference.json, configs/inference.yaml"):
            load_segmenter(tmp_path)
        folder = write_monai_bundle(tmp_path / "no-weights")
        (folder / "models" / "model.pt").unlink()
        with pytest.raises(BundleError, match="neither models/model.safetensors nor models/model.pt"):
            load_segmenter(folder)
        folder = write_monai_bundle(tmp_path / "flat", {"inferer": {"roi_size": [16, 16]}})
        with pytest.raises(BundleError, match="only 3D segmenters"):
            load_segmenter(folder)
        folder = write_monai_bundle(tmp_path / "names", channels={"0": "background", "1": "GM"})
        with pytest.raises(BundleError, match="names 2 output channels, the network has 4"):
            load_segmenter(folder)

    def test_foreign_weights_are_refused(self, tmp_path: Path) -> None:
        network = build_network({"network_def": UNET})
        folder = write_monai_bundle(tmp_path / "b", {"network_def": {**UNET, "channels": [4, 16]}}, network=network)
        with pytest.raises(BundleError, match="no state dict of the network of 'network_def'.*size mismatch"):
            load_segmenter(folder)
        torch.save(Path("a python object"), folder / "models" / "model.pt")
        with pytest.raises(BundleError, match="no file of tensors only"):
            load_segmenter(folder)
        torch.save([1, 2], folder / "models" / "model.pt")
        with pytest.raises(BundleError, match="holds no state dict of the network.*dict-like"):
            load_segmenter(folder)

    def test_a_network_of_four_volumes_is_refused(self, tmp_path: Path) -> None:
        config = {"network_def": {**UNET, "in_channels": 4}}
        folder = write_monai_bundle(tmp_path / "b", config, network=build_network(config))
        with pytest.raises(BundleError, match="cannot segment one volume in windows"):
            load_segmenter(folder, device="cpu")


class TestTraining:
    def test_a_window_is_always_the_same_and_stays_on_its_labels(self, datalist: Datalist) -> None:
        examples = [read_example(case, TINY) for case in datalist.training]
        windows, again = Windows(examples, 16, seed=5), Windows(examples, 16, seed=5)
        again[0]  # what was drawn before does not matter
        first, second = windows[7], again[7]
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert not torch.equal(windows[8][0], first[0])
        for number in range(12):  # monotonous curves: brighter tissue stays brighter, so flips moved both alike
            image, labels = windows[number]
            levels = [float(image[labels == label].mean()) for label in labels.unique()]
            assert levels == sorted(levels)

    def test_small_volumes_are_padded_to_a_window(self, datalist: Datalist) -> None:
        example = read_example(datalist.training[0], replace(TINY, window=48))
        assert example["image"].shape == example["labels"].shape == (1, 48, 48, 48)
        assert float(example["image"][0, -1].max()) == float(example["image"].min())
        assert int(example["labels"][0, -1].max()) == 0

    def test_an_interrupted_training_ends_as_an_undisturbed_one(self, datalist: Datalist, tmp_path: Path) -> None:
        options, datalist = replace(TINY, steps=4), replace(datalist, validation=())
        whole = train_segmenter(datalist, tmp_path / "whole", options)

        def stop_half_way(event: dict[str, Any]) -> None:
            if event.get("stage") == "training" and event["done"] >= 0.5:
                raise Cancelled

        with pytest.raises(Cancelled):
            train_segmenter(datalist, tmp_path / "parts", options, Reporter(stop_half_way))
        resumed = train_segmenter(datalist, tmp_path / "parts", options)
        assert (whole.step, resumed.step) == (4, 4)
        states = [torch.load(t.folder / "models" / "model.pt", weights_only=True) for t in (whole, resumed)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_the_bundle_says_what_it_learnt_from(self, datalist: Datalist, tmp_path: Path) -> None:
        trained = train_segmenter(datalist, tmp_path / "s", replace(TINY, steps=1))
        metadata = json.loads((trained.folder / "configs" / "metadata.json").read_text())
        training = metadata["training"]
        assert training["subjects"] == ["P0", "P1"]
        assert set(training["validation_dice"]["P2"]) == {"CSF", "GM", "WM", "mean"}
        assert "no blur" in training["augmentation"]
        segmenter = load_segmenter(trained.folder)
        assert (segmenter.contrast, segmenter.training_subjects) == ("t1", ("P0", "P1"))

    def test_another_training_in_the_folder_is_refused(self, datalist: Datalist, tmp_path: Path) -> None:
        datalist = replace(datalist, validation=())
        train_segmenter(datalist, tmp_path / "s", replace(TINY, steps=1))
        with pytest.raises(RequestError, match="differs in seed; give the same options"):
            train_segmenter(datalist, tmp_path / "s", replace(TINY, steps=2, seed=1))

    def test_without_tissue_maps_nothing_is_trained(self, datalist: Datalist, tmp_path: Path) -> None:
        bare = replace(datalist, training=tuple(replace(case, masks={}) for case in datalist.training))
        with pytest.raises(RequestError, match="no training case has both a t1 volume and a tissue map"):
            train_segmenter(bare, tmp_path / "s", TINY)
        with pytest.raises(RequestError, match="window is 24 voxels; give a multiple of 16"):
            train_segmenter(datalist, tmp_path / "s", replace(TINY, window=24))

    def test_the_shape_that_is_trained_by_default(self, tmp_path: Path) -> None:
        network = Training([], tmp_path, TrainingOptions(device="cpu"), []).network
        assert sum(parameter.numel() for parameter in network.parameters()) == 891604

    @pytest.mark.slow
    def test_seconds_of_training_find_three_separable_classes(self, datalist: Datalist, tmp_path: Path) -> None:
        options = replace(TINY, steps=60, window=32, features=(8, 8, 16, 16, 16, 8), learning_rate=1e-2)
        trained = train_segmenter(datalist, tmp_path / "s", options)
        assert trained.validation["P2"]["mean"] > 0.9

    def test_the_projects_maps_are_found_without_the_other_vocabulary(self, data_folder: Path) -> None:
        found = usable_cases(project_datalist(data_folder).training, "t1")
        names = [case.case_id for case in found if case.case_id != "eve"]
        assert names == [f"mass_W{number}" for number in ("01", "02", "04", "06", "07", "11", "13", "14")]
        kept = usable_cases(cli.training_data(None).training, "t1")
        assert [case.case_id for case in kept] == names


@pytest.fixture
def levels(tmp_path: Path) -> Path:
    return write_monai_bundle(tmp_path / "levels")


class TestScore:
    def test_ends_of_the_gap_and_what_lies_between(self, datalist: Datalist) -> None:
        segmenter = levels_segmenter()
        result = run_downstream(suite_of(datalist), [Setting.parse("iso3")], classical_methods(), segmenter)
        rows = {row.method: row for row in result.rows}
        assert list(rows) == ["truth", "nearest", "linear", "cubic", "best"]
        assert rows["truth"]["dice_own_mean"] == 1.0
        assert rows["truth"]["dice_map_mean"] > 0.995
        assert 0.5 < rows["nearest"]["dice_map_mean"] < rows["cubic"]["dice_map_mean"] < 0.97
        assert result.facts[0]["best_classical"].startswith("cubic + back-projection")
        assert rows["best"]["psnr_brain"] > rows["cubic"]["psnr_brain"]
        assert math.isnan(rows["truth"]["psnr_brain"])
        for name in ("map_mean", "own_mean", "map_GM"):
            cubic, truth = rows["cubic"][f"dice_{name}"], rows["truth"][f"dice_{name}"]
            expected = (rows["best"][f"dice_{name}"] - cubic) / (truth - cubic)
            assert rows["best"][f"gap_share_{name}"] == pytest.approx(expected)
            assert (rows["cubic"][f"gap_share_{name}"], rows["truth"][f"gap_share_{name}"]) == (0.0, 1.0)

    def test_the_map_is_compared_where_the_truth_was_cropped(self, datalist: Datalist) -> None:
        result = run_downstream(suite_of(datalist), [Setting.parse("thick4")], [], levels_segmenter(), crop="brain")
        assert result.rows[0]["dice_map_WM"] > 0.995

    def test_means_leave_out_who_is_kept_apart(self) -> None:
        def row(subject: str, method: str, value: float, apart: str | None = None) -> Row:
            figures = {f"dice_map_{name}": value for name in ("GM", "WM", "mean")}
            return Row("iso4", subject, "t1", apart, method, method, "", figures)

        a = [row("a", "truth", 0.9), row("a", "cubic", 0.7), row("a", "ours", 0.8)]
        b = [row("b", "truth", 0.7), row("b", "cubic", 0.5), row("b", "ours", 0.7)]
        c = [row("c", "truth", 0.9, "odd"), row("c", "cubic", 0.1, "odd"), row("c", "ours", 0.1, "odd")]
        rows = [row for person in (a, b, c) for row in with_shares(person)]
        assert [row["gap_share_map_mean"] for row in rows[2::3]] == pytest.approx([0.5, 1.0, 0.0])
        report = document(Benchmark({}, {"iso4": "four"}, [], rows))
        (table,) = report.sections[0].tables
        means = {line[0].text: [cell.value for cell in line[-4:]] for line in table.cells()}
        # The share of the mean is (0.75 - 0.6) / (0.8 - 0.6), not the mean of the shares.
        assert means["ours"] == pytest.approx([0.75, 0.75, 0.75, 0.75])
        assert means["cubic"] == pytest.approx([0.6, 0.6, 0.6, 0.0])
        assert "Kept out of the means: c T1, odd." in report.paragraphs

    def test_who_cannot_be_asked_is_left_out_by_name(self, datalist: Datalist) -> None:
        bare = replace(datalist.test[0], masks={}, subject="bare")
        suite = suite_of(replace(datalist, test=(bare, datalist.test[0])))
        segmenter = levels_segmenter(training_subjects=("P3",))
        reporter = Reporter()
        result = run_downstream(suite, [Setting.parse("iso2")], [], segmenter, reporter=reporter)
        assert [row.subject for row in result.rows] == ["P3"]
        messages = " ".join(warning["message"] for warning in reporter.warnings)
        assert "bare T1 is left out: it has no tissue map" in messages
        assert "P3 T1: the segmenter was trained on this person" in messages
        both = run_downstream(suite, [Setting.parse("iso2")], [], segmenter, maps_only=False)
        assert [(row.subject, "dice_map_mean" in row.figures) for row in both.rows] == [("bare", False), ("P3", True)]
        with pytest.raises(RequestError, match="has no volume to segment.*--without-maps"):
            run_downstream(suite_of(replace(datalist, test=(bare,))), [Setting.parse("iso2")], [], segmenter)
        with pytest.raises(RequestError, match="no volume to segment"):
            run_downstream(suite, [Setting.parse("iso2")], [], replace(segmenter, contrast="flair"))

    def test_a_map_on_another_grid_is_refused(self, datalist: Datalist, tmp_path: Path) -> None:
        _, labels = phantom(3)
        write_volume(Volume(labels.data[:, :, 2:], labels.affine), tmp_path / "P3_tissue.nii.gz")
        segmenter = levels_segmenter()
        with pytest.raises(GeometryError, match="P3_tissue.nii.gz.*is not on the grid"):
            run_downstream(suite_of(datalist), [Setting.parse("iso2")], [], segmenter)


class TestCommand:
    def test_a_model_a_bundle_and_all_files(
        self, datalist: Datalist, levels: Path, tiny_bundle: Bundle, tmp_path: Path
    ) -> None:
        entry = {"subject": "P3", "contrasts": {"t1": "P3.nii.gz"}, "masks": {"tissue": "P3_tissue.nii.gz"}}
        (tmp_path / "scans.json").write_text(json.dumps({"test": [{**entry, "skull_stripped": True}]}))
        assert read_datalist(tmp_path / "scans.json").test[0].masks
        arguments = ["score", str(tmp_path / "scans.json"), "--model", str(tiny_bundle.folder), "--setting", "iso2"]
        arguments += ["--segmenter", str(levels), "--out", str(tmp_path / "out"), "--device", "cpu"]
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == 0, done.output
        with (tmp_path / "out" / "downstream.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [row["method"] for row in rows] == [
            "truth", "nearest", "linear", "cubic", "best", "average@fast", "average+proj@fast", "fusion@fast",
            "fusion+proj@fast",
        ]  # fmt: skip
        assert float(rows[3]["gap_share_own_mean"]) == 0.0
        content = json.loads((tmp_path / "out" / "downstream.json").read_text())
        assert content["caption"]["classes"] == "CSF, GM, WM"
        assert content["caption"]["segmenter"].startswith("levels 1.2.3")
        truth = content["rows"][0]
        assert (truth["dice_own_mean"], truth["gap_share_own_mean"]) == (1.0, 1.0)
        text = (tmp_path / "out" / "downstream.md").read_text()
        assert "P3 T1: mean Dice (CSF / GM / WM)" in text
        assert "fusion + projection" in text
        assert text in done.output

    def test_training_without_maps_ends_with_two(self, tmp_path: Path) -> None:
        write_phantom(tmp_path, 0)
        entry = {"subject": "P0", "target": "P0.nii.gz", "contrast": "t1"}
        (tmp_path / "scans.json").write_text(json.dumps({"training": [entry]}))
        arguments = ["train", str(tmp_path / "scans.json"), "--out", str(tmp_path / "s"), "--json"]
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == 2
        assert "no training case has both" in json.loads(done.output.splitlines()[-1])["message"]
