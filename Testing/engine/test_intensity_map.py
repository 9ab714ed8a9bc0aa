"""The base of a translation: what the brightness of one contrast, or of several, says of another."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_models import tiny_ensemble, tiny_metadata, tiny_states, write_tiny_bundle

from scorefusion.bundle.write import write_bundle
from scorefusion.errors import BundleError, RequestError
from scorefusion.fusion.inputs import InputLayout, ModelInputs
from scorefusion.fusion.rules import PlaneAverage
from scorefusion.imaging.foreground import foreground_mask
from scorefusion.imaging.intensity import fit_intensity_scale
from scorefusion.imaging.intensity_map import IntensityMap, IntensityMaps, clear_background, read_maps
from scorefusion.pipeline import translate
from scorefusion.run.prepare import as_magnitude
from scorefusion.training.maps import find_maps
from scorefusion.training.networks import make_ensemble, warm_start
from scorefusion.training.recipe import parse_recipe
from scorefusion.training.volumes import TrainingVolume

BENT = IntensityMap((0.9, 0.8, 0.3, -0.2, -0.5))


class TestCurve:
    def test_agrees_with_numpy_and_holds_beyond_the_ends(self):
        x = torch.linspace(-1.7, 1.9, 501)
        expected = np.interp(x.numpy(), np.linspace(-1, 1, 5), BENT.values)
        expected[x.numpy() <= -0.99] = -1.0  # background
        np.testing.assert_allclose(BENT(x).numpy(), expected, atol=1e-6)
        assert BENT(torch.zeros(2, 1, 3, 4, 5)).shape == (2, 1, 3, 4, 5)

    def test_fit_finds_a_curve_through_noise(self):
        rng = torch.Generator().manual_seed(0)
        x = torch.rand(40_000, generator=rng) * 1.98 - 0.98
        y = BENT(x) + 0.1 * torch.randn(40_000, generator=rng)
        found = IntensityMap.fit([([x], y)], knots=5)
        np.testing.assert_allclose(found.values, BENT.values, atol=0.02)

    def test_every_person_counts_the_same_however_many_voxels(self):
        few, many = torch.full((10,), 0.5), torch.full((10_000,), 0.5)
        found = IntensityMap.fit([([few], few * 0), ([many], many * 0 + 1)], knots=5)
        assert float(found(torch.tensor(0.5))) == pytest.approx(0.5, abs=0.01)

    def test_brightness_never_seen_follows_its_neighbours(self):
        x = torch.linspace(-0.2, 0.4, 1000)
        found = IntensityMap.fit([([x], 0.5 * x)])
        assert float(found(torch.tensor(1.0))) == pytest.approx(0.5, abs=0.1)
        assert np.isfinite(found.values).all()


class TestSurface:
    """A map of two conditions."""

    def test_agrees_with_interpolation_one_axis_after_the_other(self):
        rng = np.random.default_rng(0)
        table = rng.random((4, 4))
        x, y = rng.uniform(-0.98, 1.3, 200), rng.uniform(-1.2, 1.3, 200)
        knots = np.linspace(-1, 1, 4)
        rows = [[np.interp(b, knots, row) for row in table] for b in y]
        expected = [np.interp(a, knots, row) for a, row in zip(x, rows, strict=True)]
        surface = IntensityMap(tuple(table.ravel()), 2)
        found = surface(torch.from_numpy(x), torch.from_numpy(y))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
        assert float(surface(torch.tensor(-1.0), torch.tensor(0.3))) == -1.0  # background of the first
        assert float(surface(torch.tensor(0.3), torch.tensor(-1.0))) != -1.0

    def test_fit_finds_what_no_two_curves_can_say(self):
        rng = torch.Generator().manual_seed(0)
        x, y = (torch.rand(60_000, generator=rng) * 1.98 - 0.98 for _ in range(2))
        told = 0.8 * x * y + 0.1 * torch.randn(60_000, generator=rng)
        found = IntensityMap.fit([([x, y], told)])
        assert (found.conditions, found.knots) == (2, 17)
        asked = torch.tensor([-0.7, 0.6, 0.5]), torch.tensor([0.7, 0.6, -0.4])
        torch.testing.assert_close(found(*asked), 0.8 * asked[0] * asked[1], atol=0.03, rtol=0)

    def test_combinations_never_seen_stay_in_the_range_of_the_target(self):
        x = torch.linspace(-0.98, 1.0, 5000)
        found = IntensityMap.fit([([x, -x], 0.9 * x)])  # only one diagonal of the plane
        assert -0.9 <= min(found.values)
        assert max(found.values) <= 0.9
        assert float(found(torch.tensor(0.5), torch.tensor(-0.5))) == pytest.approx(0.45, abs=0.03)

    def test_three_conditions(self):
        rng = torch.Generator().manual_seed(0)
        x = [torch.rand(40_000, generator=rng) * 1.98 - 0.98 for _ in range(3)]
        found = IntensityMap.fit([(x, 0.3 * (x[0] - x[1] + x[2]))])
        asked = [torch.tensor(0.5), torch.tensor(-0.25), torch.tensor(0.1)]
        assert float(found(*asked)) == pytest.approx(0.255, abs=0.01)

    def test_a_table_that_is_no_table_is_refused(self):
        with pytest.raises(ValueError, match="map of 2 conditions cannot have 5 values"):
            IntensityMap((0.0,) * 5, 2)
        with pytest.raises(ValueError, match="fitted to"):
            IntensityMap.fit([])


class TestBackground:
    def test_fluid_as_dark_as_background_belongs_to_the_head(self):
        head = torch.full((20, 22, 24), -1.0)
        head[4:16, 4:18, 4:20] = 0.3
        head[8:12, 9:13, 10:14] = -1.0
        cleared = clear_background(head)
        assert (cleared[8:12, 9:13, 10:14] == -0.98).all()
        assert (cleared[0] == -1).all()
        assert (cleared[4:8, 4:18, 4:20] == 0.3).all()
        assert float(BENT(cleared)[10, 10, 11]) == pytest.approx(0.9, abs=0.01)

    def test_air_of_a_whole_head_becomes_background(self, make_volume):
        noisy = torch.full((24, 24, 24), -0.97) + 0.01 * torch.rand(24, 24, 24)
        noisy[6:18, 6:18, 6:18] = torch.rand(12, 12, 12)
        cleared = clear_background(noisy)
        assert (cleared[0] == -1).all()
        assert (cleared[8:16, 8:16, 8:16] >= 0).all()

    def test_a_slice(self):
        head = torch.full((20, 1, 24), -1.0)
        head[4:16, :, 4:20] = 0.3
        head[8:12, :, 10:14] = -1.0
        cleared = clear_background(head)
        assert (cleared[8:12, :, 10:14] == -0.98).all()
        assert (cleared[0] == -1).all()

    def test_a_new_contrast_is_empty_around_the_head_only(self):
        base = torch.full((1, 1, 20, 22, 24), -1.0)
        base[..., 4:16, 4:18, 4:20] = 0.3
        base[..., 8:12, 9:13, 10:14] = -1.0  # a ventricle, dark in T1w
        made = as_magnitude(torch.full_like(base, 0.7), base)
        assert (made[..., 4:16, 4:18, 4:20] == 0.7).all()
        assert (made[0, 0, 0] == -1).all()


def shown(volume):
    """`(I, J, K)` a scan as the networks of a mapped base see it."""
    return clear_background(torch.from_numpy(fit_intensity_scale(volume.data).normalise(volume.data[0])))


class TestBase:
    def test_inputs_map_the_first_condition_that_is_there(self):
        conditions = torch.rand(1, 2, 4, 4, 4) * 2 - 1
        maps = IntensityMaps((BENT, IntensityMap((-1.0, 1.0))))
        both = ModelInputs(conditions, maps=maps)
        assert torch.equal(both.base, BENT(conditions[:, :1]))
        alone = ModelInputs(conditions, present=(False, True), maps=maps)
        torch.testing.assert_close(alone.base, conditions[:, 1:], atol=0.011, rtol=0)  # background
        assert torch.equal(ModelInputs(conditions).base, conditions[:, :1])

    @pytest.mark.parametrize("groups", [((0,),), ((0,), (1,))])
    def test_networks_that_say_nothing_give_the_mapped_condition(self, tmp_path, groups, make_volume):
        layout = InputLayout(slab_radius=1, plane_context=True, residual_gain=4.0, prediction="clean")
        ensemble = tiny_ensemble(layout, groups=groups, std=0.0)
        names = ["t1", "t2"][: len(groups)]
        keys = {"base": "mapped_condition", "base_curves": [list(BENT.values)] * len(groups)}
        bundle = write_tiny_bundle(tmp_path / "b", PlaneAverage(ensemble), names, "translation", **keys)
        scans = {name: make_volume((24, 20, 22), seed=3 + number) for number, name in enumerate(names)}
        result = translate(scans, model=str(bundle.folder), device="cpu")
        normalised = torch.from_numpy(result.volume.data[0] / 500.0 - 1.0)
        sources = [shown(scan) for scan in scans.values()]
        inside = torch.stack(sources).amin(dim=0) > -0.99
        assert inside.any()
        expected = torch.stack([BENT(source) for source in sources]).mean(
            dim=0
        )  # each from its own, without a joint map
        torch.testing.assert_close(normalised[inside], expected[inside], atol=2e-3, rtol=0)

    def test_a_bundles_medians_are_those_of_its_inputs(self, tmp_path, make_volume):
        """An untrained model of one condition returns it as it was normalised."""
        layout = InputLayout(slab_radius=1, plane_context=True, residual_gain=4.0, prediction="clean")
        metadata = tiny_metadata(PlaneAverage(tiny_ensemble(layout)), ["t1"], "translation")
        conditions = [{**metadata["scorefusion"]["conditions"][0], "median": 0.3}]
        ensemble = tiny_ensemble(layout, std=0.0)
        bundle = write_tiny_bundle(tmp_path / "b", PlaneAverage(ensemble), ["t1"], "translation", conditions=conditions)
        t1 = make_volume((24, 20, 22), seed=3)
        result = translate(t1, model=str(bundle.folder), device="cpu").volume
        seen = foreground_mask(t1.data)
        assert np.median(result.data[0][seen]) == pytest.approx(650.0, abs=2.0)
        with pytest.raises(BundleError, match="median"):
            write_tiny_bundle(
                tmp_path / "c", PlaneAverage(ensemble), ["t1"], "translation",
                conditions=[{**conditions[0], "median": 1.5}],
            )  # fmt: skip

    def test_several_conditions_together_say_more(self):
        conditions = torch.rand(1, 2, 4, 4, 4) * 1.9 - 0.9
        surface = IntensityMap(tuple(np.linspace(-1, 1, 9) ** 3), 2)
        maps = IntensityMaps((BENT, BENT), surface)
        both = ModelInputs(conditions, maps=maps)
        assert torch.equal(both.base, surface(conditions[:, :1], conditions[:, 1:]))
        assert both.joined
        assert torch.equal(both.base_of(1), BENT(conditions[:, 1:]))
        alone = ModelInputs(conditions, present=(True, False), maps=maps)
        assert torch.equal(alone.base, BENT(conditions[:, :1]))
        assert not alone.joined
        for found in (read_maps(maps.section), read_maps(json.loads(json.dumps(maps.section)))):
            assert found == maps

    @pytest.mark.parametrize("joined", [True, False])
    def test_networks_of_one_condition_add_to_what_all_say_or_start_from_their_own_curve(
        self, tmp_path, make_volume, joined
    ):
        """Without a joint map the plane average of silent networks is the mean of what each starts from."""
        layout = InputLayout(slab_radius=1, plane_context=True, residual_gain=4.0, prediction="clean")
        ensemble = tiny_ensemble(layout, groups=((0,), (1,)), std=0.0)
        other = IntensityMap((-0.5, 0.1, 0.2, 0.6))
        joint = IntensityMap((0.0, 0.4, 0.2, 0.5), 2)
        maps = IntensityMaps((BENT, other), joint if joined else None)
        keys = {"base": "mapped_condition", **maps.section}
        bundle = write_tiny_bundle(tmp_path / "b", PlaneAverage(ensemble), ["t1", "t2"], "translation", **keys)
        t1, t2 = (make_volume((24, 20, 22), seed=seed) for seed in (3, 4))
        result = translate({"t1": t1, "t2": t2}, model=str(bundle.folder), device="cpu")
        first, second = shown(t1), shown(t2)
        inside = torch.minimum(first, second) > -0.99
        expected = joint(first, second) if joined else 0.5 * (BENT(first) + other(second))
        normalised = torch.from_numpy(result.volume.data[0] / 500.0 - 1.0)
        torch.testing.assert_close(normalised[inside], expected[inside], atol=2e-3, rtol=0)

    @pytest.mark.parametrize("joint", [[0.0] * 3, [0.0] * 2, [0.0, "x", 0.0, 0.0], 3])
    def test_metadata_with_a_broken_joint_map_is_refused(self, tmp_path, joint):
        rule = PlaneAverage(tiny_ensemble(groups=((0,), (1,))))
        keys = {"base": "mapped_condition", "base_curves": [[-1.0, 1.0]] * 2, "base_joint": joint}
        metadata = tiny_metadata(rule, ["t1", "t2"], "translation", **keys)
        with pytest.raises(BundleError, match="base_joint"):
            write_bundle(tmp_path / "b", metadata, tiny_states(rule), "# t\n", "x\n")

    def test_metadata_without_curves_is_refused(self, tmp_path):
        rule = PlaneAverage(tiny_ensemble(groups=((0,),)))
        for curves in ({}, {"base_curves": [[-1.0]]}, {"base_curves": [[-1.0, "x"]]}, {"base_curves": []}):
            metadata = tiny_metadata(rule, ["t1"], "translation", base="mapped_condition", **curves)
            with pytest.raises(BundleError, match="base_curves"):
                write_bundle(tmp_path / "b", metadata, tiny_states(rule), "# t\n", "x\n")
        assert read_maps({"base": "condition"}) is None


RECIPE = {
    "name": "tiny-mapped",
    "task": "translation",
    "conditions": [{"name": "t1", "contrasts": ["t1"]}],
    "target": {"name": "t2", "contrasts": ["t2"]},
    "networks": {"plane": {"channels": [8, 12], "embedding_size": 16}, "slab_radius": 1, "base": "mapped_condition"},
    "stages": {"planes": {"steps": 1}},
}


class TestTraining:
    @staticmethod
    def scan(subject, condition=True):
        x = torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(len(subject))) * 2 - 1
        x[:, :4] = -1.0
        known = x if condition else torch.full_like(x, -1.0)
        return TrainingVolume(subject, subject, ("t1", "t2"), torch.cat([known, BENT(x)]).half().numpy())

    def test_curves_are_fitted_once_and_kept(self, tmp_path):
        path = tmp_path / "run" / "maps.json"
        first = find_maps(path, [self.scan("a"), self.scan("bb")], ["t1"], self._no_head)
        asked, told = torch.tensor([-0.5, 0.0, 0.5]), torch.tensor([0.8, 0.3, -0.2])
        torch.testing.assert_close(first.single[0](asked), told, atol=0.08, rtol=0)
        again = find_maps(path, [], ["t1"], self._no_head)
        assert again == first
        assert json.loads(path.read_text()) == {"base_curves": [list(first.single[0].values)]}

    def test_two_conditions_have_a_joint_map_of_those_who_have_both(self, tmp_path):
        def person(name, second):
            one = self.scan(name)
            other = one.data[:1] if second else np.full_like(one.data[:1], -1.0)
            return TrainingVolume(name, name, ("t1", "pd", "t2"), np.concatenate([one.data[:1], other, one.data[1:]]))

        path = tmp_path / "maps.json"
        maps = find_maps(path, [person("a", True), person("bb", False)], ["t1", "pd"], self._no_head)
        assert maps.joint is not None
        asked = torch.tensor([0.0, 0.5])
        torch.testing.assert_close(maps.joint(asked, asked), torch.tensor([0.3, -0.2]), atol=0.08, rtol=0)
        assert find_maps(path, [], ["t1", "pd"], self._no_head) == maps

    def test_synthetic_heads_where_there_is_no_scan(self, tmp_path):
        def head(number):
            return torch.from_numpy(self.scan("a" * (number + 1)).data).float()

        maps = find_maps(tmp_path / "maps.json", [], ["t1"], head)
        assert float(maps.single[0](torch.tensor(0.0))) == pytest.approx(0.3, abs=0.08)

    def test_a_condition_that_nobody_has(self, tmp_path):
        with pytest.raises(RequestError, match="no training scan has the condition 't1'"):
            find_maps(tmp_path / "maps.json", [self.scan("a", condition=False)], ["t1"], self._no_head)
        assert not (tmp_path / "maps.json").exists()

    def test_last_layers_of_a_model_with_another_base_are_not_taken(self, tmp_path):
        content = {**RECIPE, "networks": {**RECIPE["networks"], "base": "condition"}}
        other = make_ensemble(parse_recipe(content, ""))
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        bundle = write_tiny_bundle(tmp_path / "b", PlaneAverage(other), ["t1"], "translation")
        ensemble = make_ensemble(parse_recipe(RECIPE, ""))
        taken = warm_start(ensemble, bundle, "mapped_condition")
        assert taken.left == 2  # weight and bias
        head, stem = ensemble.plane_networks[0].head, ensemble.plane_networks[0].stem
        assert not head.weight.any()
        torch.testing.assert_close(stem.weight, other.plane_networks[0].stem.weight, atol=1e-3, rtol=1e-3)
        assert warm_start(make_ensemble(parse_recipe(content, "")), bundle, "condition").left == 0

    @staticmethod
    def _no_head(number):
        raise AssertionError
