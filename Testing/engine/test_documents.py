"""JSON and YAML from outside: plain values, bounded, or a clear refusal; never another exception."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorefusion.documents import DEEPEST, parse_json, parse_yaml, read_json
from scorefusion.errors import DocumentError, RequestError, VolumeError

yaml = pytest.importorskip("yaml")

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


class TestJson:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"[" * 200_000, "nested deeper"),
            (b"[" * 40 + b"]" * 40, "nested deeper"),
            (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested deeper"),
            (b"1" * 5000, "whole number of 5000 digits"),
            (b"-" + b"1" * 20, "whole number of 21 digits"),
            (b"[NaN]", "no finite number"),
            (b"[-Infinity]", "no finite number"),
            (b"[1e999]", "no finite number"),
            (b'{"a": 1, "a": 2}', "'a' is given twice"),
            (b'["\\u0000"]', "cannot be shown"),
            (b'{"\\ud800": 1}', "cannot be shown"),
            (b"\xff\xfe", "no text in UTF-8"),
            (b"", "not valid JSON"),
        ],
    )
    def test_what_is_no_document_is_refused(self, content: bytes, expected: str) -> None:
        with pytest.raises(DocumentError, match=expected) as error:
            parse_json(content)
        assert len(str(error.value)) < 300

    def test_of_other_programs_numbers_may_be_beyond_all_bounds(self) -> None:
        value = parse_json(b'{"a": NaN, "b": ' + b"9" * 5000 + b', "a": 3, "c": 12}', foreign=True)
        assert value == {"a": 3, "b": math.inf, "c": 12}

    @given(st.binary(max_size=60))
    def test_any_bytes_give_values_or_a_document_error(self, content: bytes) -> None:
        for foreign in (False, True):
            try:
                parse_json(content, foreign=foreign)
            except DocumentError:
                pass

    def test_a_file_is_read_up_to_its_limit_and_named(self, tmp_path: Path) -> None:
        path = tmp_path / "x.json"
        path.write_text("[" + "1," * 1000 + "1]")
        assert len(read_json(path)) == 1001
        with pytest.raises(DocumentError, match=r"x\.json' is larger than 1 KiB"):
            read_json(path, largest=1024)
        for name, reason in (("no.json", "does not exist"), ("y" * 300, "cannot be read"), (".", "is no file")):
            with pytest.raises(DocumentError, match=reason):
                read_json(tmp_path / name)


class TestYaml:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (BOMB, "more than 100000 values"),
            ("a: &a [*a]", "nested deeper"),
            ("a: &a {b: *a}", "nested deeper"),
            ("[" * 5000, "nested deeper|not valid"),
            ("{a: " * 5000, "nested deeper|not valid"),
            ("- " * 5000 + "x", "nested deeper|not valid"),
            ("a: !!binary aGVsbG8=", "a bytes"),
            ("a: 2026-01-01", "a date"),
            ("a: !!set {x, y}", "a set"),
            ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
            ("a: !!bool maybe", "not valid YAML"),
            ("a: !!timestamp x", "not valid YAML"),
            ("a: 2026-99-99", "not valid YAML"),
            ("a: " + "9" * 5000, "not valid YAML|beyond 64 bits"),
            ("a: .nan", "no finite number"),
            ("1: x", "keys must be text"),
            ("? [a, b]\n: x", "keys must be text|not valid YAML"),
            ('a: "\\e[2J"', "cannot be shown"),
            (b"\xff\xfe\x00", "no text in UTF-8"),
            (bytes(range(256)), "no text in UTF-8"),
        ],
        ids=lambda value: ascii(value)[:20],
    )
    def test_what_is_no_document_is_refused(self, content: str | bytes, expected: str) -> None:
        with pytest.raises(DocumentError, match=expected) as error:
            parse_yaml(content)
        assert len(str(error.value)) < 500

    @given(st.text(alphabet="a1:-[]{}&*!?|>'\"#%@`,. \n\t~0xe", max_size=40) | st.binary(max_size=40))
    def test_any_text_gives_values_or_a_document_error(self, content: str | bytes) -> None:
        try:
            value = parse_yaml(content)
        except DocumentError:
            return
        assert json.loads(json.dumps(value)) == value


class TestSidecars:
    @pytest.mark.parametrize(
        "content",
        [b"[" * 100_000, b'{"SliceThickness": ' + b"9" * 5000 + b"}", b'{"SliceThickness": NaN}', b"\xff", b"{" * 50],
        ids=["deep", "digits", "nan", "binary", "open"],
    )
    def test_a_hostile_sidecar_is_a_volume_error(
        self, content: bytes, tmp_path: Path, make_volume: Callable[..., Any]
    ) -> None:
        from scorefusion.imaging.files import read_volume, write_volume

        write_volume(make_volume((5, 6, 7)), tmp_path / "x.nii.gz")
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(VolumeError, match=r"x\.json"):
            read_volume(tmp_path / "x.nii.gz")

    def test_odd_values_that_nobody_asks_for_do_no_harm(self, tmp_path: Path, make_volume: Callable[..., Any]) -> None:
        from scorefusion.imaging.files import read_volume, write_volume

        write_volume(make_volume((5, 6, 7)), tmp_path / "x.nii.gz")
        (tmp_path / "x.json").write_bytes(
            b'\xef\xbb\xbf{"Other": NaN, "Big": ' + b"9" * 5000 + b', "SliceThickness": 3}'
        )
        assert read_volume(tmp_path / "x.nii.gz").slice_thickness == 3


class TestRecipes:
    @pytest.fixture
    def read(self, tmp_path: Path) -> Callable[..., Any]:
        pytest.importorskip("pydantic")
        from scorefusion.training.recipe import read_recipe

        def read(text: str | bytes, *changes: str) -> Any:
            (tmp_path / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
            return read_recipe(tmp_path / "mine.yaml", changes)

        return read

    def test_a_recipe_that_extends_itself_is_told(self, read: Callable[..., Any]) -> None:
        with pytest.raises(RequestError, match=r"extends itself: mine\.yaml -> mine\.yaml"):
            read("extends: mine\n")

    def test_a_circle_of_recipes_is_told(self, read: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "other.yaml").write_text("extends: mine\n")
        with pytest.raises(RequestError, match=r"extends itself: mine\.yaml -> other\.yaml -> mine\.yaml"):
            read("extends: other\n")

    def test_a_long_chain_of_recipes_is_told(self, read: Callable[..., Any], tmp_path: Path) -> None:
        for number in range(500):
            (tmp_path / f"r{number}.yaml").write_text(f"extends: r{number + 1}\n")
        with pytest.raises(RequestError, match="more than 7 others"):
            read("extends: r0\n")

    @pytest.mark.parametrize("base", ["[a]", "{a: b}", "5", "''", "x" * 5000, "../nothing"])
    def test_what_is_extended_is_one_recipe(self, read: Callable[..., Any], base: str) -> None:
        with pytest.raises(RequestError, match="extends|no recipe") as error:
            read(f"extends: {base}\n")
        assert len(str(error.value)) < 900

    @pytest.mark.parametrize("text", [BOMB, "[" * 5000, b"\xff\xfe\x00\x01", "a: &a [*a]", "x" * 300_000, "", "[]"])
    def test_what_is_no_recipe_is_told(self, read: Callable[..., Any], text: str | bytes) -> None:
        with pytest.raises(RequestError, match=r"mine\.yaml"):
            read(text)

    @pytest.mark.parametrize(
        "change", ["a." * 5000 + "b=1", "seed=[", "seed=" + "[" * 5000, "seed=!!binary aGVsbG8=", "seed=" + "9" * 5000]
    )
    def test_a_change_from_the_command_line_is_held_to_the_same(self, read: Callable[..., Any], change: str) -> None:
        with pytest.raises(RequestError) as error:
            read("extends: brain-sr\nname: mine\n", change)
        assert len(str(error.value)) < 700

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ("networks.plane.blocks=1000000000", "networks.plane.blocks is 1000000000"),
            ("networks.plane.resampling=blok", "networks.plane.resampling is 'blok'"),
            ("networks.fusion.normalisation=batch", "networks.fusion.normalisation is 'batch'"),
            ("networks.timesteps=1000000000000", "networks.timesteps"),
            ("networks.base_rounds=1000000000", "networks.base_rounds"),
            ("output.presets.fast={steps: 1, solver: ddim, samples: 1000000000000}", "output.presets.fast.samples"),
            ("output.presets.fast={steps: 1, solver: ddim, eta: x}", "output.presets.fast.eta is 'x'"),
            ("output.uncertainty={samples: true}", "output.uncertainty.samples is True"),
            ("output.domain={extent_mm: big}", "output.domain.extent_mm"),
            ("spacing_mm=[0.000001, 1, 1]", "spacing_mm"),
        ],
    )
    def test_what_no_bundle_may_hold_is_refused_before_the_training(
        self, read: Callable[..., Any], change: str, expected: str
    ) -> None:
        with pytest.raises(RequestError, match=expected):
            read("extends: brain-sr\nname: mine\n", change)


def test_the_limit_of_depth_leaves_room_for_every_document_of_ours() -> None:
    assert parse_json(b"[" * DEEPEST + b"]" * DEEPEST)
