"""translate(): geometry, units, the measurement, seeds, tiles, conditions, refusals. Networks are tiny and random."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_ensemble, tiny_fusion, tiny_volume, write_tiny_bundle

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import load_model
from scorefusion.bundle.write import write_bundle
from scorefusion.diffusion.noise import NoiseField
from scorefusion.errors import BundleError, Cancelled, GeometryError, RequestError
from scorefusion.fusion.inputs import InputLayout
from scorefusion.fusion.rules import ScoreFusion, VolumeKind
from scorefusion.imaging.acquisition import Acquisition
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.grid import Grid
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import Result, translate
from scorefusion.run.domain import check_domain
from scorefusion.run.request import axis_names, understand


def _restorer_layout() -> InputLayout:
    return InputLayout(1, False, True, True, True, 0, 4.0, "clean")


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    rule = tiny_fusion(tiny_ensemble(_restorer_layout(), std=0.08), std=0.08)
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny-sr", rule)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One shared plane network for each of two conditions, the second optional."""
    inputs = InputLayout(1, False, True, True, False, 0, 4.0, "clean")
    rule = tiny_fusion(tiny_ensemble(inputs, groups=[(0,), (1,)], std=0.08), conditions=2, std=0.08)
    folder = tmp_path_factory.mktemp("bundles") / "tiny-t1-t2-to-flair"
    return write_tiny_bundle(folder, rule, ["t1", "t2"], "translation")


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Six plane networks: each sees one of two conditions along one plane."""
    inputs = InputLayout(1, False, True, False, False, 0, 4.0, "clean")
    rule = tiny_fusion(tiny_ensemble(inputs, shared=False, groups=[(0,), (1,)], std=0.08), conditions=2, std=0.08)
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "six", rule, ["t1", "t2"], "translation")


@pytest.fixture
def thick(make_volume: Callable[..., Volume]) -> Volume:
    """4 mm slices along the second voxel axis, oblique."""
    return make_volume((16, 7, 18), (1.0, 4.0, 1.1))


def _run(volume: Any, bundle: Bundle, **options: Any) -> Result:
    return translate(volume, bundle, device="cpu", **{"precision": "float32", **options})


class TestGeometry:
    def test_super_resolution_keeps_axes_extent_and_outer_corner(self, restorer: Bundle, thick: Volume) -> None:
        result = _run(thick, restorer).volume
        assert result.spatial_shape == (16, 28, 18)
        assert result.orientation == thick.orientation
        np.testing.assert_allclose(result.grid.extent_mm, thick.grid.extent_mm, rtol=1e-6)
        np.testing.assert_allclose(
            result.grid.index_to_world([-0.5] * 3), thick.grid.index_to_world([-0.5] * 3), atol=1e-6
        )

    @pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
    def test_the_same_head_on_other_axes_gives_the_same_result(
        self, restorer: Bundle, thick: Volume, order: tuple[int, int, int], flips: tuple[int, int, int]
    ) -> None:
        expected = _run(thick, restorer).volume
        affine, data = thick.affine.copy(), thick.data
        affine[:, :3] = affine[:, list(order)]
        data = data.transpose(0, *(1 + axis for axis in order))
        for axis, flip in enumerate(flips):
            if flip < 0:
                affine[:3, 3] += affine[:3, axis] * (data.shape[1 + axis] - 1)
                affine[:3, axis] *= -1
                data = np.flip(data, 1 + axis)
        moved = _run(Volume(np.ascontiguousarray(data), affine), restorer).volume
        back, _ = moved.canonical()
        reference, _ = expected.canonical()
        np.testing.assert_allclose(back.affine, reference.affine, atol=1e-6)
        np.testing.assert_allclose(back.data, reference.data, atol=1e-2)

    def test_translation_keeps_the_grid(self, translator: Bundle, make_volume: Callable[..., Volume]) -> None:
        volume = make_volume((14, 17, 12), (1.0, 1.0, 1.0))
        result = _run({"t1": volume}, translator).volume
        assert result.grid.is_close(volume.grid)

    def test_real_factors_are_exact(self, restorer: Bundle, make_volume: Callable[..., Volume]) -> None:
        volume = make_volume((12, 13, 9), (1.0, 1.0, 3.7))
        result = _run(volume, restorer)
        assert result.volume.spatial_shape == (12, 13, 33)
        assert result.quality["measurement_residual_relative"] < 1e-5


class TestMeasurement:
    @pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
    def test_result_measured_again_is_the_input(self, restorer: Bundle, thick: Volume, preset: str) -> None:
        result = _run(thick, restorer, preset=preset)
        operator = Acquisition.between(result.volume.grid, thick.grid)
        again = operator.forward(torch.from_numpy(result.volume.data)[None])[0].numpy()
        assert np.abs(again - thick.data).max() < 1e-4 * np.abs(thick.data).max()
        assert result.quality["measurement_residual_max"] < 1e-4 * np.abs(thick.data).max()

    def test_units_are_the_inputs(self, restorer: Bundle, thick: Volume) -> None:
        small = _run(thick, restorer).volume.data
        large = _run(thick.with_data(thick.data * 37.0), restorer).volume.data
        np.testing.assert_allclose(large / 37.0, small, atol=0.05 * np.abs(small).max() * 1e-2)

    def test_header_thickness_is_used_and_can_be_overruled(self, restorer: Bundle, thick: Volume) -> None:
        known = replace(thick, slice_thickness=3.0, slice_axis=1)
        assert _run(known, restorer).provenance["Acquisition"]["SliceThickness"] == 3.0
        assert _run(known, restorer, thickness=3.5, axis="j").provenance["Acquisition"]["SliceThickness"] == 3.5
        assert _run(thick, restorer).provenance["Acquisition"]["SliceThickness"] == pytest.approx(4.0)

    def test_translation_has_the_bundles_units(self, translator: Bundle, make_volume: Callable[..., Volume]) -> None:
        volume = make_volume((14, 17, 12), (1.0, 1.0, 1.0))
        result = _run({"t1": volume}, translator)
        assert result.provenance["Units"] == "arbitrary"
        assert "measurement_residual_max" not in result.quality


class TestSeedsAndTiles:
    def test_same_seed_same_voxels(self, restorer: Bundle, thick: Volume) -> None:
        first, second = (_run(thick, restorer, preset="best", seed=3).volume.data for _ in range(2))
        assert np.array_equal(first, second)
        assert not np.allclose(first, _run(thick, restorer, preset="best", seed=4).volume.data)

    def test_global_generator_is_left_alone(self, restorer: Bundle, thick: Volume) -> None:
        torch.manual_seed(11)
        before = torch.get_rng_state()
        _run(thick, restorer, preset="best")
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**62])
    def test_any_seed_draws_its_own_noise(self, seed: int) -> None:
        drawn = [NoiseField((3, 4, 5), seed).draw(n, step) for n in range(2) for step in (-1, 0, 1)]
        assert len({float(noise.sum()) for noise in drawn}) == 6
        window = (slice(1, 3), slice(0, 2), slice(2, 5))
        assert torch.equal(NoiseField((3, 4, 5), seed, window).draw(1, 0), drawn[4][:, :, 1:3, 0:2, 2:5])

    @pytest.mark.parametrize("preset", ["fast", "balanced"])
    def test_tiled_equals_whole(self, restorer: Bundle, make_volume: Callable[..., Volume], preset: str) -> None:
        volume = make_volume((10, 24, 14), (1.0, 4.0, 1.0))
        whole = _run(volume, restorer, preset=preset)
        tiled = _run(volume, restorer, preset=preset, tile=16)
        span = whole.volume.data.max() - whole.volume.data.min()
        assert np.abs(tiled.volume.data - whole.volume.data).max() < 1e-4 * span
        assert [w["code"] for w in tiled.provenance["Warnings"]] == ["tiles"]

    def test_bfloat16_is_near_float32(self, restorer: Bundle, thick: Volume) -> None:
        exact = _run(thick, restorer)
        rounded = _run(thick, restorer, precision="bfloat16")
        assert rounded.provenance["Precision"] == "bfloat16"
        span = exact.volume.data.max() - exact.volume.data.min()
        difference = np.abs(rounded.volume.data - exact.volume.data).max()
        assert 0 < difference < 0.02 * span
        assert rounded.quality["measurement_residual_relative"] < 1e-5  # the projection stays float32


class TestSamples:
    def test_uncertainty_is_the_spread_of_the_samples(self, restorer: Bundle, thick: Volume) -> None:
        result = _run(thick, restorer, preset="best", uncertainty=True)
        assert result.uncertainty is not None
        assert result.uncertainty.grid.is_close(result.volume.grid)
        assert result.uncertainty.data.min() >= 0
        assert result.quality["mean_uncertainty"] > 0

    def test_a_one_step_result_borrows_its_spread_from_a_short_sampling(self, restorer: Bundle, thick: Volume) -> None:
        plain = _run(thick, restorer)
        result = _run(thick, restorer, uncertainty=True)
        assert np.array_equal(plain.volume.data, result.volume.data)
        assert result.uncertainty is not None
        assert result.provenance["Uncertainty"]["samples"] > 1

    def test_steps_and_samples_can_be_given(self, restorer: Bundle, thick: Volume) -> None:
        sampling = _run(thick, restorer, steps=2, samples=2).provenance["Sampling"]
        assert (sampling["steps"], sampling["samples"]) == (2, 2)


class TestConditions:
    def _pair(self, make_volume: Callable[..., Volume]) -> dict[str, Volume]:
        t1 = make_volume((14, 17, 12), (1.0, 1.0, 1.0), seed=1)
        return {"t1": t1, "t2": make_volume((14, 17, 12), (1.0, 1.0, 1.0), seed=2)}

    def test_an_optional_condition_may_be_missing(self, translator: Bundle, make_volume: Callable[..., Volume]) -> None:
        pair = self._pair(make_volume)
        both = _run(pair, translator).volume.data
        alone = _run({"t1": pair["t1"]}, translator).volume.data
        assert np.isfinite(alone).all()
        assert not np.allclose(both, alone)

    def test_a_condition_on_another_grid_is_resampled(
        self, translator: Bundle, make_volume: Callable[..., Volume]
    ) -> None:
        pair = self._pair(make_volume)
        expected = _run(pair, translator).volume.data
        pair["t2"], _ = pair["t2"].canonical()
        turned = pair["t2"]
        flipped = Volume(
            np.ascontiguousarray(turned.data[:, ::-1]),
            turned.affine @ np.array([[-1, 0, 0, 13], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
        )
        again = _run({"t1": pair["t1"], "t2": flipped}, translator).volume.data
        np.testing.assert_allclose(again, expected, atol=0.5)  # of 1000

    def test_grids_that_do_not_overlap_are_refused(
        self, translator: Bundle, make_volume: Callable[..., Volume]
    ) -> None:
        pair = self._pair(make_volume)
        away = pair["t2"].affine.copy()
        away[0, 3] += 500
        inputs = {"t1": pair["t1"], "t2": Volume(pair["t2"].data, away, source="t2.nii.gz")}
        with pytest.raises(GeometryError, match="covers only 0%.*register"):
            _run(inputs, translator, register=False)

    def test_unknown_and_missing_names(self, translator: Bundle, thick: Volume) -> None:
        with pytest.raises(RequestError, match=r"no input 'pd'; its inputs are t1, t2"):
            _run({"t1": thick, "pd": thick}, translator)
        with pytest.raises(RequestError, match=r"needs the input t1"):
            _run({"t2": thick}, translator)


class TestRefusals:
    def test_already_fine_enough(self, restorer: Bundle, make_volume: Callable[..., Volume]) -> None:
        with pytest.raises(RequestError, match="already has voxels of 1 x 1 x 1 mm.*spacing=0.5"):
            _run(make_volume((12, 14, 10), (1.0, 1.0, 1.0)), restorer)

    def test_unknown_preset_rule_and_axis(self, restorer: Bundle, thick: Volume) -> None:
        with pytest.raises(RequestError, match="choose one of fast, balanced, best"):
            _run(thick, restorer, preset="turbo")
        with pytest.raises(RequestError, match="Unknown fusion rule 'median'"):
            _run(thick, restorer, rule="median")
        with pytest.raises(RequestError, match="axis must be i, j or k"):
            _run(thick, restorer, axis="x")

    def test_spacing_for_a_translation_model(self, translator: Bundle, thick: Volume) -> None:
        with pytest.raises(RequestError, match="keeps the grid of its input"):
            _run({"t1": thick}, translator, spacing=1.0)

    def test_weights_that_do_not_fit_the_metadata(self, restorer: Bundle, tmp_path: Path) -> None:
        metadata = json.loads(json.dumps(restorer.metadata))
        metadata["scorefusion"]["networks"]["planes"][0]["config"]["channels"] = [4, 8]
        files = {name: restorer.load_state_dict(name) for name in restorer.section["files"]}
        broken = write_bundle(tmp_path / "broken", metadata, files, "card", "licence")
        with pytest.raises(BundleError, match="do not fit the network"):
            load_model(broken)

    def test_a_network_that_this_version_does_not_know(self, restorer: Bundle, tmp_path: Path) -> None:
        metadata = json.loads(json.dumps(restorer.metadata))
        metadata["scorefusion"]["networks"]["planes"][0]["config"]["mamba_blocks"] = 3
        files = {name: restorer.load_state_dict(name) for name in restorer.section["files"]}
        with pytest.raises(BundleError, match=r"planes\[0\].config cannot be used with 'mamba_blocks'"):
            load_model(write_bundle(tmp_path / "newer", metadata, files, "card", "licence"))

    def test_cancelling_ends_the_run(self, restorer: Bundle, thick: Volume) -> None:
        calls = []

        def cancelled() -> bool:
            calls.append(1)
            return len(calls) > 3

        with pytest.raises(Cancelled):
            _run(thick, restorer, preset="best", cancelled=cancelled)


class TestEventsAndProvenance:
    def test_progress_rises_to_the_total(self, restorer: Bundle, thick: Volume) -> None:
        events: list[dict[str, Any]] = []
        _run(thick, restorer, preset="best", on_event=events.append)
        progress = [event for event in events if event["event"] == "progress"]
        done = [event["done"] for event in progress]
        assert done == sorted(done)
        assert done[-1] == progress[-1]["total"] == 6

    def test_provenance_is_json_and_names_what_matters(self, restorer: Bundle, thick: Volume) -> None:
        record = json.loads(json.dumps(_run(thick, restorer, seed=5).provenance))
        assert record["Synthetic"] is True
        assert record["Model"] == {
            "Id": "tiny-sr", "Version": restorer.version, "Sha256": restorer.hash, "Licence": "Apache-2.0"
        }  # fmt: skip
        assert record["Seed"] == 5
        assert record["Rule"] == "ScoreFusion"
        assert len(record["Sources"]["image"]["Sha256"]) == 64

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda v: Volume(v.data, v.affine @ np.diag([0.4, 1, 1, 1])), "outside-domain-spacing"),
            (lambda v: Volume(v.data, v.affine @ np.diag([1, 2.5, 1, 1])), "outside-domain-factor"),
            (lambda v: Volume(v.data * 4 - 1024, v.affine), "outside-domain-modality"),
            (lambda v: Volume(v.data, v.affine @ np.diag([0.4, 1, 1, 1])), "outside-domain-extent"),
        ],
    )
    def test_outside_the_domain_is_warned_of_and_recorded(
        self, restorer: Bundle, thick: Volume, change: Callable[[Volume], Volume], code: str
    ) -> None:
        events: list[dict[str, Any]] = []
        result = _run(change(thick), restorer, on_event=events.append)
        assert code in [event["code"] for event in events if event["event"] == "warning"]
        assert code in [warning["code"] for warning in result.provenance["Warnings"]]

    @pytest.mark.parametrize(("edge_mm", "warned"), [(130.0, False), (145.0, True)])
    def test_a_whole_head_is_warned_of_by_models_of_brains(self, edge_mm: float, warned: bool) -> None:
        """2.2 litres can be a brain, 3.0 litres cannot."""
        data = np.zeros((1, 60, 60, 60), np.float32)
        data[:, 5:55, 5:55, 5:55] = np.random.default_rng(0).uniform(50, 100, (50, 50, 50))
        volume = Volume(data, np.diag([edge_mm / 50] * 3 + [1.0]))
        section = {"domain": {"skull_stripped": True}}
        condition = {"name": "t1", "contrasts": ["t1"]}
        assert ("skull" in dict(check_domain(section, volume, condition))) is warned
        assert "skull" not in dict(check_domain({}, volume, condition))


class TestClinicalGrids:
    SECTION: dict[str, Any] = {
        "spacing_mm": [1.0, 1.0, 1.0],
        "domain": {"spacing_mm": [0.4, 1.3], "factor": [1.25, 10.0], "extent_mm": [90.0, 300.0]},
    }

    def _warned(self, volume: Volume, spacing: Any = None, **domain: Any) -> dict[str, str]:
        section = {**self.SECTION, "domain": {**self.SECTION["domain"], **domain}}
        condition = {"name": "image", "contrasts": []}
        return dict(check_domain(section, volume, condition, understand(volume, section, spacing)))

    def test_fine_voxels_in_plane_stay_and_slices_become_as_fine_as_the_model_makes_them(
        self, make_volume: Callable[..., Volume]
    ) -> None:
        understood = understand(make_volume((200, 220, 30), (0.5, 0.5, 4.0)), self.SECTION)
        np.testing.assert_allclose(understood.target.spacing, (0.5, 0.5, 1.0))
        assert understood.target.spatial_shape == (200, 220, 120)

    @pytest.mark.parametrize("across", [0, 1, 2])
    def test_slices_become_as_fine_as_the_voxels_in_plane_if_asked(
        self, make_volume: Callable[..., Volume], across: int
    ) -> None:
        spacing, shape = np.insert([0.6, 0.6], across, 3.0), np.insert([200, 220], across, 30)
        understood = understand(make_volume(tuple(shape), tuple(spacing)), self.SECTION, "in-plane")
        np.testing.assert_allclose(understood.target.spacing, (0.6, 0.6, 0.6))
        assert understood.target.spatial_shape == tuple(np.insert([200, 220], across, 150))

    def test_a_scan_without_thick_slices_has_no_slices_to_refine(self, make_volume: Callable[..., Volume]) -> None:
        with pytest.raises(RequestError, match="no slices that are thicker"):
            understand(make_volume((12, 14, 16), (4.0, 4.0, 4.0)), self.SECTION, "in-plane")

    def test_each_axis_of_the_result_is_held_against_the_domain(self, make_volume: Callable[..., Volume]) -> None:
        fine, coarse = ((300, 300, 40), (0.35, 0.5, 3.0)), ((200, 200, 40), (0.5, 0.5, 3.0))
        told = self._warned(make_volume(*fine))["spacing"]
        assert told.endswith(f"and {axis_names(make_volume(*fine).grid)[0]} is outside.")
        assert "spacing" not in self._warned(make_volume(*coarse))
        assert "spacing" not in self._warned(make_volume(*coarse), "in-plane")
        assert "spacing" in self._warned(make_volume(*coarse), spacing_mm=[0.85, 1.3])

    @pytest.mark.parametrize("name", ["openmsL_04/FLAIR", "openmsL_04/T2w", "ds011_01/T2w"])
    def test_real_exams_are_inside_the_domain_of_a_model_for_clinical_grids(self, data_folder: Path, name: str) -> None:
        path = data_folder.parent / "more" / "multi_raw" / f"{name}.nii.gz"
        if not path.is_file():
            pytest.skip(f"{path} is not here")
        scan = read_volume(path)
        assert self._warned(scan) == {}
        target = understand(scan, self.SECTION).target
        assert max(target.spacing) < 1.01
        assert target.spacing[0] == pytest.approx(min(1.0, scan.spacing[0]), abs=0.01)


class TestRules:
    @pytest.mark.parametrize("rule", ["fusion", "average", "alternating", "axial", "coronal", "sagittal"])
    def test_every_rule_respects_the_measurement(self, restorer: Bundle, thick: Volume, rule: str) -> None:
        result = _run(thick, restorer, rule=rule, steps=2)
        assert result.quality["measurement_residual_relative"] < 1e-5

    def test_a_grid_is_not_needed_to_be_a_multiple_of_anything(
        self, restorer: Bundle, make_volume: Callable[..., Volume]
    ) -> None:
        result = _run(make_volume((11, 9, 5), (1.0, 1.0, 3.0)), restorer)
        assert result.volume.spatial_shape == (11, 9, 15)
        assert isinstance(result.volume.grid, Grid)


class TestMagnitude:
    def test_outside_a_stripped_brain_there_is_nothing(self, translator: Bundle) -> None:
        data = np.zeros((1, 24, 24, 24), np.float32)
        data[:, 6:18, 6:18, 6:18] = np.random.default_rng(0).uniform(100, 900, (12, 12, 12))
        stripped = _run({"t1": Volume(data, np.eye(4))}, translator).volume.data
        low = translator.section["target"]["range"][0]
        assert (stripped[data == 0] == low).all()
        assert stripped[data > 0].std() > 0
        assert stripped.min() >= low
        noisy = Volume(data + np.random.default_rng(1).uniform(0, 30, data.shape).astype(np.float32), np.eye(4))
        result = _run({"t1": noisy}, translator).volume.data
        assert (result[data == 0] > low).any()
        assert result.min() >= low


class TestTwoConditions:
    """Plane networks of one condition each, fused: the common base is the first condition, the others are shifted."""

    @pytest.fixture
    def pair(self, make_volume: Callable[..., Volume]) -> dict[str, Volume]:
        return {name: make_volume((14, 17, 12), (1.0, 1.0, 1.0), seed=seed) for seed, name in enumerate(("t1", "t2"))}

    def test_each_network_sees_its_condition(self, separate: Bundle) -> None:
        members = load_model(separate).ensemble.members
        assert [(m.network, m.conditions) for m in members] == [(n, (n // 3,)) for n in range(6)]

    @pytest.mark.parametrize("given", [("t1", "t2"), ("t1",)], ids=["both", "second missing"])
    def test_weights_sum_to_one_end_to_end(
        self, separate: Bundle, pair: dict[str, Volume], given: Sequence[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[torch.Tensor] = []
        original = ScoreFusion.weights_and_correction

        def watched(self: ScoreFusion, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
            weights, correction = original(self, *arguments)
            seen.append(1 / weights.shape[1] + weights)
            return weights, correction

        monkeypatch.setattr(ScoreFusion, "weights_and_correction", watched)
        events: list[dict[str, Any]] = []
        result = _run({name: pair[name] for name in given}, separate, preset="balanced", on_event=events.append)
        assert result.volume.grid.is_close(pair["t1"].grid)
        assert np.isfinite(result.volume.data).all()
        assert len(seen) == 3
        for weights in seen:
            assert weights.shape[1] == 3 * len(given)
            assert (weights - 1 / weights.shape[1]).abs().max() > 1e-3
            assert torch.allclose(weights.sum(dim=1), torch.ones(()), atol=1e-5)
        messages = [event["message"] for event in events if event["event"] == "log"]
        assert any("'t2' is missing" in message for message in messages) == (len(given) == 1)

    def test_without_the_second_its_networks_and_its_voxels_do_not_matter(
        self, separate: Bundle, pair: dict[str, Volume], tmp_path: Path
    ) -> None:
        """The fusion network sees a missing condition as background, its networks as agreeing with the others."""
        alone = _run({"t1": pair["t1"]}, separate).volume.data
        states = {name: separate.load_state_dict(name) for name in separate.network_files}
        for number in (3, 4, 5):
            for tensor in states[f"models/plane{number}.safetensors"].values():
                tensor += 0.1
        changed = write_bundle(tmp_path / "changed", separate.metadata, states, "card", "licence")
        assert np.array_equal(_run({"t1": pair["t1"]}, changed).volume.data, alone)
        assert not np.allclose(_run(pair, changed).volume.data, _run(pair, separate).volume.data)

    @pytest.mark.parametrize("rule", ["average", "alternating", "coronal", "average:axial+coronal", "fusion-scores"])
    def test_every_rule_works_with_one_and_with_both(
        self, separate: Bundle, pair: dict[str, Volume], rule: str
    ) -> None:
        both = _run(pair, separate, rule=rule, steps=2)
        alone = _run({"t1": pair["t1"]}, separate, rule=rule, steps=2)
        assert both.provenance["RuleAsked"] == rule
        assert np.isfinite(alone.volume.data).all()
        assert np.isfinite(both.volume.data).all()

    def test_progress_counts_the_networks_that_speak(self, separate: Bundle, pair: dict[str, Volume]) -> None:
        for given in (pair, {"t1": pair["t1"]}):
            events: list[dict[str, Any]] = []
            _run(given, separate, rule="average", on_event=events.append)
            done = [event["done"] for event in events if event["event"] == "progress"]
            assert done[-1] == 1
            assert max(part for part in done if part < 1) > 0.9  # the last network reports just before the end


class TestVolumeAlone:
    """Bundles with a 3D network and no planes."""

    def _bundle(self, folder: Path, kind: VolumeKind, task: str = "super_resolution") -> Bundle:
        names = ["image"] if task == "super_resolution" else ["t1", "t2"]
        inputs = InputLayout(
            0, True, True, False, task == "super_resolution", 0 if len(names) == 1 else 2, 4.0, "clean"
        )
        return write_tiny_bundle(folder, tiny_volume(inputs, kind, len(names), std=0.08), names, task)

    @pytest.mark.parametrize(
        ("kind", "preset"),
        [("diffusion", "fast"), ("diffusion", "balanced"), ("diffusion", "best"), ("regression", "fast")],
    )
    def test_super_resolution_returns_the_measurement(
        self, tmp_path: Path, thick: Volume, kind: VolumeKind, preset: str
    ) -> None:
        events: list[dict[str, Any]] = []
        result = _run(thick, self._bundle(tmp_path / "alone", kind), preset=preset, on_event=events.append)
        assert result.volume.spatial_shape == (16, 28, 18)
        assert result.quality["measurement_residual_relative"] < 1e-5
        assert result.provenance["Rule"] == "VolumeOnly"
        progress = [event for event in events if event["event"] == "progress"]
        assert progress[-1]["done"] == progress[-1]["total"] > 0

    @pytest.mark.parametrize("kind", ["diffusion", "regression"])
    def test_translation_with_and_without_the_optional_condition(
        self, tmp_path: Path, make_volume: Callable[..., Volume], kind: VolumeKind
    ) -> None:
        bundle = self._bundle(tmp_path / "alone", kind, "translation")
        t1, t2 = (make_volume((14, 17, 12), (1.0, 1.0, 1.0), seed=seed) for seed in (1, 2))
        both, alone = _run({"t1": t1, "t2": t2}, bundle), _run({"t1": t1}, bundle)
        assert both.volume.grid.is_close(t1.grid)
        assert np.isfinite(alone.volume.data).all()
        assert not np.allclose(both.volume.data, alone.volume.data)

    def test_a_regression_does_not_depend_on_the_seed(self, tmp_path: Path, thick: Volume) -> None:
        regression = self._bundle(tmp_path / "regression", "regression")
        diffusion = self._bundle(tmp_path / "diffusion", "diffusion")
        one, other = (_run(thick, regression, seed=seed).volume.data for seed in (0, 1))
        assert np.array_equal(one, other)
        one, other = (_run(thick, diffusion, seed=seed).volume.data for seed in (0, 1))
        assert not np.allclose(one, other)

    @pytest.mark.parametrize("more", [{"uncertainty": True}, {"steps": 4}, {"samples": 2}])
    def test_a_regression_has_one_answer_and_says_so(self, tmp_path: Path, thick: Volume, more: dict[str, Any]) -> None:
        with pytest.raises(RequestError, match="is a regression: it has one answer.*choose a diffusion model"):
            _run(thick, self._bundle(tmp_path / "alone", "regression"), **more)

    def test_tiled_equals_whole(self, tmp_path: Path, make_volume: Callable[..., Volume]) -> None:
        volume, bundle = make_volume((10, 24, 14), (1.0, 4.0, 1.0)), self._bundle(tmp_path / "alone", "diffusion")
        whole, tiled = _run(volume, bundle), _run(volume, bundle, tile=16)
        span = whole.volume.data.max() - whole.volume.data.min()
        assert np.abs(tiled.volume.data - whole.volume.data).max() < 1e-3 * span
        assert [w["code"] for w in tiled.provenance["Warnings"]] == ["tiles"]

    @pytest.mark.parametrize("rule", ["fusion", "average", "alternating", "axial", "average:axial+coronal"])
    def test_rules_of_planes_are_refused(self, tmp_path: Path, thick: Volume, rule: str) -> None:
        bundle = self._bundle(tmp_path / "alone", "diffusion")
        with pytest.raises(RequestError, match="it is a 3D network alone, without plane networks. Use rule 'volume'"):
            _run(thick, bundle, rule=rule)
        assert _run(thick, bundle, rule="volume").provenance["RuleAsked"] == "volume"
