"""Models on disk: what is accepted, what is refused and with which words."""

from __future__ import annotations

import copy
import json
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scorefusion.bundle import store
from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.install import import_bundle, remove_bundle
from scorefusion.bundle.metadata import validate_metadata
from scorefusion.bundle.store import bundle_folders, find_bundle, list_bundles, user_models_folder
from scorefusion.bundle.write import write_bundle
from scorefusion.errors import BundleError, UnknownModelError

torch = pytest.importorskip("torch")

from tiny_models import tiny_ensemble, tiny_volume, write_tiny_bundle  # noqa: E402

from scorefusion.fusion.inputs import InputLayout  # noqa: E402
from scorefusion.fusion.rules import PlaneAverage  # noqa: E402

PLANE = "models/plane.safetensors"


@pytest.fixture(autouse=True)
def _no_real_models(models_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the user's nor the shipped models may change what these tests see."""
    monkeypatch.setattr(store, "_PACKAGE", tmp_path / "elsewhere" / "a" / "b")


@pytest.fixture
def make_zip(tmp_path: Path) -> Callable[..., Path]:
    """Packs a bundle's folder; `extra` adds members by name or ZipInfo."""

    def pack(bundle: Bundle, inside: str = "", extra: dict[Any, bytes] | None = None, leave_out: str = "") -> Path:
        path = tmp_path / "model.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(bundle.folder.rglob("*")):
                name = file.relative_to(bundle.folder).as_posix()
                if file.is_file() and name != leave_out:
                    archive.write(file, f"{inside}{name}")
            for name, content in (extra or {}).items():
                archive.writestr(name, content)
        return path

    return pack


def ship(bundle: Bundle, tmp_path: Path) -> Path:
    """Put a copy among the models that come with the program."""
    folder = tmp_path / "elsewhere" / "a" / "b" / "_models" / bundle.id
    shutil.copytree(bundle.folder, folder)
    return folder


class TestWrittenBundle:
    def test_weights_come_back_within_half_precision(self, bundle_metadata: dict, tmp_path: Path) -> None:
        weight = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))
        states = {PLANE: {"weight": weight, "steps": torch.arange(3)}, "models/fusion.safetensors": {"weight": weight}}
        state = write_bundle(tmp_path / "x", bundle_metadata, states, "card", "licence").load_state_dict(PLANE)
        assert state["weight"].dtype == torch.float32
        assert torch.allclose(state["weight"], weight, rtol=1e-3, atol=1e-6)
        assert state["steps"].dtype == torch.int64

    def test_is_small_and_has_no_pickle(self, tiny_bundle: Bundle) -> None:
        files = sorted(
            f.relative_to(tiny_bundle.folder).as_posix() for f in tiny_bundle.folder.rglob("*") if f.is_file()
        )
        assert files == [
            "LICENSE",
            "configs/metadata.json",
            "docs/README.md",
            "models/fusion.safetensors",
            "models/plane.safetensors",
        ]

    def test_has_the_keys_of_monai(self, tiny_bundle: Bundle) -> None:
        required = {
            "schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task",
            "required_packages_version", "description", "authors", "copyright", "network_data_format",
        }  # fmt: skip
        assert required <= set(tiny_bundle.metadata)
        assert set(tiny_bundle.metadata["network_data_format"]["inputs"]) == {"image"}

    def test_metadata_given_is_not_changed(self, bundle_metadata: dict, tmp_path: Path, tiny_bundle: Bundle) -> None:
        before = copy.deepcopy(bundle_metadata)
        states = {path: tiny_bundle.load_state_dict(path) for path in tiny_bundle.network_files}
        write_bundle(tmp_path / "again", bundle_metadata, states, "card", "licence")
        assert bundle_metadata == before

    def test_tied_and_transposed_tensors_can_be_stored(self, bundle_metadata: dict, tmp_path: Path) -> None:
        weight = torch.arange(6.0).reshape(2, 3)
        states = {PLANE: {"a": weight, "b": weight.t(), "c": weight}, "models/fusion.safetensors": {"d": weight}}
        bundle = write_bundle(tmp_path / "tied", bundle_metadata, states, "card", "licence")
        assert torch.equal(bundle.load_state_dict(PLANE)["b"], weight.t())

    def test_existing_folder_is_kept_unless_overwritten(self, tiny_bundle: Bundle, bundle_metadata: dict) -> None:
        states = {path: tiny_bundle.load_state_dict(path) for path in tiny_bundle.network_files}
        with pytest.raises(BundleError, match="already exists"):
            write_bundle(tiny_bundle.folder, bundle_metadata, states, "card", "licence")
        write_bundle(tiny_bundle.folder, bundle_metadata, states, "new card", "licence", overwrite=True)
        assert Bundle(tiny_bundle.folder).card() == "new card"

    def test_wrong_metadata_leaves_nothing_behind(self, bundle_metadata: dict, tmp_path: Path) -> None:
        bundle_metadata["scorefusion"]["task"] = "magic"
        with pytest.raises(BundleError, match="task"):
            write_bundle(tmp_path / "w" / "bad", bundle_metadata, {}, "card", "licence")
        assert not (tmp_path / "w").exists()

    def test_overflow_in_half_precision_is_refused(self, bundle_metadata: dict, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="half precision"):
            write_bundle(tmp_path / "huge", bundle_metadata, {PLANE: {"a": torch.tensor([1e6])}}, "card", "licence")

    def test_hash_changes_with_weights_and_with_metadata(self, tiny_bundle: Bundle, bundle_metadata: dict) -> None:
        states = {path: tiny_bundle.load_state_dict(path) for path in tiny_bundle.network_files}
        hashes = {tiny_bundle.hash}
        bundle_metadata["scorefusion"]["residual_gain"] = 4.0
        hashes.add(write_bundle(tiny_bundle.folder, bundle_metadata, states, "", "", overwrite=True).hash)
        next(iter(states[PLANE].values())).add_(1)
        hashes.add(write_bundle(tiny_bundle.folder, bundle_metadata, states, "", "", overwrite=True).hash)
        assert len(hashes) == 3


class TestIntegrity:
    def test_an_untouched_bundle_verifies(self, tiny_bundle: Bundle) -> None:
        tiny_bundle.verify()

    def test_one_changed_bit_is_noticed_on_loading(self, tiny_bundle: Bundle) -> None:
        file = tiny_bundle.folder / PLANE
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        tiny_bundle.check_present()
        with pytest.raises(BundleError, match=r"tiny-sr.*changed.*plane\.safetensors.*SHA-256"):
            tiny_bundle.load_state_dict(PLANE)
        with pytest.raises(BundleError, match="SHA-256"):
            tiny_bundle.verify()

    def test_missing_file_is_named(self, tiny_bundle: Bundle) -> None:
        (tiny_bundle.folder / PLANE).unlink()
        with pytest.raises(BundleError, match=r"incomplete: models/plane\.safetensors is missing"):
            tiny_bundle.verify()

    def test_cut_file_is_noticed_without_reading_it(self, tiny_bundle: Bundle) -> None:
        file = tiny_bundle.folder / PLANE
        file.write_bytes(file.read_bytes()[:-10])
        with pytest.raises(BundleError, match="damaged"):
            tiny_bundle.check_present()

    def test_unlisted_file_is_never_loaded(self, tiny_bundle: Bundle) -> None:
        (tiny_bundle.folder / "models" / "other.safetensors").write_bytes(b"")
        with pytest.raises(BundleError, match="lists no file"):
            tiny_bundle.load_state_dict("models/other.safetensors")

    def test_a_folder_without_metadata_is_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"no configs/metadata\.json"):
            Bundle(tmp_path)

    def test_broken_json_is_told(self, tiny_bundle: Bundle) -> None:
        (tiny_bundle.folder / "configs" / "metadata.json").write_text("{")
        with pytest.raises(BundleError, match="not valid JSON"):
            Bundle(tiny_bundle.folder)


def _set(*path: Any, value: Any) -> Callable[[dict], None]:
    def change(metadata: dict) -> None:
        inner: Any = metadata["scorefusion"]
        for key in path[:-1]:
            inner = inner[key]
        if value is None and path[-1] != "same_contrast_as":
            del inner[path[-1]]
        else:
            inner[path[-1]] = value

    return change


class TestMetadata:
    def test_complete_metadata_passes(self, tiny_bundle: Bundle) -> None:
        validate_metadata(tiny_bundle.metadata, "tiny-sr")

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (
                _set("task", value="magic"),
                r"scorefusion\.task is 'magic' \(expected 'super_resolution', 'translation'\)",
            ),
            (_set("task", value=None), r"scorefusion\.task is missing"),
            (_set("spacing_mm", value=[1.0, 1.0]), r"spacing_mm is \[1\.0, 1\.0\] \(expected three positive"),
            (_set("spacing_mm", value=[1.0, 0.0, 1.0]), "spacing_mm"),
            (_set("conditions", value=[]), "conditions"),
            (_set("conditions", 0, "optional", value=True), "the first condition is the base"),
            (_set("target", "same_contrast_as", value="t9"), r"target\.same_contrast_as is 't9'"),
            (_set("planes", value=["axial", "oblique"]), "planes"),
            (_set("planes", value=["axial", "axial"]), "planes"),
            (_set("slab_radius", value=-1), "slab_radius"),
            (_set("inputs", value=None), r"scorefusion\.inputs is missing"),
            (_set("residual_gain", value=0), "residual_gain"),
            (_set("slice_profile", value="sinc"), "slice_profile is 'sinc'"),
            (_set("slab_radius", value=True), "slab_radius"),
            (_set("networks", "planes", 0, "planes", value=["axial"]), "no network for 'coronal', 'sagittal'"),
            (_set("networks", "planes", 0, "file", value="models/other.safetensors"), r"planes\[0\]\.file"),
            (_set("networks", "fusion", "config", value=None), r"fusion\.config is missing"),
            (_set("schedule", "prediction", value="epsilon"), r"schedule\.prediction"),
            (_set("presets", "fast", value=None), r"presets\.fast is missing"),
            (_set("presets", "fast", "start", value=100), "below 100"),
            (_set("presets", "fast", "steps", value=0), r"presets\.fast\.steps is 0"),
            (_set("files", PLANE, "sha256", value="abc"), "64 hexadecimal digits"),
            (_set("files", "../x.safetensors", value={"sha256": "0" * 64, "bytes": 1}), "outside the bundle"),
            (_set("files", "models/x.pt", value={"sha256": "0" * 64, "bytes": 1}), "may carry code"),
            (_set("id", value="../evil"), r"scorefusion\.id"),
        ],
    )
    def test_each_problem_names_key_value_and_expectation(
        self, tiny_bundle: Bundle, change: Callable[[dict], None], expected: str
    ) -> None:
        change(tiny_bundle.metadata)
        with pytest.raises(BundleError, match=expected):
            validate_metadata(tiny_bundle.metadata, "tiny-sr")

    def test_all_problems_are_listed_at_once(self, tiny_bundle: Bundle) -> None:
        for change in (_set("task", value="magic"), _set("base", value="fourier"), _set("licence", value=None)):
            change(tiny_bundle.metadata)
        with pytest.raises(BundleError, match=r"task.*base.*licence"):
            validate_metadata(tiny_bundle.metadata, "tiny-sr")

    def test_a_newer_format_asks_for_an_update(self, tiny_bundle: Bundle) -> None:
        tiny_bundle.section["format_version"] = 2
        with pytest.raises(BundleError, match="Update ScoreFusion"):
            validate_metadata(tiny_bundle.metadata, "tiny-sr")

    def test_other_monai_bundles_are_recognised(self) -> None:
        with pytest.raises(BundleError, match="no ScoreFusion model"):
            validate_metadata({"version": "0.1.0", "description": "spleen"}, "spleen")

    def test_unknown_keys_are_left_alone(self, tiny_bundle: Bundle) -> None:
        tiny_bundle.section["shoe_size"] = 44
        validate_metadata(tiny_bundle.metadata, "tiny-sr")

    @pytest.mark.parametrize("nonsense", [None, [], "text", {"scorefusion": []}])
    def test_nonsense_is_refused_in_words(self, nonsense: Any) -> None:
        with pytest.raises(BundleError):
            validate_metadata(nonsense, "x")


class TestVolumeAlone:
    """Bundles with a 3D network and no planes."""

    @pytest.fixture(params=["diffusion", "regression"])
    def alone(self, request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
        rule = tiny_volume(InputLayout(slab_radius=0, prediction="clean"), request.param)
        return write_tiny_bundle(tmp_path / "made" / "alone", rule)

    def test_passes_without_planes_and_slabs(self, alone: Bundle) -> None:
        assert alone.volume_kind in ("diffusion", "regression")
        assert not {"planes", "slab_radius"} & set(alone.section)
        assert alone.network_files == ["models/volume.safetensors"]
        alone.verify()

    def test_empty_lists_of_planes_pass_too(self, alone: Bundle) -> None:
        alone.section["planes"] = []
        alone.section["networks"] |= {"planes": [], "fusion": None}
        validate_metadata(alone.metadata, "alone")
        assert alone.network_files == ["models/volume.safetensors"]

    def test_plane_models_have_no_volume_kind(self, tiny_bundle: Bundle) -> None:
        assert tiny_bundle.volume_kind is None
        tiny_bundle.section["networks"]["volume"] = None
        validate_metadata(tiny_bundle.metadata, "tiny-sr")

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (_set("networks", "volume", "kind", value="flow"), r"volume\.kind is 'flow' \(expected 'diffusion', 'regr"),
            (_set("networks", "volume", "kind", value=None), r"volume\.kind is missing"),
            (_set("networks", "volume", "file", value="models/other.safetensors"), r"volume\.file"),
            (_set("networks", "volume", "config", value=None), r"volume\.config is missing"),
            (_set("networks", "volume", value="models/volume.safetensors"), r"networks\.volume is 'models"),
            (_set("networks", "volume", value=None), r"networks\.planes is missing .*networks\.volume instead"),
            (_set("networks", "planes", value=[{"file": "x"}]), r"planes stands beside scorefusion\.networks\.volume"),
            (_set("networks", "fusion", value={"file": "x"}), r"fusion stands beside scorefusion\.networks\.volume"),
        ],
    )
    def test_each_problem_names_key_value_and_expectation(
        self, alone: Bundle, change: Callable[[dict], None], expected: str
    ) -> None:
        change(alone.metadata)
        with pytest.raises(BundleError, match=expected):
            validate_metadata(alone.metadata, "alone")

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (
                _set("schedule", "prediction", value="noise"),
                r"prediction is 'noise' \(expected 'clean': netw",
            ),
            (_set("schedule", "prediction", value="v"), r"prediction is 'v' \(expected 'clean'"),
            (_set("presets", "fast", "steps", value=4), r"presets\.fast\.steps is 4 \(expected 1: .*answers once"),
            (_set("presets", "fast", "samples", value=8), r"presets\.fast\.samples is 8 \(expected 1"),
        ],
    )
    def test_a_regression_answers_once_and_with_the_clean_residual(
        self, alone: Bundle, change: Callable[[dict], None], expected: str
    ) -> None:
        change(alone.metadata)
        if alone.volume_kind == "diffusion":
            validate_metadata(alone.metadata, "alone")
        else:
            with pytest.raises(BundleError, match=expected):
                validate_metadata(alone.metadata, "alone")


class TestOptionalConditions:
    def test_some_network_must_work_without_them(self, tmp_path: Path) -> None:
        inputs = InputLayout(slab_radius=1, plane_context=True, presence_context=2, prediction="clean")
        rule = PlaneAverage(tiny_ensemble(inputs, groups=[(0, 1)]))
        bundle = write_tiny_bundle(tmp_path / "told", rule, ["t1", "t2"], "translation")  # told of absence: passes
        bundle.section["inputs"]["presence_context"] = 0
        with pytest.raises(BundleError, match=r"no network that works with 't1' alone \(expected one: the other cond"):
            validate_metadata(bundle.metadata, "told")
        bundle.section["conditions"][1]["optional"] = False
        validate_metadata(bundle.metadata, "told")


class TestFinding:
    def test_home_can_be_moved(self, models_home: Path) -> None:
        assert user_models_folder() == models_home / "models"
        assert bundle_folders()[-1] == models_home / "models"

    def test_shipped_models_come_first(self, tiny_bundle: Bundle, tmp_path: Path) -> None:
        shipped = ship(tiny_bundle, tmp_path)
        assert find_bundle("tiny-sr").folder == shipped
        assert [(info.id, info.shipped, info.problem) for info in list_bundles()] == [("tiny-sr", True, None)]

    @pytest.mark.parametrize(
        "models",
        ["a/b/_models", "a/Resources/Models", "Resources/Models"],
        ids=["in a wheel", "in Slicer's module folder", "in a checkout"],
    )
    def test_shipped_models_are_found_in_every_layout(self, tiny_bundle: Bundle, tmp_path: Path, models: str) -> None:
        shutil.copytree(tiny_bundle.folder, tmp_path / "elsewhere" / models / "tiny-sr")
        assert [info.id for info in list_bundles() if info.shipped] == ["tiny-sr"]

    @pytest.mark.parametrize("spelling", ["tiny-sr", "Tiny-SR", "tiny MODEL"])
    def test_found_by_id_or_name_in_any_case(self, tiny_bundle: Bundle, spelling: str) -> None:
        import_bundle(tiny_bundle.folder)
        assert find_bundle(spelling).id == "tiny-sr"

    def test_found_by_folder(self, tiny_bundle: Bundle) -> None:
        assert find_bundle(tiny_bundle.folder).id == "tiny-sr"

    def test_unknown_name_brings_the_nearest(self, tiny_bundle: Bundle) -> None:
        import_bundle(tiny_bundle.folder)
        with pytest.raises(
            UnknownModelError, match=r"no model 'tiny-rs'\. Did you mean 'tiny-sr'\? Installed: tiny-sr"
        ):
            find_bundle("tiny-rs")

    def test_no_model_at_all_tells_where_was_searched(self, models_home: Path) -> None:
        with pytest.raises(UnknownModelError, match="none is installed at all.*scorefusion-home"):
            find_bundle("brain-sr")

    def test_a_zip_must_be_imported_first(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        with pytest.raises(UnknownModelError, match="scorefusion models import"):
            find_bundle(make_zip(tiny_bundle))

    def test_a_broken_model_is_listed_with_its_problem(self, tiny_bundle: Bundle) -> None:
        installed = import_bundle(tiny_bundle.folder)
        (installed.folder / PLANE).unlink()
        info = list_bundles()[0]
        assert "missing" in str(info.problem)
        assert json.dumps(info.to_dict())
        with pytest.raises(BundleError, match="incomplete"):
            find_bundle("tiny-sr")

    def test_listing_needs_no_torch(self, tiny_bundle: Bundle, repository: Path, models_home: Path) -> None:
        import_bundle(tiny_bundle.folder)
        code = (
            "import sys; sys.modules['torch'] = None; sys.modules['safetensors'] = None\n"
            f"sys.path.insert(0, {str(repository / 'ScoreFusion')!r})\n"
            "from scorefusion.bundle.store import list_bundles\n"
            "info = next(i for i in list_bundles() if i.id == 'tiny-sr')\n"
            "info.bundle.verify(); print(info.to_dict()['hash'])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == tiny_bundle.hash


class TestImporting:
    @pytest.mark.parametrize("inside", ["", "tiny-sr/", "some folder/"])
    def test_zip_with_or_without_a_folder_inside(
        self, tiny_bundle: Bundle, make_zip: Callable[..., Path], inside: str
    ) -> None:
        bundle = import_bundle(make_zip(tiny_bundle, inside=inside))
        assert (bundle.id, bundle.hash) == ("tiny-sr", tiny_bundle.hash)
        assert bundle.folder == user_models_folder() / "tiny-sr"

    def test_desktop_litter_is_left_out(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        extra = {"__MACOSX/._x": b"", "models/.DS_Store": b""}
        bundle = import_bundle(make_zip(tiny_bundle, extra=extra))
        assert not list(bundle.folder.rglob("*DS_Store"))

    def test_a_second_import_needs_force(self, tiny_bundle: Bundle) -> None:
        import_bundle(tiny_bundle.folder)
        with pytest.raises(BundleError, match="already installed.*--force"):
            import_bundle(tiny_bundle.folder)
        assert import_bundle(tiny_bundle.folder, force=True).id == "tiny-sr"
        assert [f.name for f in user_models_folder().iterdir()] == ["tiny-sr"]

    def test_shipped_models_cannot_be_replaced_or_removed(self, tiny_bundle: Bundle, tmp_path: Path) -> None:
        ship(tiny_bundle, tmp_path)
        with pytest.raises(BundleError, match="came with ScoreFusion"):
            import_bundle(tiny_bundle.folder, force=True)
        with pytest.raises(BundleError, match="came with ScoreFusion"):
            remove_bundle("tiny-sr")

    def test_imported_models_can_be_removed_even_when_broken(self, tiny_bundle: Bundle) -> None:
        folder = import_bundle(tiny_bundle.folder).folder
        (folder / "configs" / "metadata.json").write_text("{}")
        remove_bundle("tiny-sr")
        assert not folder.exists()

    def test_removing_an_unknown_model_names_the_nearest(self, tiny_bundle: Bundle) -> None:
        import_bundle(tiny_bundle.folder)
        with pytest.raises(UnknownModelError, match="Did you mean 'tiny-sr'"):
            remove_bundle("tiny")


@pytest.mark.usefixtures("nothing_written")
class TestUntrustedFiles:
    """Nothing from a bad file may reach the disk, inside or outside the models' folder."""

    @pytest.mark.parametrize(
        "name",
        [
            "../evil.txt",
            "models/../../evil.txt",
            "/tmp/evil.txt",
            "C:/evil.txt",
            "..\\evil.txt",
            "C:\\evil.txt",
            "a/\0/evil.txt",
        ],
    )
    def test_paths_that_lead_outside(self, tiny_bundle: Bundle, make_zip: Callable[..., Path], name: str) -> None:
        info = zipfile.ZipInfo("placeholder.txt")
        info.filename = name  # past the clean-up that ZipInfo's constructor does
        with pytest.raises(BundleError, match="leads outside"):
            import_bundle(make_zip(tiny_bundle, extra={info: b"x"}))

    def test_links_in_a_zip(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        info = zipfile.ZipInfo("models/evil.json")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        with pytest.raises(BundleError, match="is a link"):
            import_bundle(make_zip(tiny_bundle, extra={info: b"/etc/passwd"}))

    @pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
    @pytest.mark.parametrize("target", ["/etc/passwd", "/etc"])
    def test_links_in_a_folder(self, tiny_bundle: Bundle, target: str) -> None:
        link = tiny_bundle.folder / "docs" / "link.txt"
        link.symlink_to(target)
        with pytest.raises(BundleError, match="is a link"):
            import_bundle(tiny_bundle.folder)

    @pytest.mark.parametrize("name", ["models/evil.pt", "evil.py", "models/evil.pkl", "evil.so", "evil"])
    def test_files_that_may_carry_code(self, tiny_bundle: Bundle, make_zip: Callable[..., Path], name: str) -> None:
        with pytest.raises(BundleError, match="does not need"):
            import_bundle(make_zip(tiny_bundle, extra={name: b"x"}))

    def test_too_large_in_all(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        with pytest.raises(BundleError, match="unpack to more than"):
            import_bundle(make_zip(tiny_bundle), max_bytes=500)

    def test_zip_bomb(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        with pytest.raises(BundleError, match="no real weights"):
            import_bundle(make_zip(tiny_bundle, extra={"docs/zeros.txt": bytes(11 * 1024**2)}))

    def test_names_that_differ_in_case_only(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        with pytest.raises(BundleError, match="occurs twice"):
            import_bundle(make_zip(tiny_bundle, extra={"configs/METADATA.json": b"{}"}))

    def test_changed_weights(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        file = tiny_bundle.folder / PLANE
        file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
        with pytest.raises(BundleError, match="SHA-256"):
            import_bundle(make_zip(tiny_bundle))

    def test_missing_weights(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        with pytest.raises(BundleError, match="missing"):
            import_bundle(make_zip(tiny_bundle, leave_out=PLANE))

    def test_no_metadata(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        with pytest.raises(BundleError, match="not a model bundle"):
            import_bundle(make_zip(tiny_bundle, leave_out="configs/metadata.json"))

    def test_two_models_in_one_zip(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        with pytest.raises(BundleError, match="not one model bundle"):
            import_bundle(make_zip(tiny_bundle, inside="a/", extra={"b/configs/metadata.json": b"{}"}))

    def test_cut_zip(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        path = make_zip(tiny_bundle)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(BundleError, match="zip file that can be read"):
            import_bundle(path)

    def test_damage_inside_a_zip(self, tiny_bundle: Bundle, make_zip: Callable[..., Path]) -> None:
        path = make_zip(tiny_bundle)
        content = bytearray(path.read_bytes())
        at = content.find(b"stem.weight")
        if at < 0:  # compressed: spoil the middle of the archive
            at = len(content) // 2
        content[at : at + 8] = b"\xff" * 8
        path.write_bytes(content)
        with pytest.raises(BundleError):
            import_bundle(path)

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="no file or folder"):
            import_bundle(tmp_path / "nothing.zip")
