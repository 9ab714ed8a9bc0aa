"""Recipes: what they accept, and how they say no."""

from __future__ import annotations

import pytest

from scorefusion.errors import RequestError
from scorefusion.training.networks import make_ensemble, make_fusion
from scorefusion.training.recipe import RECIPES, known_recipes, parse_recipe, read_recipe

MINIMAL = {
    "name": "tiny",
    "task": "super_resolution",
    "conditions": [{"name": "image", "coarse": True}],
    "stages": {"planes": {"steps": 2}},
}
TRANSLATION = {
    "name": "t1-to-flair",
    "task": "translation",
    "conditions": [{"name": "t1", "contrasts": ["t1"]}],
    "target": {"name": "flair", "contrasts": ["flair"]},
    "networks": {"base": "condition"},
    "stages": {"planes": {"steps": 2}},
}


def refusal(content, changes=None):
    merged = {**content, **(changes or {})}
    with pytest.raises(RequestError) as error:
        parse_recipe(merged, "r.yaml")
    return str(error.value)


class TestShippedRecipes:
    @pytest.mark.parametrize("name", known_recipes())
    def test_is_complete_and_says_what_it_is(self, name):
        recipe = read_recipe(name)
        assert recipe.name == name
        assert recipe.output.description

    @pytest.mark.parametrize("name", known_recipes())
    def test_survives_being_written_and_read(self, name, tmp_path):
        path = tmp_path / "copy.yaml"
        path.write_text(read_recipe(name).to_yaml())
        assert read_recipe(path) == read_recipe(name)

    def test_begin_with_the_command_that_runs_them(self):
        for path in RECIPES.glob("*.yaml"):
            assert f"scorefusion train {path.stem}" in path.read_text(), path.name


class TestRefusals:
    def test_unknown_key_names_the_nearest(self):
        message = refusal(MINIMAL, {"stages": {"planes": {"steps": 2, "learning_rat": 1e-3}}})
        assert "stages.planes.learning_rat" in message
        assert "'learning_rate'" in message

    def test_all_problems_come_at_once(self):
        message = refusal(MINIMAL, {"seed": -1, "data": {"bock": [1, 2, 3]}})
        assert "seed" in message
        assert "data.bock" in message

    @pytest.mark.parametrize(
        ("changes", "part"),
        [
            ({"stages": {"planes": {}}}, "'minutes' or 'steps'"),
            ({"stages": {"planes": {"steps": 1, "minutes": 1}}}, "'minutes' or 'steps'"),
            ({"stages": {"fusion": {"steps": 1}}}, "warm_start"),
            ({"stages": {"planes": {"steps": 1}, "volume": {"steps": 1}}}, "recipe of its own"),
            ({"stages": {"planes": {"steps": 1}, "prior": {}}}, "networks.prior"),
            ({"networks": {"prior": True, "prediction": "noise"}}, "networks.prior: "),
            ({"networks": {"prior": True, "prediction": "v"}}, "networks.prior: "),
            ({"conditions": [{"name": "image"}]}, "coarse"),
            ({"networks": {"base": "condition"}}, "networks.base"),
            ({"data": {"datalist": "none"}}, "synthetic"),
            ({"name": "Bad Name"}, "name"),
        ],
    )
    def test_impossible_combinations(self, changes, part):
        assert part in refusal(MINIMAL, changes)

    def test_features_that_nowhere_fit_into_the_fusion_network_are_refused(self):
        recipe = parse_recipe({**MINIMAL, "networks": {"plane": {"stem_factor": 8}}}, "")
        with pytest.raises(RequestError, match=r"networks.features.*1/32, 1/16, 1/8.*1/4, 1/2.*features: false"):
            make_fusion(recipe, make_ensemble(recipe))

    def test_a_word_that_the_networks_do_not_know_is_refused(self):
        message = refusal(MINIMAL, {"networks": {"fusion": {"resampling": "blok"}}})
        assert "networks.fusion.resampling is 'blok' (expected 'block', 'convolution', 'plain')" in message

    def test_unknown_recipe_names_the_nearest(self):
        with pytest.raises(RequestError, match="Did you mean 'brain-sr'"):
            read_recipe("brain-srr")

    def test_broken_yaml_names_file_and_line(self, tmp_path):
        path = tmp_path / "r.yaml"
        path.write_text("name: [")
        with pytest.raises(RequestError, match=r"r\.yaml.*line"):
            read_recipe(path)


class TestChanges:
    def test_a_value_can_be_changed_from_the_command_line(self):
        recipe = read_recipe("brain-sr", ["stages.planes.minutes=5", "data.leave_out=[a, b]", "seed=7"])
        assert recipe.stages["planes"].minutes == 5
        assert recipe.data.leave_out == ("a", "b")
        assert recipe.seed == 7

    def test_steps_take_the_place_of_minutes(self):
        stage = read_recipe("brain-sr", ["stages.planes.steps=7"]).stages["planes"]
        assert (stage.steps, stage.minutes) == (7, None)

    def test_a_change_without_value_is_refused(self):
        with pytest.raises(RequestError, match="expected key"):
            read_recipe("brain-sr", ["seed"])

    def test_extends_takes_the_rest_from_another_recipe(self, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text("extends: brain-sr\nname: mine\nstages: {joint: null, planes: {minutes: 1}}\n")
        recipe = read_recipe(path)
        assert (recipe.name, list(recipe.stages), recipe.stages["planes"].minutes) == ("mine", ["planes", "prior"], 1)
        assert recipe.data == read_recipe("brain-sr").data


class TestWhatNetworksAreShown:
    def test_super_resolution_is_told_the_acquisition(self):
        layout = parse_recipe(MINIMAL, "").input_layout
        assert layout.acquisition_context
        assert layout.plane_context  # one network serves three planes

    def test_translation_is_not(self):
        assert not parse_recipe(TRANSLATION, "").input_layout.acquisition_context

    def test_separate_plane_networks_need_not_be_told_their_plane(self):
        content = {**MINIMAL, "networks": {"shared": False}}
        assert not parse_recipe(content, "").input_layout.plane_context

    def test_linear_schedule_is_the_papers(self):
        content = {**MINIMAL, "networks": {"schedule": "linear", "prediction": "noise", "residual_gain": 1.0}}
        schedule = parse_recipe(content, "").noise_schedule
        assert schedule.prediction == "noise"
        assert schedule.alpha_bar[300] == pytest.approx(0.016, abs=1e-3)  # method.md section 8
