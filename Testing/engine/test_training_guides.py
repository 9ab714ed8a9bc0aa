"""Super-resolution with a second scan beside the coarse one, from synthetic heads alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_synthesis_generator import nested_head
from test_training_run import NETWORKS

from scorefusion.bundle.load import load_model
from scorefusion.errors import RequestError
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.imaging.acquisition import Acquisition
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import translate
from scorefusion.progress import Reporter
from scorefusion.training.blocks import BlockSource, uneven_slices
from scorefusion.training.guides import displace, keep_some, mislabel, paint_lesions
from scorefusion.training.packed import PackedData, pack
from scorefusion.training.recipe import Guides, Recipe, Scanners, read_recipe
from scorefusion.training.run import Run, make_fabric
from scorefusion.training.synthetic import make_generator

SHAPE = (32, 32, 32)
T1 = {"name": "t1", "contrasts": ["t1"], "optional": True}


def recipe_with(folder: Path, guide: dict[str, Any], **changes: Any) -> Recipe:
    """A recipe that extends the shipped one by a guide, tiny, on synthetic heads."""
    stage = {"steps": 2, "blocks": 2, "slices": 1}
    content = {
        "extends": "brain-sr",
        "name": "guided",
        "conditions": [{"name": "image", "coarse": True}, guide],
        "networks": NETWORKS,
        "data": {
            "datalist": "heads.safetensors",
            "block": list(SHAPE),
            "pool": 2,
            "synthetic": {"options": {"spacing_mm": 2.5}},
        },
        "stages": {
            "planes": stage,
            "prior": {"blocks_to_fit": 8, "crop": 24},
            "joint": {**stage, "crop": 24, "pool": 2, "accumulate": 1, "renew": 1, "margin": 2},
        },
        **changes,
    }
    path = folder / "guided.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return read_recipe(path)


def source_of(recipe: Recipe) -> BlockSource:
    return BlockSource(recipe, (), SHAPE, make_generator(recipe, SHAPE, "cpu", labels=[nested_head()]), augment=False)


def edges(image: torch.Tensor) -> np.ndarray:
    """Length of the gradient at each voxel of `(I, J, K)`."""
    return np.sqrt(sum(g**2 for g in np.gradient(image.numpy()))).ravel()


def test_a_recipe_with_an_optional_guide_trains_on_synthetic_heads(tmp_path: Path) -> None:
    pack(PackedData((), (), (nested_head(),)), tmp_path / "heads.safetensors")
    recipe = recipe_with(tmp_path, T1)
    bundle = Run(recipe, tmp_path / "run", make_fabric("cpu"), Reporter(), near=tmp_path).run()
    assert bundle is not None
    rng = np.random.default_rng(0)
    thick = Volume(300 * rng.random((1, 24, 26, 6), dtype=np.float32), np.diag([1.0, 1.0, 4.0, 1.0]))
    fine = Volume(300 * rng.random((1, 24, 26, 24), dtype=np.float32), np.eye(4))
    alone = translate(thick, bundle, device="cpu", precision="float32").volume
    guided = translate({"image": thick, "t1": fine}, bundle, device="cpu", precision="float32", register=False).volume
    assert alone.spatial_shape == guided.spatial_shape == (24, 26, 24)
    assert not np.allclose(alone.data, guided.data)


def test_the_guide_of_a_synthetic_head_shows_the_same_anatomy_and_is_another_scan(tmp_path: Path) -> None:
    source = source_of(recipe_with(tmp_path, T1))
    blocks = [block for block in (source.draw(number) for number in range(24)) if block.inputs.available == (0, 1)]
    assert len(blocks) >= 6
    gain = 0.5 * source.recipe.networks.residual_gain
    targets = [edges((block.base + block.residual / gain)[0]) for block in blocks]
    guides = [edges(block.conditions[1]) for block in blocks]
    own = [np.corrcoef(target, guide)[0, 1] for target, guide in zip(targets, guides, strict=True)]
    others = [np.corrcoef(target, guide)[0, 1] for target, guide in zip(targets, guides[1:] + guides[:1], strict=True)]
    assert np.mean(own) > 0.4
    assert np.mean(own) > np.mean(others) + 0.2
    assert max(own) < 0.999  # with noise and a contrast of its own


def test_an_optional_guide_is_left_out_at_random_and_where_only_the_target_has_its_contrast(tmp_path: Path) -> None:
    both = source_of(recipe_with(tmp_path, T1))
    there = [both.draw(number).inputs.available == (0, 1) for number in range(24)]
    assert 4 < sum(there) < 22
    only_t1 = source_of(recipe_with(tmp_path, T1, target={"contrasts": ["t1"]}))
    assert all(only_t1.draw(number).inputs.available == (0,) for number in range(4))


def test_a_guide_that_must_be_there_is_never_the_target(tmp_path: Path) -> None:
    must = {**T1, "optional": False}
    source = source_of(recipe_with(tmp_path, must))
    assert "t1" not in source.recipe.synthetic_targets
    assert all(source.draw(number).inputs.available == (0, 1) for number in range(4))
    impossible = recipe_with(tmp_path, must, target={"contrasts": ["t1"]})
    with pytest.raises(RequestError, match="another contrast beside it"):
        source_of(impossible)


class TestWhatIsWrongWithGuides:
    def test_alone_single_and_dropped_shares_are_kept(self) -> None:
        guides = Guides(alone_share=0.2, single_share=0.5, dropped=0.25)
        rng = np.random.default_rng(0)
        drawn = [keep_some([True] * 5, [False, True, True, True, True], guides, rng) for _ in range(4000)]
        counts = np.array([sum(kept[1:]) for kept in drawn])
        assert all(kept[0] for kept in drawn)
        # One is kept by choice, or by chance where each is dropped by itself: 4 * .75 * .25^3 of the last 30 %.
        assert np.mean(counts == 1) == pytest.approx(0.5 + 0.3 * 4 * 0.75 * 0.25**3, abs=0.03)
        assert np.mean(counts == 0) == pytest.approx(0.2 + 0.3 * 0.25**4, abs=0.03)
        assert not any(keep_some([True, False], [False, True], guides, rng)[1] for _ in range(50))

    def test_a_shift_by_whole_voxels_is_a_roll_and_halves_are_means(self) -> None:
        image = torch.rand(6, 7, 8, generator=torch.Generator().manual_seed(0))
        moved = displace(image, np.array([2.0, 0.0, -1.0]))
        assert torch.equal(moved[2:, :, :-1], image[:-2, :, 1:])
        assert torch.equal(moved[0], moved[1])  # the edge is repeated
        half = displace(image, np.array([0.0, 0.5, 0.0]))
        torch.testing.assert_close(half[:, 1:], 0.5 * (image[:, 1:] + image[:, :-1]))

    def test_one_that_is_there_changes_places_with_another(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(40):
            order = mislabel([False, True, False, False], rng)
            assert sorted(order) == [0, 1, 2, 3]
            assert sum(place != index for index, place in enumerate(order)) == 2
            assert order[1] != 1
        assert mislabel([False, False], rng) == [0, 1]

    def test_a_lesion_is_in_one_scan_alone(self) -> None:
        head = torch.full((3, 32, 32, 32), -1.0)
        head[:, 4:28, 4:28, 4:28] = 0.1
        seen = np.zeros(2, int)
        for seed in range(40):
            changed = (
                (paint_lesions(head, [True, False], 0.5, np.random.default_rng(seed)) - head).abs().amax((1, 2, 3))
            )
            seen += np.array([float(changed[0]) > 0.2, float(changed[2]) > 0.2])
            assert float(changed[1]) == 0  # a guide that is not there
        assert (10 < seen).all()
        assert (seen < 30).all()

    def test_a_warm_start_with_more_inputs_says_at_first_what_the_model_said(self, tmp_path: Path) -> None:
        pack(PackedData((), (), (nested_head(),)), tmp_path / "heads.safetensors")
        alone = recipe_with(tmp_path, T1, conditions=[{"name": "image", "coarse": True}], name="alone")
        bundle = Run(alone, tmp_path / "alone", make_fabric("cpu"), Reporter(), near=tmp_path).run()
        assert bundle is not None
        recipe = recipe_with(tmp_path, T1, warm_start=str(bundle.folder))
        rule = Run(recipe, tmp_path / "guided", make_fabric("cpu"), Reporter(), near=tmp_path).rule()
        block = source_of(recipe).draw(3)
        noise = torch.randn(block.residual[None].shape, generator=torch.Generator().manual_seed(1))
        level = torch.tensor([0.3])
        known = ModelInputs(block.conditions[None, :1], block.inputs.acquisition)
        expected = load_model(bundle).rule.ensemble.predict(noise, known, level)
        both = ModelInputs(block.conditions[None], block.inputs.acquisition, (True, True))
        torch.testing.assert_close(rule.ensemble.predict(noise, both, level), expected, atol=1e-5, rtol=1e-4)

    def test_uneven_slices_differ_by_the_gains_that_were_asked_for(self) -> None:
        operator = Acquisition.thick_slices((16, 16, 64), 2, 4.0)
        flat = torch.zeros(1, 1, 16, 16, 16)
        scanners = Scanners(uneven_share=1.0, slice_gain=0.05)
        spreads = []
        for seed in range(60):
            slices = uneven_slices(flat, operator, scanners, np.random.default_rng(seed))[0, 0] + 1.0
            assert float(slices.std(dim=(0, 1)).max()) < 1e-6  # a slice is one gain
            spreads.append(float(slices[0, 0].std()))
        assert np.mean(spreads) == pytest.approx(0.025, rel=0.25)  # of a standard deviation drawn from 0 to 0.05
        isotropic = Acquisition.isotropic((16, 16, 64), 4)
        measured = torch.zeros(1, 1, 4, 4, 16)
        assert torch.equal(uneven_slices(measured, isotropic, scanners, np.random.default_rng(0)), measured)
