"""Hostile metadata: every value is bounded where it is read, before anything is built from it."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tiny_models import PAPER_LIKE, tiny_ensemble, tiny_fusion, write_tiny_bundle  # noqa: E402

from scorefusion.bundle import bounds  # noqa: E402
from scorefusion.bundle.folder import METADATA_PATH, Bundle  # noqa: E402
from scorefusion.bundle.load import load_model  # noqa: E402
from scorefusion.bundle.metadata import validate_metadata  # noqa: E402
from scorefusion.bundle.store import BundleInfo  # noqa: E402
from scorefusion.diffusion.schedule import NoiseSchedule  # noqa: E402
from scorefusion.errors import BundleError  # noqa: E402
from scorefusion.fusion.inputs import InputLayout  # noqa: E402
from scorefusion.networks.cost import gflop_per_megavoxel  # noqa: E402
from scorefusion.networks.sizes import UNetConfig, fusion_config, plane_config  # noqa: E402
from scorefusion.run.request import SamplingPlan  # noqa: E402

Path_ = tuple[Any, ...]
HOSTILE: list[Any] = [
    None, True, 0, -1, 0.5, 1e308, 10**12, 10**400, float("nan"), float("inf"), "", "x", "a" * 100_000, [], [[]],
    [True] * 3, [1e12] * 3, {}, {"x": {}}, [{}], ["axial"] * 3, [2] * 5000,
]  # fmt: skip


def _mapped_metadata(folder: Path) -> Bundle:
    """A translation model that has all that a bundle can have: maps, optional conditions, attention, features."""
    inputs = InputLayout(slab_radius=1, plane_context=True, presence_context=2, prediction="clean")
    rule = tiny_fusion(tiny_ensemble(inputs, groups=[(0, 1)]), conditions=2, **PAPER_LIKE)
    extra = {
        "base": "mapped_condition",
        "base_curves": [[-1.0, 0.0, 1.0], [1.0, 0.5, -1.0]],
        "base_joint": [-1.0, 0.0, 0.0, 1.0],
        "uncertainty": {"steps": 2, "samples": 2, "solver": "ddim", "eta": 1.0},
        "experimental": True,
        "slice_profile": "box",
    }
    return write_tiny_bundle(folder, rule, ["t1", "t2"], "translation", **extra)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Shared by all tests, which write their own copy of its metadata."""
    return _mapped_metadata(tmp_path_factory.mktemp("made") / "mapped")


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The place of every value, mappings and lists themselves too."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from leaves(item, (*path, key))


def replaced(value: Any, path: Path_, new: Any) -> Any:
    """A copy with another value in one place; what lies beside the way there is shared."""
    changed = copy.copy(value)
    changed[path[0]] = new if len(path) == 1 else replaced(value[path[0]], path[1:], new)
    return changed


_BUILT: set[str] = set()
"""What networks were built from, so that those of another title or preset are not built again."""


def use(bundle: Bundle, metadata: dict[str, Any]) -> bool:
    """Read the metadata and do all that is done with a model; False if it is refused, by a `BundleError`."""
    changed = copy.copy(bundle)
    try:
        validate_metadata(metadata, "x")
        changed.metadata = metadata
        section = changed.section
        changed.check_present()
        names = [condition["name"] for condition in section["conditions"]]
        built = json.dumps([names, *(section[key] for key in ("inputs", "networks", "files", "slab_radius"))])
        schedule = NoiseSchedule.from_config(section["schedule"])
        if built not in _BUILT:
            load_model(changed)
            gflop_per_megavoxel(section)
            _BUILT.add(built)
    except BundleError:
        return False
    json.dumps(BundleInfo(changed.id, changed.folder, False, changed).to_dict(), allow_nan=False)
    for plan in map(SamplingPlan.from_preset, section["presets"].values()):
        assert schedule.timesteps(plan.steps, plan.start)
    uncertainty = SamplingPlan(**{**bounds.DEFAULT_UNCERTAINTY, **section.get("uncertainty", {})})
    assert schedule.timesteps(uncertainty.steps, uncertainty.start)
    return True


class TestTheTable:
    @pytest.mark.parametrize(
        ("table", "kind", "without"),
        [
            (bounds.NETWORK, UNetConfig, set()),
            (bounds.SCHEDULE, NoiseSchedule, {"alpha_bar"}),
            (bounds.PLAN, SamplingPlan, set()),
            (bounds.INPUTS, InputLayout, {"slab_radius", "residual_gain", "prediction"}),
        ],
    )
    def test_has_a_row_for_every_field_of_what_is_built_from_it(self, table: Any, kind: Any, without: set[str]) -> None:
        assert set(table) == {field.name for field in dataclasses.fields(kind)} - without

    @pytest.mark.parametrize("config", [plane_config("paper", 512), fusion_config("paper", 512, 48)])
    def test_is_wide_enough_for_the_networks_of_the_paper(self, config: UNetConfig) -> None:
        assert all(bounds.NETWORK[key].accepts(value) for key, value in config.to_dict().items())

    def test_lets_every_shipped_model_pass(self, repository: Path) -> None:
        folders = sorted((repository / "Resources" / "Models").iterdir())
        assert len(folders) >= 5
        for folder in folders:
            Bundle(folder)


class TestHostileValues:
    @pytest.mark.parametrize(
        ("path", "value", "expected"),
        [
            (("networks", "planes", 0, "config", "blocks"), 10**9, "a whole number from 1 to 8"),
            (("networks", "planes", 0, "config", "channels"), [-6, 8], "1 to 6 widths"),
            (("networks", "planes", 0, "config", "channels"), [10**7, 8], "1 to 6 widths"),
            (("networks", "planes", 0, "config", "channels"), [5, 8], "an even first width"),
            (("networks", "fusion", "config", "head_width"), 3, "a divisor of the last width"),
            (("networks", "planes", 0, "config", "resampling"), "blok", "'block', 'convolution', 'plain'"),
            (("networks", "planes", 0, "config", "normalisation"), "batch", "'group', 'none'"),
            (("networks", "planes", 0, "config", "stem_factor"), 0, "a whole number from 1"),
            (("networks", "planes", 0, "config", "attention"), "yes", "true or false"),
            (("networks", "planes", 0, "config", "kernel"), 10**6, "cannot be used with 'kernel'"),
            (("networks", "planes", 0, "file"), [], "one of scorefusion.files"),
            (("presets", "fast", "samples"), 10**12, "a whole number from 1 to 64"),
            (("presets", "fast", "steps"), 10**6, "a whole number from 1 to 1000"),
            (("presets", "fast", "steps"), True, "a whole number"),
            (("presets", "fast", "eta"), "x", "a number from 0 to 1"),
            (("presets", "fast", "eta"), float("nan"), "a number from 0 to 1"),
            (("presets", "balanced", "eta"), 1.0, "only 'ddim'"),
            (("presets", "fast", "steps"), 900, "at most 500"),
            (("uncertainty", "samples"), 1, "a whole number from 2 to 64"),
            (("uncertainty", "sampels"), 4, "cannot be used with 'sampels'"),
            (("schedule", "num_train_timesteps"), 10**12, "a whole number from 1 to 100000"),
            (("schedule", "beta_start"), 0.1, "a cosine has none"),
            (("spacing_mm",), [1e-9, 1, 1], "three positive lengths"),
            (("spacing_mm",), [True, True, True], "three positive lengths"),
            (("slab_radius",), 10**9, "a whole number from 0 to 8"),
            (("residual_gain",), float("inf"), "a number from"),
            (("base_rounds",), 10**9, "a whole number from 0 to 100"),
            (("inputs", "position"), 1, "true or false"),
            (("domain", "extent_mm"), [300, 90], "the lower one first"),
            (("domain", "extent_mm"), "big", "two lengths in mm"),
            (("target", "range"), [5, 5], "two different numbers"),
            (("target",), {}, r"target\.name is missing"),
            (("base_joint",), [0.0] * 5, "to the power of 2"),
            (("training",), "x", "a mapping"),
        ],
    )
    def test_are_refused_with_key_and_bounds(self, mapped: Bundle, path: Path_, value: Any, expected: str) -> None:
        metadata = copy.deepcopy(mapped.metadata)
        metadata["scorefusion"]["presets"]["fast"]["start"] = 499
        with pytest.raises(BundleError, match=expected) as error:
            validate_metadata(replaced(metadata, ("scorefusion", *path), value), "x")
        assert ".".join(str(key) for key in path if isinstance(key, str)).split(".")[0] in str(error.value)

    def test_in_every_place_give_a_bundle_error_or_a_working_model_within_a_second(self, mapped: Bundle) -> None:
        use(mapped, mapped.metadata)  # the first time imports and warms up
        passed = 0
        for path in list(leaves(mapped.metadata)):
            for value in HOSTILE:
                begin, before = time.process_time(), len(_BUILT)
                passed += use(mapped, replaced(mapped.metadata, path, value))
                assert time.process_time() - begin < 1.0 + (len(_BUILT) > before), (path, str(value)[:50])
        assert passed > 100  # texts may be nearly anything, and some hostile values are ordinary ones

    @settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)
    @given(data=st.data())
    def test_any_json_in_any_place_gives_a_bundle_error_or_a_working_model(
        self, mapped: Bundle, data: st.DataObject
    ) -> None:
        plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
        value = st.recursive(plain, lambda v: st.lists(v) | st.dictionaries(st.text(max_size=8), v), max_leaves=6)
        metadata = mapped.metadata
        for _ in range(data.draw(st.integers(1, 3))):
            places = list(leaves(metadata))
            metadata = replaced(metadata, data.draw(st.sampled_from(places)), data.draw(value))
        use(mapped, metadata)

    @settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
    @given(data=st.data())
    def test_any_key_may_be_missing_or_unknown(self, mapped: Bundle, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from([path for path in leaves(mapped.metadata) if isinstance(path[-1], str)]))
        metadata = copy.deepcopy(mapped.metadata)
        inner: Any = metadata
        for key in path[:-1]:
            inner = inner[key]
        value = inner.pop(path[-1])
        if data.draw(st.booleans()):
            inner[data.draw(st.text(max_size=2000))] = value
        use(mapped, metadata)


class TestTextOfTheMetadata:
    """What no parser should be given, and what no terminal should be sent."""

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda text: "[" * 100_000, "nested deeper|not valid JSON"),
            (lambda text: text.replace('"version": "1.2.0"', '"version": ' + "[" * 40 + "]" * 40), "nested deeper"),
            (lambda text: text.replace('"samples": 3', '"samples": ' + "9" * 5000), "whole number of 5000 digits"),
            (lambda text: text.replace('"samples": 3', '"samples": NaN'), "no finite number"),
            (lambda text: text.replace('"samples": 3', '"samples": 1e999'), "no finite number"),
            (lambda text: text.replace('"name": "Tiny model"', '"name": "\\u001b]0;evil\\u0007"'), "cannot be shown"),
            (lambda text: text.replace('"name": "Tiny model"', '"name": "\\ud800"'), "cannot be shown"),
            (lambda text: text.replace('"name": "Tiny model"', '"name": "a", "name": "b"'), "given twice"),
            (lambda text: text + " " * 3 * 1024**2, "larger than 2 MiB"),
            (lambda text: text.encode("utf-16"), "no text in UTF-8"),
            (lambda text: b"\xff" + text.encode(), "no text in UTF-8"),
            (lambda text: "", "not valid JSON"),
        ],
    )
    def test_is_refused(self, mapped: Bundle, tmp_path: Path, change: Any, expected: str) -> None:
        text = (mapped.folder / METADATA_PATH).read_text()
        changed = change(text)
        assert changed != text
        target = tmp_path / METADATA_PATH
        target.parent.mkdir()
        target.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        with pytest.raises(BundleError, match=expected) as error:
            Bundle(tmp_path)
        assert len(str(error.value)) < 1000

    def test_a_mark_before_the_text_does_no_harm(self, mapped: Bundle, tmp_path: Path) -> None:
        target = tmp_path / METADATA_PATH
        target.parent.mkdir()
        target.write_bytes(b"\xef\xbb\xbf" + (mapped.folder / METADATA_PATH).read_bytes())
        assert Bundle(tmp_path).metadata == mapped.metadata

    def test_a_card_cannot_write_to_the_terminal_and_need_not_be_text(self, tiny_bundle: Bundle) -> None:
        (tiny_bundle.folder / "docs" / "README.md").write_bytes(b"# T\x1b]0;evil\x07\xff" + b"x" * 3_000_000)
        card = tiny_bundle.card()
        assert card.startswith("# T]0;evil")
        assert len(card) <= 1024**2

    def test_weights_of_the_wrong_size_are_not_read_at_all(self, tiny_bundle: Bundle) -> None:
        with (tiny_bundle.folder / "models" / "plane.safetensors").open("r+b") as file:
            file.truncate(2**38)  # a hole: no room on disk, and more than all memory once read
        with pytest.raises(BundleError, match="damaged"):
            tiny_bundle.load_state_dict("models/plane.safetensors")

    def test_metadata_survives_being_written(self, mapped: Bundle) -> None:
        assert json.loads((mapped.folder / METADATA_PATH).read_text()) == mapped.metadata
