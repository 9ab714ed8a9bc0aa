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

from scorefusion.errors import RequestError
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import translate
from scorefusion.progress import Reporter
from scorefusion.training.blocks import BlockSource
from scorefusion.training.packed import PackedData, pack
from scorefusion.training.recipe import Recipe, read_recipe
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
