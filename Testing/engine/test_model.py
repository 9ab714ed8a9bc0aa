"""A loaded bundle: which rules it can run, which it refuses and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_ensemble, tiny_fusion, tiny_volume, write_tiny_bundle

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import Model, load_model
from scorefusion.bundle.write import write_bundle
from scorefusion.errors import BundleError, RequestError
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.inputs import InputLayout, ModelInputs
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.rules import AlternatingPlanes, FusionRule, PlaneAverage, ScoreFusion, SinglePlane, VolumeOnly

INPUTS = InputLayout(slab_radius=1, plane_context=True, residual_gain=4.0, prediction="clean")
LEVEL = torch.tensor([0.4])


def _model(folder: Path, rule: FusionRule) -> Model:
    return load_model(write_tiny_bundle(folder / "tiny", rule))


def _answer(rule: FusionRule) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    x_t, base = (torch.randn(1, 1, 9, 10, 13, generator=generator) for _ in range(2))
    with torch.inference_mode():
        return rule(x_t, ModelInputs(base), LEVEL)


class TestChoosing:
    def test_every_name_gives_its_rule(self, tmp_path: Path) -> None:
        model = _model(tmp_path, tiny_fusion(tiny_ensemble(INPUTS)))
        wanted = {
            None: ScoreFusion,
            "fusion": ScoreFusion,
            "fusion-scores": ScoreFusion,
            "average": PlaneAverage,
            "average:coronal+sagittal": PlaneAverage,
            "alternating": AlternatingPlanes,
            "axial": SinglePlane,
        }
        for name, kind in wanted.items():
            assert type(model.choose_rule(name)) is kind
        two = model.choose_rule("average:coronal+sagittal")
        assert isinstance(two, PlaneAverage)
        assert set(two.planes) == {Plane.CORONAL, Plane.SAGITTAL}

    def test_scores_alone_are_the_same_weights_without_features(self, tmp_path: Path) -> None:
        model = _model(tmp_path, tiny_fusion(tiny_ensemble(INPUTS)))
        assert isinstance(model.rule, ScoreFusion)
        scores = model.choose_rule("fusion-scores")
        assert isinstance(scores, ScoreFusion)
        assert scores.alignment is None
        assert scores.network is model.rule.network
        assert not scores.training
        difference = (_answer(scores) - _answer(model.rule)).abs().max()
        assert difference > 1e-3
        for parameter in model.rule.alignment.parameters():  # type: ignore[union-attr]
            parameter.zero_()
        assert torch.equal(_answer(scores), _answer(model.rule))

    def test_a_fusion_without_features_is_not_offered_twice(self, tmp_path: Path) -> None:
        model = _model(tmp_path, tiny_fusion(tiny_ensemble(INPUTS), features=False))
        with pytest.raises(RequestError, match="takes no features in the first place. Use rule 'fusion'"):
            model.choose_rule("fusion-scores")

    def test_an_average_has_no_fusion(self, tmp_path: Path) -> None:
        model = _model(tmp_path, PlaneAverage(tiny_ensemble(INPUTS)))
        assert type(model.rule) is PlaneAverage
        for name in ("fusion", "fusion-scores"):
            with pytest.raises(RequestError, match=f"'tiny' cannot work by the rule '{name}': it has no fusion"):
                model.choose_rule(name)
        with pytest.raises(RequestError, match="no 3D network of its own, but planes \\(sagittal, coronal, axial\\)"):
            model.choose_rule("volume")

    def test_planes_that_the_model_lacks_are_named(self, tmp_path: Path) -> None:
        whole = tiny_ensemble(INPUTS)
        ensemble = PlaneEnsemble(whole.plane_networks, whole.members[:2], INPUTS)
        bundle = write_tiny_bundle(tmp_path / "two", PlaneAverage(ensemble), planes=["sagittal", "coronal"])
        model = load_model(bundle)
        assert model.planes == (Plane.SAGITTAL, Plane.CORONAL)
        for name in ("axial", "average:axial+coronal"):
            with pytest.raises(RequestError, match="': its plane networks look along sagittal, coronal"):
                model.choose_rule(name)

    @pytest.mark.parametrize("name", ["median", "plane", "axial:coronal", "", "average:"])
    def test_nonsense_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(RequestError, match="Unknown fusion rule|cannot work by the rule"):
            _model(tmp_path, tiny_fusion(tiny_ensemble(INPUTS))).choose_rule(name)


class TestVolumeAlone:
    @pytest.mark.parametrize("kind", ["diffusion", "regression"])
    def test_loaded_rule_answers_like_the_written_one(self, tmp_path: Path, kind: Any) -> None:
        inputs = InputLayout(slab_radius=0, residual_gain=4.0, prediction="clean")
        rule = tiny_volume(inputs, kind)
        model = _model(tmp_path, rule)
        assert isinstance(model.rule, VolumeOnly)
        assert (model.rule.kind, model.planes, model.bundle.volume_kind) == (kind, (), kind)
        assert model.choose_rule(None) is model.choose_rule("volume") is model.rule
        expected = _answer(rule)
        assert (_answer(model.rule) - expected).abs().max() < 2e-3 * expected.abs().max()  # weights in half precision

    def test_rules_of_planes_are_refused(self, tmp_path: Path) -> None:
        model = _model(tmp_path, tiny_volume(InputLayout(slab_radius=0, prediction="clean")))
        for name in ("fusion", "fusion-scores", "average", "alternating", "axial", "average:axial+coronal"):
            with pytest.raises(
                RequestError, match=f"rule '{name}'.*3D network alone.*Use rule 'volume'".replace("+", "[+]")
            ):
                model.choose_rule(name)


class TestMisfits:
    """Metadata and weights that pass every check but that of their meaning."""

    def _changed(self, bundle: Bundle, folder: Path, *path: Any, value: Any) -> Bundle:
        metadata = json.loads(json.dumps(bundle.metadata))
        inner = metadata["scorefusion"]
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        states = {name: bundle.load_state_dict(name) for name in bundle.network_files}
        return write_bundle(folder, metadata, states, "card", "licence")

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("slab_radius",), 2, r"plane.safetensors.*in_channels is 8, not 10"),
            (("inputs", "plane_context"), False, "context_size is 3, not 0"),
            (("inputs", "glow"), True, r"scorefusion.inputs cannot be used.*glow"),
            (("networks", "fusion", "config", "out_channels"), 4, r"fusion.safetensors.*out_channels is 4, not 3"),
            (("networks", "planes", 0, "config", "spatial_dims"), 3, "spatial_dims is 3, not 2"),
        ],
    )
    def test_networks_that_do_not_take_what_they_are_shown(
        self, tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
    ) -> None:
        bundle = write_tiny_bundle(tmp_path / "right", tiny_fusion(tiny_ensemble(INPUTS)))
        with pytest.raises(BundleError, match=message):
            load_model(self._changed(bundle, tmp_path / "wrong", *path, value=value))

    def test_a_volume_network_of_other_channels(self, tmp_path: Path) -> None:
        bundle = write_tiny_bundle(tmp_path / "right", tiny_volume(InputLayout(slab_radius=0, prediction="clean")))
        with pytest.raises(BundleError, match=r"volume.safetensors.*in_channels is 6, not 5"):
            load_model(self._changed(bundle, tmp_path / "wrong", "inputs", "foreground", value=False))
