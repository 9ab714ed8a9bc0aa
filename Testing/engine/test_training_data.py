"""From files to training samples: what is read, cut, measured; and that everything follows from numbers."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch

from scorefusion.datasets.datalist import read_datalist
from scorefusion.errors import RequestError, VolumeError
from scorefusion.fusion.planes import Plane, position_channels
from scorefusion.training.blocks import BlockSource, Pool, RandScanner, at_median, draw_acquisition
from scorefusion.training.recipe import Augmentation, Scanners, parse_recipe
from scorefusion.training.volumes import TrainingVolume, find_weight, load_volumes

SR = {
    "name": "tiny",
    "task": "super_resolution",
    "conditions": [{"name": "image", "coarse": True}],
    "stages": {"planes": {"steps": 2}},
}
TRANSLATION = {
    "name": "t1-to-flair",
    "task": "translation",
    "conditions": [{"name": "t1", "contrasts": ["t1"]}, {"name": "t2", "contrasts": ["t2"], "optional": True}],
    "target": {"name": "flair", "contrasts": ["flair"]},
    "networks": {"base": "condition", "residual_gain": 2.0},
    "stages": {"planes": {"steps": 2}},
}


def phantom(shape=(40, 44, 36), seed=0, detail=1.0):
    """An ellipsoid with texture on a dark background, scanner units."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(a**2 for a in axes) < 0.7
    return np.where(inside, 600 + 150 * detail * rng.standard_normal(shape), 0).astype(np.float32)


def write(folder, name, data, affine=None):
    folder.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine), folder / name)
    return name


@pytest.fixture
def a_datalist(tmp_path):
    """Two persons with t1, t2 and flair, one with t1 only."""
    cases = []
    for number in range(2):
        contrasts = {key: write(tmp_path, f"p{number}_{key}.nii.gz", phantom(seed=10 * number + n))
                     for n, key in enumerate(("t1", "t2", "flair"))}  # fmt: skip
        cases.append({"subject": f"p{number}", "contrasts": contrasts})
    cases.append({"subject": "p2", "contrasts": {"t1": write(tmp_path, "p2_t1.nii.gz", phantom(seed=99))}})
    path = tmp_path / "list.json"
    path.write_text(__import__("json").dumps({"training": cases}))
    return read_datalist(path)


def a_volume(shape=(40, 44, 36), channels=1, **facts):
    data = torch.rand(channels, *shape, generator=torch.Generator().manual_seed(4)) * 1.6 - 0.8
    return TrainingVolume("a/t1", "a", ("t1",) * channels, data.half().numpy(), **facts)


class TestVolumes:
    def test_super_resolution_takes_every_contrast_as_a_volume(self, a_datalist):
        volumes = load_volumes(parse_recipe(SR, ""), a_datalist.cases("train"))
        assert sorted(v.name for v in volumes) == ["p0/flair", "p0/t1", "p0/t2", "p1/flair", "p1/t1", "p1/t2", "p2/t1"]
        assert all(v.data.shape[0] == 1 for v in volumes)

    def test_translation_takes_persons_with_all_that_it_needs(self, a_datalist):
        volumes = load_volumes(parse_recipe(TRANSLATION, ""), a_datalist.cases("train"))
        assert [v.name for v in volumes] == ["p0/flair", "p1/flair"]
        assert volumes[0].contrasts == ("t1", "t2", "flair")
        assert volumes[0].data.shape[0] == 3

    def test_volumes_are_cropped_and_normalised(self, a_datalist):
        volume = load_volumes(parse_recipe(SR, ""), a_datalist.cases("train"))[0]
        assert volume.data.dtype == np.float16
        assert -1.3 < volume.data.min() <= -0.99  # background
        assert np.percentile(volume.data[volume.data > -0.9], 99.5) == pytest.approx(1.0, abs=0.05)
        assert volume.data.shape[1] <= 40

    def test_a_median_is_brought_to_its_level(self, a_datalist):
        target = {**TRANSLATION["target"], "median": -0.3}
        recipe = parse_recipe({**TRANSLATION, "target": target}, "")
        volume = load_volumes(recipe, a_datalist.cases("train"))[0]
        levels = [float(np.median(channel[channel > -0.99])) for channel in volume.data.astype(np.float32)]
        assert levels[-1] == pytest.approx(-0.3, abs=0.01)
        assert levels[0] > 0
        with pytest.raises(RequestError, match=r"target\.median"):
            parse_recipe({**SR, "target": {"median": 0.2}}, "")

    def test_a_missing_optional_condition_is_background(self, a_datalist):
        recipe = parse_recipe(
            {**TRANSLATION, "conditions": [{"name": "t1", "contrasts": ["t1"]},
                                           {"name": "pd", "contrasts": ["pd"], "optional": True}]}, "")  # fmt: skip
        volume = load_volumes(recipe, a_datalist.cases("train"))[0]
        assert volume.contrasts == ("t1", None, "flair")
        assert (volume.data[1] == -1).all()

    def test_left_out_persons_are_not_read(self, a_datalist):
        recipe = parse_recipe({**SR, "data": {"leave_out": ["p0"]}}, "")
        assert {v.subject for v in load_volumes(recipe, a_datalist.cases("train"))} == {"p1", "p2"}

    def test_another_grid_is_refused_with_a_way_out(self, a_datalist, tmp_path):
        case = a_datalist.cases("train")[0]
        moved = np.eye(4)
        moved[0, 3] = 3.0
        write(tmp_path, case.contrasts["t1"].name, phantom(), moved)
        with pytest.raises(VolumeError, match="not on the grid.*data register"):
            load_volumes(parse_recipe(TRANSLATION, ""), [case])

    def test_a_corrupt_file_stops_or_is_named_and_skipped(self, a_datalist, caplog):
        bad = a_datalist.cases("train")[0].contrasts["t1"]
        bad.write_bytes(b"no image")
        with pytest.raises(VolumeError, match="p0_t1"):
            load_volumes(parse_recipe(SR, ""), a_datalist.cases("train"))
        recipe = parse_recipe({**SR, "data": {"corrupt": "skip"}}, "")
        volumes = load_volumes(recipe, a_datalist.cases("train"))
        assert "p0/t1" not in {v.name for v in volumes}
        assert len(volumes) == 6
        assert "p0/t1 is skipped" in caplog.text
        assert "1 of 7 volumes were skipped" in caplog.text

    def test_nothing_that_fits_is_an_error(self, a_datalist):
        recipe = parse_recipe({**TRANSLATION, "target": {"name": "pd", "contrasts": ["pd"]}}, "")
        with pytest.raises(RequestError, match="none of the 3 cases has pd"):
            load_volumes(recipe, a_datalist.cases("train"))

    def test_axes_without_detail_are_found(self, tmp_path):
        rng = np.random.default_rng(0)
        sharp = 500 + 100 * rng.standard_normal((72, 72, 72)).astype(np.float32)
        thick = np.repeat(sharp[:, :, ::6], 6, axis=2)
        thick = sum(np.roll(thick, n, axis=2) for n in range(-3, 4)) / 7
        write(tmp_path, "a.nii.gz", thick.astype(np.float32))
        path = tmp_path / "l.json"
        path.write_text('{"training": [{"subject": "a", "contrasts": {"t1": "a.nii.gz"}}]}')
        cases = read_datalist(path).cases("train")
        assert load_volumes(parse_recipe(SR, ""), cases)[0].sharp_axes == (0, 1)
        everything = parse_recipe({**SR, "data": {"sharp_axes": "all"}}, "")
        assert load_volumes(everything, cases)[0].sharp_axes == (0, 1, 2)

    def test_the_longest_name_decides_a_weight(self):
        weights = {"a": 0.5, "a/t1": 2.0, "ab": 3.0}
        assert [find_weight(weights, name) for name in ("a/t1", "a/t2", "ab/t1", "c/t1")] == [2.0, 0.5, 3.0, 1.0]


class TestBlocks:
    def source(self, content=SR, channels=1, **data):
        recipe = parse_recipe({**content, "data": {"block": [24, 24, 24], **data}}, "")
        return BlockSource(recipe, [a_volume(channels=channels)], (24, 24, 24))

    def test_a_block_is_the_same_whatever_was_drawn_before(self):
        first, second = self.source(), self.source()
        wanted = first.draw(7, 1)
        for number in (3, 1, 7):
            second.draw(number)
        again = second.draw(7, 1)
        assert torch.equal(wanted.residual, again.residual)
        assert torch.equal(wanted.conditions, again.conditions)
        assert not torch.equal(wanted.residual, first.draw(8, 1).residual)
        assert not torch.equal(wanted.residual, first.draw(7, 0).residual)

    def test_base_and_residual_give_the_truth_that_was_measured(self):
        source = self.source(augmentation={"flip": [0, 0, 0], "gamma_share": 0, "scale": [1, 1]})
        for number in range(5):
            block = source.draw(number)
            truth = block.base + block.residual * 2.0 / source.recipe.networks.residual_gain
            whole = torch.from_numpy(source.volumes[0].data.astype(np.float32))
            windows = whole[0].unfold(0, 24, 1).unfold(1, 24, 1).unfold(2, 24, 1)
            nearest = (windows[..., :2, :2, :2] - truth[0, :2, :2, :2]).abs().sum(dim=(-1, -2, -3))
            start = np.unravel_index(int(nearest.argmin()), nearest.shape)
            torch.testing.assert_close(windows[start], truth[0], atol=2e-3, rtol=0)

    def test_base_agrees_with_the_measurement_after_back_projection(self):
        block = self.source().draw(2)
        truth = block.base + block.residual / 4.0
        measured = block.operator.forward(truth[None])
        error = (block.operator.forward(block.base[None]) - measured).abs().mean()
        assert error < 0.35 * measured.std()

    def test_error_counts_relative_to_what_there_is_to_find(self):
        block = self.source().draw(0)
        assert float(block.weight) == pytest.approx(1.0 / (float(block.residual.square().mean()) + 0.02))

    def test_translation_keeps_the_target_as_it_is(self):
        source = self.source(TRANSLATION, channels=3, augmentation={"flip": [0, 0, 0]})
        values = source.volumes[0].data[2].astype(np.float32)
        block = source.draw(3)
        target = block.base + block.residual  # gain 2
        assert np.isin(np.round(target.numpy(), 3), np.round(values, 3)).mean() > 0.99
        assert block.acquisition is None
        assert block.operator is None

    def test_optional_conditions_are_left_out_now_and_then(self):
        source = self.source(TRANSLATION, channels=3)
        flags = [source.draw(n).present for n in range(60)]
        assert all(first for first, _ in flags)
        assert 5 < sum(not second for _, second in flags) < 35

    def test_only_axes_with_detail_are_coarsened(self):
        recipe = parse_recipe({**SR, "data": {"block": [24, 24, 24]}}, "")
        source = BlockSource(recipe, [a_volume(sharp_axes=(0, 1))], (24, 24, 24))
        assert all(source.draw(number).operator.factors[2] == 1 for number in range(20))

    def test_a_small_volume_is_continued_and_a_single_slice_stays_one(self):
        recipe = parse_recipe({**TRANSLATION, "data": {"block": [32, 32, 32]}}, "")
        small = BlockSource(recipe, [a_volume((20, 40, 40), 3)], (32, 32, 32)).draw(0)
        assert small.residual.shape == (1, 32, 32, 32)
        thin = BlockSource(recipe, [a_volume((40, 1, 40), 3)], (32, 32, 32)).draw(0)
        assert thin.residual.shape == (1, 32, 1, 32)
        assert thin.planes == (Plane.CORONAL,)

    def test_positions_are_those_in_the_whole_head(self):
        content = {
            **SR,
            "networks": {"position": True},
            "data": {"block": [24, 24, 24], "augmentation": {"flip": [1, 0, 0]}},
        }
        source = BlockSource(parse_recipe(content, ""), [a_volume((24, 44, 36))], (24, 24, 24))
        position = source.draw(0).position
        assert torch.equal(position[0, :, 0, 0], position_channels((24, 1, 1))[0, 0, :, 0, 0])
        assert position[1].max() - position[1].min() == pytest.approx(2 * 23 / 43, abs=1e-5)

    def test_scanners_follow_the_recipe(self):
        rng = np.random.default_rng(0)
        drawn = [draw_acquisition(Scanners(), (48, 48, 48), rng) for _ in range(300)]
        isotropic = [a for a in drawn if min(a.factors) > 1]
        thick = [a for a in drawn if min(a.factors) == 1]
        assert 0.37 < len(isotropic) / 300 < 0.53
        assert {a.factors[0] for a in isotropic} == {2.0, 3.0, 4.0}
        assert min(max(a.factors) for a in thick) >= 2.0
        assert max(max(a.factors) for a in thick) <= 8.0
        assert {int(np.argmax(a.factors)) for a in thick} == {0, 1, 2}


class TestRandScanner:
    def test_background_stays_and_order_is_kept(self):
        change = RandScanner(Augmentation(gamma_share=1.0, scale=(1.0, 1.0)))
        change.set_random_state(3)
        values = torch.linspace(-1, 1, 50).reshape(50, 1, 1)
        changed = change(values)
        assert changed[0, 0, 0] == -1
        assert (changed[1:] > changed[:-1]).all()
        assert not torch.allclose(changed, values, atol=1e-3)

    def test_the_pivot_is_not_bent(self):
        change = RandScanner(Augmentation(gamma_share=1.0, scale=(1.0, 1.0)))
        change.set_random_state(3)
        changed = change(torch.tensor([-1.0, 0.0, 0.3, 0.9]).reshape(4, 1, 1), pivot=0.65).flatten()
        assert changed[0] == -1
        assert changed[2] == pytest.approx(0.3, abs=1e-6)
        assert abs(changed[1]) > 1e-3
        assert abs(changed[3] - 0.9) > 1e-3

    def test_a_synthetic_head_has_its_median_at_the_level(self):
        head = torch.full((12, 12, 12), -1.0)
        head[2:10, 2:10, 2:10] = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5
        moved = at_median(head, 0.25)
        assert float(moved[head > -0.99].median()) == pytest.approx(0.25, abs=1e-5)
        assert (moved[head == -1] == -1).all()
        assert at_median(head, None) is head
        assert at_median(torch.full((2, 2, 2), -1.0), 0.25).eq(-1).all()

    def test_slices_shading_and_noise_change_tissue_only(self):
        head = torch.full((32, 32, 32), -1.0)
        head[8:24, 8:24, 8:24] = 0.2
        plain = Augmentation(gamma_share=0.0, scale=(1.0, 1.0))
        for changes, spread in ((Augmentation(noise=0.05), 0.001), (Augmentation(shade=0.3), 0.005)):
            change = RandScanner(plain.model_copy(update={"noise": changes.noise, "shade": changes.shade}))
            change.set_random_state(1)
            changed = change(head)
            assert torch.equal(changed[head < -0.5], head[head < -0.5])
            assert float(changed[head > 0].std()) > spread
        coarse = RandScanner(plain.model_copy(update={"coarse_share": 1.0}))
        coarse.set_random_state(1)
        blurred = coarse(head)
        assert float(blurred.diff(dim=0).abs().max()) < 1.2 or float(blurred.diff(dim=2).abs().max()) < 1.2
        assert float((blurred - head).abs().max()) > 0.1
        assert float(blurred.mean()) == pytest.approx(float(head.mean()), abs=0.05)

    def test_nothing_is_drawn_for_what_is_switched_off(self):
        first, second = RandScanner(Augmentation()), RandScanner(Augmentation(noise=0.1))
        for change in (first, second):
            change.set_random_state(5)
        dark = torch.full((8, 8, 8), -1.0)
        for _ in range(2):
            assert torch.equal(first(dark), second(dark))
        assert first.R.random() != second.R.random()


class TestPool:
    def pool(self, **options):
        made = []

        def make(number):
            made.append(number)
            return number

        return Pool(make, **{"size": 5, "renew": 2, "seed": 0, "stream": 0, **options}), made

    def test_makes_each_sample_once_and_renews_little_by_little(self):
        pool, made = self.pool()
        for step in range(4):
            assert set(pool.pick(step, 3)) <= set(range(2 * step, 2 * step + 5))
        assert made == list(range(11))

    def test_a_resumed_pool_gives_what_the_unbroken_one_gives(self):
        whole, _ = self.pool()
        picks = [whole.pick(step, 3) for step in range(8)]
        resumed, _ = self.pool()
        assert [resumed.pick(step, 3) for step in range(5, 8)] == picks[5:]

    def test_picks_differ_between_steps_and_streams(self):
        one, _ = self.pool(size=20, renew=0)
        other, _ = self.pool(size=20, renew=0, stream=1)
        assert one.pick(0, 5) != one.pick(1, 5)
        assert one.pick(0, 5) != other.pick(0, 5)
        assert len(set(one.pick(3, 20))) == 20
