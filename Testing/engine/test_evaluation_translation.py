"""Translation: scores on slices, lesions, baselines, folds, and a run with tiny random models."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nibabel = pytest.importorskip("nibabel")

from tiny_models import tiny_ensemble, tiny_fusion, tiny_volume, write_tiny_bundle  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from scorefusion.bundle.folder import Bundle  # noqa: E402
from scorefusion.bundle.store import find_bundle  # noqa: E402
from scorefusion.datasets.case import Case  # noqa: E402
from scorefusion.datasets.datalist import SECTIONS, Datalist, project_datalist, write_datalist  # noqa: E402
from scorefusion.errors import RequestError, VolumeError  # noqa: E402
from scorefusion.evaluation import cli  # noqa: E402
from scorefusion.evaluation.lesions import (  # noqa: E402
    LesionScore,
    fluid_mask,
    lesion_contrast,
    lesion_region,
    read_lesion,
    score_lesion,
)
from scorefusion.evaluation.metrics import score_slices, scored_slices, slice_mmd, ssim_map  # noqa: E402
from scorefusion.evaluation.models import Settings, load  # noqa: E402
from scorefusion.evaluation.rows import Made, Method, choose, measure  # noqa: E402
from scorefusion.evaluation.suites import PAIR_SUITES, PairSuite, find_pair_suite  # noqa: E402
from scorefusion.evaluation.translation.baselines import draw_samples, fitted_baselines, source_itself  # noqa: E402
from scorefusion.evaluation.translation.command import evaluate_translation, translators  # noqa: E402
from scorefusion.evaluation.translation.direction import Direction, Input, common_direction  # noqa: E402
from scorefusion.evaluation.translation.folds import check_folds, fold_prefixes, read_folds, refuse_seen  # noqa: E402
from scorefusion.evaluation.translation.pairs import Pair, read_pair  # noqa: E402
from scorefusion.evaluation.translation.tables import compare_translations  # noqa: E402
from scorefusion.fusion.inputs import InputLayout  # noqa: E402
from scorefusion.imaging.files import write_volume  # noqa: E402
from scorefusion.imaging.volume import Volume  # noqa: E402
from scorefusion.pipeline import translate  # noqa: E402

SHAPE = (30, 34, 28)
T1_TO_FLAIR = Direction((Input("t1", ("t1",)),), ("flair",))
RULE = InputLayout(slab_radius=1, plane_context=True, residual_gain=4.0, prediction="clean")


def brain_values(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Intensities in [0, 1] with texture on all axes, and where there is a brain; `SHAPE`."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1.15, 1.15, size) for size in SHAPE), indexing="ij")
    inside = sum(a**2 for a in axes) < 1
    waves = 0.5 + 0.3 * np.sin(9 * axes[0] + seed) * np.cos(8 * axes[1] + 5 * axes[2])
    return (waves + 0.05 * rng.standard_normal(SHAPE)).clip(0.05, 1.0), inside


def of_datalist(path: Path, subjects: list[str] | None = None) -> PairSuite:
    return find_pair_suite(path, None, "test", subjects or [])


def pairs_in(folder: Path, name: str) -> PairSuite:
    return find_pair_suite(None, name, "test", [], folder=folder)


def rows_of(bundle: Bundle, *plans: str, seed: int = 0, **facts: Any) -> list[Method]:
    how = Settings(plans or None, seed, "cpu")
    return translators(load(bundle, how), how=how, **facts)


def lesion_of_three(place: tuple[int, int, int] = (14, 16, 13)) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[tuple(slice(p - 1, p + 2) for p in place)] = True
    return mask


def write_person(folder: Path, name: str, seed: int, to_flair: Callable[[np.ndarray], np.ndarray]) -> Case:
    """A stripped person whose FLAIR is a function of the T1w, with a lesion that the T1w does not show."""
    values, inside = brain_values(seed)
    lesion = lesion_of_three()
    flair = np.where(lesion, 1.4, to_flair(values))
    affine = np.diag([-1.0, 1.0, 1.25, 1.0])  # LAS
    files = {}
    for kind, data in (("t1", 800 * values), ("flair", 300 * flair), ("lesion", lesion)):
        files[kind] = folder / f"{name}_{kind}.nii.gz"
        write_volume(Volume((data * inside)[None].astype(np.float32), affine), files[kind])
    contrasts = {"t1": files["t1"], "flair": files["flair"]}
    return Case(name, contrasts, masks={"lesion": files["lesion"]}, skull_stripped=True, sharp_axes="RA")


@pytest.fixture
def people(tmp_path: Path) -> list[Case]:
    return [write_person(tmp_path, f"P{n}", n, lambda v: 1.1 - v**2) for n in range(3)]


@pytest.fixture
def datalist(people: list[Case], tmp_path: Path) -> Path:
    def entry(case: Case) -> dict[str, Any]:
        files = {key: path.name for key, path in case.contrasts.items()}
        masks = {key: path.name for key, path in case.masks.items()}
        return {"subject": case.subject, "contrasts": files, "masks": masks, "skull_stripped": True, "sharp_axes": "RA"}

    content = {"name": "three people", "training": [entry(people[0])], "test": [entry(case) for case in people[1:]]}
    path = tmp_path / "people.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Writes a random T1w to FLAIR bundle: three planes and fusion, or a U-Net regression."""

    def make(name: str, *, regression: bool = False, **section: Any) -> Bundle:
        rule = tiny_volume(RULE, "regression") if regression else tiny_fusion(tiny_ensemble(RULE))
        return write_tiny_bundle(tmp_path / "models" / name, rule, ("t1",), "translation", **section)

    return make


def pair_of(values: dict[str, np.ndarray], truth: np.ndarray, inside: np.ndarray, subject: str = "X") -> Pair:
    """A pair made in memory; all values in [0, 1]."""
    base = Volume(next(iter(values.values()))[None].astype(np.float32), np.eye(4))
    return Pair(
        SimpleNamespace(subject=subject, case_id=subject, apart=None),  # type: ignore[arg-type]
        {name: torch.from_numpy(2 * value - 1).float() for name, value in values.items()},
        torch.from_numpy(truth).float(),
        base,
        SimpleNamespace(low=0.0, high=1.0),  # type: ignore[arg-type]
        (*values, "flair"),
        SimpleNamespace(mask=torch.from_numpy(inside), how="given"),  # type: ignore[arg-type]
        2,
        "made up",
    )


class TestSlices:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_ssim_in_slices_is_that_of_scikit_image(self, axis: int) -> None:
        skimage = pytest.importorskip("skimage.metrics")
        rng = np.random.default_rng(0)
        truth = rng.random((19, 12, 21))
        estimate = truth + 0.2 * rng.random(truth.shape)
        local = ssim_map(
            torch.from_numpy(estimate), torch.from_numpy(truth), [a for a in range(3) if a != axis]
        ).numpy()
        for index in (0, truth.shape[axis] - 1):
            pair = [np.take(volume, index, axis=axis) for volume in (estimate, truth)]
            _, expected = skimage.structural_similarity(*pair, data_range=1.0, win_size=7, full=True)
            assert np.allclose(np.take(local, index, axis=axis), expected, atol=1e-9)

    def test_scores_are_means_over_slices_with_a_fifth_of_the_largest_area(self) -> None:
        truth = torch.rand(12, 11, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        estimate = truth.clone()
        estimate[..., 1] += 0.1
        estimate[..., 2] += 0.2
        estimate[..., 3] += 5.0
        mask = torch.zeros(truth.shape, dtype=torch.bool)
        mask[:, :10, 1] = True  # 120 voxels
        mask[:6, :4, 2] = True  # 24 voxels: exactly a fifth
        mask[:6, :3, 3] = True  # 18 voxels: too few
        assert scored_slices(mask, 2) == [1, 2]
        psnr, _, mae = score_slices(estimate, truth, mask, 2)
        assert psnr == pytest.approx((20.0 - 20 * math.log10(0.2)) / 2)
        assert mae == pytest.approx(0.15)

    def test_perfect_slices_have_infinite_psnr_and_ssim_of_one(self) -> None:
        truth = torch.rand(9, 8, 3)
        found = score_slices(truth, truth, torch.ones(9, 8, 3, dtype=torch.bool), 2)
        assert found == (math.inf, pytest.approx(1.0), 0.0)

    def test_mmd_of_slices_lets_errors_of_either_sign_cancel(self) -> None:
        truth = torch.rand(9, 8, 4)
        estimate = truth + 0.1 * torch.tensor([1.0, -1.0, 1.0, -1.0])
        mask = torch.ones(9, 8, 4, dtype=torch.bool)
        assert slice_mmd(estimate, truth, mask, 2) == pytest.approx(0.0, abs=1e-10)
        expected = ((truth + 0.1).mean(2) - truth.mean(2)).square().sum()
        assert slice_mmd(truth + 0.1, truth, mask, 2) == pytest.approx(float(expected), rel=1e-4)


class TestLesions:
    def test_the_ring_lies_two_to_six_voxels_away_inside_the_brain(self) -> None:
        mask = torch.from_numpy(lesion_of_three())
        brain = torch.zeros(SHAPE, dtype=torch.bool)
        brain[5:, :, 2:25] = True
        region = lesion_region(mask, brain)
        assert region is not None
        marked = np.argwhere(mask.numpy())
        everywhere = np.argwhere(np.ones(SHAPE, dtype=bool))
        distance = np.sqrt(((everywhere[:, None] - marked[None]) ** 2).sum(-1)).min(1).reshape(SHAPE)
        expected = (distance >= 2) & (distance <= 6) & brain.numpy()
        assert np.array_equal(region.ring.numpy(), expected)
        assert int(region.inside.sum()) == 27

    def test_contrast_and_cnr_by_hand(self) -> None:
        mask, brain = torch.from_numpy(lesion_of_three()), torch.ones(SHAPE, dtype=torch.bool)
        region = lesion_region(mask, brain)
        assert region is not None
        volume = 0.5 + 0.02 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
        volume[mask] = 0.9
        ring = volume[region.ring].double().numpy()
        contrast, cnr = lesion_contrast(volume, region)
        assert contrast == pytest.approx(0.9 - ring.mean(), abs=1e-6)
        assert cnr == pytest.approx((0.9 - ring.mean()) / ring.std(ddof=1), rel=1e-5)

    @pytest.mark.parametrize(("level", "error"), [(0.5, -1.0), (0.7, -0.5), (0.9, 0.0), (0.3, -1.5)])
    def test_relative_error_of_a_faded_a_lost_and_a_turned_lesion(self, level: float, error: float) -> None:
        found = self._score(wanted=0.4, made=level - 0.5)
        assert found.contrast_error == pytest.approx(error, abs=1e-4)
        assert found.cnr_error == pytest.approx(error, abs=1e-4)
        assert found.mae == pytest.approx(0.4 * abs(error), abs=1e-5)
        assert found.mae_elsewhere == 0.0

    def test_a_dark_lesion_fades_as_a_bright_one_does(self) -> None:
        found = self._score(wanted=-0.4, made=-0.1)
        assert found.contrast_error == pytest.approx(-0.75, abs=1e-4)  # a quarter is left
        assert found.cnr_error == pytest.approx(-0.75, abs=1e-4)

    @staticmethod
    def _score(wanted: float, made: float) -> LesionScore:
        """Of a lesion that stands out by `made` from a ring from which it should by `wanted`."""
        mask, brain = torch.from_numpy(lesion_of_three()), torch.ones(SHAPE, dtype=torch.bool)
        region = lesion_region(mask, brain)
        assert region is not None
        truth = torch.full(SHAPE, 0.5)
        truth[0::2] += 0.01
        estimate = truth.clone()
        ring = float(truth[region.ring].mean())
        truth[mask], estimate[mask] = ring + wanted, ring + made
        return score_lesion(estimate, truth, region, brain)

    def test_fluid_beside_a_lesion_is_no_part_of_the_ring(self) -> None:
        brain, noise = torch.ones(SHAPE, dtype=torch.bool), torch.Generator().manual_seed(0)
        volume = 0.02 * torch.randn(SHAPE, generator=noise) + 0.6
        volume[:, :, 20:] += 0.3  # white matter
        volume[:, 19:24] = 0.05 + 0.02 * torch.rand(SHAPE[0], 5, SHAPE[2], generator=noise)
        fluid = fluid_mask(volume, "t1", brain)
        assert fluid is not None
        assert torch.equal(fluid, volume < 0.2)
        region = lesion_region(torch.from_numpy(lesion_of_three()), brain, "lesion", fluid)
        assert region is not None
        assert float(volume[region.ring].min()) > 0.4
        assert fluid_mask(volume, "t2", brain) is None  # bright there
        assert fluid_mask(volume, None, brain) is None

    def test_few_voxels_give_no_figure(self) -> None:
        mask = torch.zeros(SHAPE, dtype=torch.bool)
        mask[10, 10, 10] = True
        assert lesion_region(mask, torch.ones(SHAPE, dtype=torch.bool)) is None

    def test_a_mask_in_another_axis_order_is_brought_over_and_one_elsewhere_refused(self, tmp_path: Path) -> None:
        like = Volume(np.zeros((1, *SHAPE), np.float32), np.diag([1.0, 1.0, 1.25, 1.0]))
        flipped = np.diag([-1.0, 1.0, 1.25, 1.0])
        flipped[0, 3] = SHAPE[0] - 1
        mask = lesion_of_three((5, 16, 13))
        write_volume(Volume(mask[None, ::-1].astype(np.float32), flipped), tmp_path / "a.nii.gz")
        found = read_lesion({"lesion": tmp_path / "a.nii.gz"}, like)
        assert found is not None
        assert np.array_equal(found[1].numpy(), mask)
        write_volume(Volume(mask[None].astype(np.float32), flipped), tmp_path / "b.nii.gz")
        moved = flipped.copy()
        moved[0, 3] += 3
        write_volume(Volume(mask[None].astype(np.float32), moved), tmp_path / "c.nii.gz")
        with pytest.raises(VolumeError, match="not on the grid"):
            read_lesion({"tumour": tmp_path / "c.nii.gz"}, like)


class TestBaselines:
    def test_linear_regression_recovers_a_linear_relation(self) -> None:
        pairs = []
        for seed in (0, 1):
            values, inside = brain_values(seed)
            pairs.append(pair_of({"t1": values * inside}, (0.9 - 0.6 * values) * inside, inside))
        linear = fitted_baselines([draw_samples(pairs[0], ["t1"])], ["t1"])[0]
        row, _ = measure(pairs[1], linear)
        assert linear.key == "linear"
        assert row["psnr"] > 50

    def test_the_polynomial_recovers_products_of_two_sources_and_the_line_does_not(self) -> None:
        pairs = []
        for seed in (0, 1):
            (a, inside), (b, _) = brain_values(seed), brain_values(seed + 7)
            pairs.append(pair_of({"t1": a, "t2": b}, 0.2 + a * b - 0.3 * a**2 * b, inside))
        by_key = {m.key: m for m in fitted_baselines([draw_samples(pairs[0], ["t1", "t2"])], ["t1", "t2"])}
        assert measure(pairs[1], by_key["polynomial"])[0]["psnr"] > 50
        assert measure(pairs[1], by_key["linear"])[0]["psnr"] < 40

    def test_histogram_matching_recovers_a_rising_relation(self) -> None:
        values, inside = brain_values(0)
        teacher = pair_of({"t1": values * inside}, (values**3) * inside, inside)
        turned = pair_of({"t1": (values * inside)[::-1].copy()}, (values**3 * inside)[::-1].copy(), inside[::-1].copy())
        histogram = next(m for m in fitted_baselines([draw_samples(teacher, ["t1"])], ["t1"]) if m.key == "histogram")
        assert measure(turned, histogram)[0]["psnr"] > 50

    def test_background_stays_background_and_the_truth_is_not_looked_at(self) -> None:
        values, inside = brain_values(0)
        pair = pair_of({"t1": values * inside}, (1 - values) * inside, inside)
        blind = replace(pair, truth=torch.zeros(SHAPE))
        for method in (source_itself(), *fitted_baselines([draw_samples(pair, ["t1"])], ["t1"])):
            made = method.make(pair).data
            assert torch.equal(made, method.make(blind).data)
            assert float(made[~torch.from_numpy(inside)].abs().max()) == 0.0

    def test_without_teachers_only_the_source_is_left(self) -> None:
        assert fitted_baselines([], ["t1"]) == []


class TestDirection:
    def test_a_bundle_says_what_goes_in_and_what_comes_out(self, make_bundle: Callable[..., Bundle]) -> None:
        assert Direction.of(make_bundle("a")) == T1_TO_FLAIR
        assert T1_TO_FLAIR.title == "T1 to FLAIR"

    def test_a_case_without_the_contrast_is_refused_by_name(self, people: list[Case]) -> None:
        case = Case("Q", {"t1": people[0].contrasts["t1"]})
        with pytest.raises(RequestError, match=r"case Q lacks flair.*it has t1"):
            T1_TO_FLAIR.match(case)

    def test_an_optional_input_may_be_absent_and_the_target_is_no_source(self, people: list[Case]) -> None:
        both = Direction((Input("t1", ("t1",)), Input("extra", ("t2", "flair"), optional=True)), ("flair",))
        assert both.match(people[0]) == ({"t1": "t1"}, "flair")

    def test_a_model_that_does_not_name_its_contrast_is_refused(self, make_bundle: Callable[..., Bundle]) -> None:
        target = {"name": "image", "same_contrast_as": None, "units": "arbitrary", "range": [0, 1]}
        with pytest.raises(RequestError, match="does not say which contrast"):
            Direction.of(make_bundle("a", target=target))

    def test_models_of_two_directions_make_no_table(self, make_bundle: Callable[..., Bundle]) -> None:
        target = {"name": "t2", "same_contrast_as": None, "units": "arbitrary", "range": [0, 1]}
        with pytest.raises(RequestError, match="T1 to T2.*T1 to FLAIR"):
            common_direction([make_bundle("a"), make_bundle("b", target=target)])

    def test_models_that_normalise_differently_make_no_table(self, make_bundle: Callable[..., Bundle]) -> None:
        target = {"name": "flair", "same_contrast_as": None, "units": "arbitrary", "range": [0, 1], "median": 0.25}
        by_median = make_bundle("b", target=target)
        with pytest.raises(RequestError, match="normalised alike"):
            common_direction([make_bundle("a"), by_median])
        assert Direction.of(by_median).intensities == (
            "T1: its robust range (background to 99.5 percentile of the foreground) is [0, 1]; "
            "FLAIR: background is 0, the foreground's median 0.625"
        )

    def test_a_super_resolution_model_is_sent_away(self, tiny_bundle: Bundle) -> None:
        with pytest.raises(RequestError, match="super_resolution model"):
            Direction.of(tiny_bundle)


class TestPairs:
    def test_each_contrast_has_its_own_range_and_the_thick_axis_decides_the_slices(self, people: list[Case]) -> None:
        pair = read_pair(people[0], T1_TO_FLAIR)
        assert (pair.axis, pair.plane.value) == (2, "axial")
        assert "S is interpolated from thick slices in T1, FLAIR" in pair.why_axis
        assert float(pair.sources["t1"][pair.brain.mask].quantile(0.995)) == pytest.approx(1.0, abs=0.1)
        assert float(pair.sources["t1"].min()) == pytest.approx(-1.0, abs=1e-4)
        assert float(pair.truth[pair.truth > 0].quantile(0.995)) == pytest.approx(1.0, abs=0.02)
        assert pair.lesion is not None
        assert int(pair.lesion.inside.sum()) == 27

    def test_medians_lie_where_the_direction_says(self, people: list[Case]) -> None:
        pair = read_pair(people[0], Direction((Input("t1", ("t1",), median=0.3),), ("flair",), median=-0.4))
        assert float(pair.sources["t1"][pair.sources["t1"] > -0.99].median()) == pytest.approx(0.3, abs=0.01)
        assert float(pair.truth[pair.truth > 0.005].median()) == pytest.approx(0.3, abs=0.01)  # of [0, 1]

    def test_contrasts_on_two_grids_are_refused(self, people: list[Case], tmp_path: Path) -> None:
        values, inside = brain_values()
        write_volume(Volume((values * inside)[None].astype(np.float32), np.eye(4)), tmp_path / "moved.nii.gz")
        case = replace(people[0], contrasts={**people[0].contrasts, "flair": tmp_path / "moved.nii.gz"})
        with pytest.raises(VolumeError, match="is not on the grid"):
            read_pair(case, T1_TO_FLAIR)

    def test_known_misalignment_is_refused(self, people: list[Case]) -> None:
        suite = PairSuite("s", "test", (replace(people[0], aligned=False),))
        with pytest.raises(RequestError, match="off each other"):
            T1_TO_FLAIR.fitting(suite)


class TestFolds:
    def suite(self, people: list[Case]) -> PairSuite:
        return PairSuite("loso", "leave one out", tuple(people), tuple(people))

    @pytest.mark.parametrize(
        "training",
        [
            {"subjects": ["P7", "P1"]},
            {"volumes": ["multi/P1/FLAIR"]},
            {"volumes": {"P1_T1w.nii.gz": 1.0}, "subjects": ["P2"]},
        ],
    )
    def test_a_model_that_saw_the_person_is_refused(
        self, make_bundle: Callable[..., Bundle], training: dict[str, Any]
    ) -> None:
        bundle = make_bundle("a", training=training)
        with pytest.raises(RequestError, match=r"was trained on P1 .*left this person out"):
            refuse_seen(bundle, ["P1"])

    def test_a_longer_name_is_another_person(self, make_bundle: Callable[..., Bundle]) -> None:
        refuse_seen(make_bundle("a", training={"subjects": ["P10", "P1b"], "volumes": ["multi/XP1/FLAIR"]}), ["P1"])

    def test_every_person_needs_a_model_that_says_whom_it_saw(
        self, make_bundle: Callable[..., Bundle], people: list[Case]
    ) -> None:
        fold = make_bundle("fold", training={"subjects": ["Z"]})
        folds = {case.subject: [fold] for case in people}
        check_folds(folds, self.suite(people))
        with pytest.raises(RequestError, match=r"no --fold-model for P2.*--subjects P0,P1"):
            check_folds({name: folds[name] for name in ("P0", "P1")}, self.suite(people))
        with pytest.raises(RequestError, match="names P9"):
            check_folds({**folds, "P9": [fold]}, self.suite(people))
        with pytest.raises(RequestError, match="1 or 2 fold models"):
            check_folds({**folds, "P0": [fold, fold]}, self.suite(people))
        with pytest.raises(RequestError, match="does not say whom"):
            check_folds({**folds, "P0": [make_bundle("silent")]}, self.suite(people))

    def test_texts_name_person_and_folder(self, make_bundle: Callable[..., Bundle]) -> None:
        bundle = make_bundle("fold")
        assert [b.hash for b in read_folds([f"P0={bundle.folder}"])["P0"]] == [bundle.hash]
        with pytest.raises(RequestError, match="SUBJECT=FOLDER"):
            read_folds([str(bundle.folder)])

    def test_rows_of_folds_share_what_their_names_have_in_common(self) -> None:
        def named(*names: str) -> list[Any]:
            return [SimpleNamespace(id=name) for name in names]

        assert fold_prefixes({"P0": named("fold-P0"), "P1": named("fold-P1")}) == [""]
        folds = {"P0": named("ours-P0", "unet-P0"), "P1": named("ours-P1", "unet-P1")}
        assert fold_prefixes(folds) == ["ours-P:", "unet-P:"]


class TestSuites:
    def test_the_teachers_of_a_datalist_are_its_training_cases(self, datalist: Path) -> None:
        suite = of_datalist(datalist)
        assert [case.subject for case in suite.cases] == ["P1", "P2"]
        assert [case.subject for case in suite.teachers(suite.cases[0])] == ["P0"]
        everyone = find_pair_suite(datalist, None, "test", [], leave_one_out=True)
        assert [case.subject for case in everyone.teachers(suite.cases[0])] == ["P0", "P2"]

    def test_training_files_that_are_not_there_teach_nobody(self, datalist: Path) -> None:
        (datalist.parent / "P0_flair.nii.gz").unlink()
        assert of_datalist(datalist).training == ()

    def test_suites_of_the_test_data(self, data_folder: Path) -> None:
        for name, persons in PAIR_SUITES.items():
            suite = pairs_in(data_folder, name)
            assert tuple(case.subject for case in suite.cases) == persons
            for case in suite.cases:
                assert case.subject not in {teacher.subject for teacher in suite.teachers(case)}
        assert {c.subject for c in T1_TO_FLAIR.fitting(pairs_in(data_folder, "translation-test")).training} == {
            "openms_07",
            "tcga_FG6692",
        }
        assert len(pairs_in(data_folder, "jif-test").training) == 11

    def test_a_suite_of_registered_volumes(self, data_folder: Path, tmp_path: Path) -> None:
        """Whom a datalist has brought into line may teach, but for the other persons of the test split."""
        given = project_datalist(data_folder)
        registered = Datalist(
            "registered",
            **{
                section: tuple(replace(case, aligned=True) for case in getattr(given, section))
                for section in SECTIONS.values()
            },
        )
        write_datalist(registered, tmp_path / "registered.json")
        suite = find_pair_suite(tmp_path / "registered.json", "translation-loso", "test", ["openms_07"])
        teachers = {case.subject for case in T1_TO_FLAIR.fitting(suite).teachers(suite.cases[0])}
        assert teachers == {"openms_19", "tcga_FG6692", "tcga_DU7294", "brats_GLI00001"}
        plain = find_pair_suite(None, "translation-loso", "test", ["openms_07"])
        assert {c.subject for c in T1_TO_FLAIR.fitting(plain).teachers(plain.cases[0])} == teachers - {"brats_GLI00001"}
        with pytest.raises(RequestError, match="leave the datalist out"):
            find_pair_suite(tmp_path / "registered.json", "jif-test", "test", [])

    def test_a_slice_of_the_test_data_is_coronal_with_the_head_upright(self, data_folder: Path) -> None:
        suite = pairs_in(data_folder, "jif-test")
        pair = read_pair(suite.cases[0], Direction((Input("t1", ("t1",)),), ("t2",)), suite.slice_axis)
        assert pair.truth.shape == (200, 1, 320)
        assert pair.plane.value == "coronal"
        head = pair.brain.mask[:, 0].float()
        assert float(head.mean()) == pytest.approx(0.6, abs=0.2)
        width = head.sum(dim=0)
        assert int((width > 0).nonzero().max()) < 300  # air above the head
        row, _ = measure(pair, source_itself())
        assert 5 < row["psnr"] < 20
        truth = pair.truth[:, 0][pair.brain.mask[:, 0]]
        assert float((truth < 0.001).float().mean()) < 0.01  # the T2w ends above the neck, and so does what is scored
        assert all(math.isnan(row[f"through_plane_{axis}"]) for axis in "ijk")

    def test_subjects_choose(self, datalist: Path) -> None:
        assert [case.subject for case in of_datalist(datalist, ["P2"]).cases] == ["P2"]
        with pytest.raises(RequestError, match="no subject P9"):
            of_datalist(datalist, ["P9"])
        with pytest.raises(RequestError, match="is none for translation"):
            find_pair_suite(None, "val", "test", [])


class TestLearned:
    def test_rows_are_the_rules_without_projection(self, make_bundle: Callable[..., Bundle]) -> None:
        rows = rows_of(make_bundle("a"), *["fast", "balanced"])
        usual = [row.key for row in rows if not row.on_request]
        assert usual == [
            "plane@fast", "average@fast", "fusion@fast",
            "plane@balanced", "alternating@balanced", "average@balanced", "fusion@balanced",
        ]  # fmt: skip
        assert rows[0].label == "one plane (axial) (fast: 1 step)"
        assert not any("proj" in row.key for row in rows)

    def test_what_is_scored_is_what_users_get(self, make_bundle: Callable[..., Bundle], people: list[Case]) -> None:
        bundle, pair = make_bundle("a"), read_pair(people[0], T1_TO_FLAIR)
        rows = {row.key: row for row in rows_of(bundle, "balanced", seed=3)}
        given = translate(people[0].contrasts["t1"], bundle, preset="balanced", seed=3, device="cpu")
        expected = given.volume.canonical()[0].data[0] / 1000.0  # the range that the bundle declares
        made = rows["fusion@balanced"].make(pair).data.numpy()
        assert np.abs(made - expected).max() < 1e-5
        assert np.abs(made - pair.truth.numpy()).max() > 0.05  # random networks

    def test_a_mapped_base_is_a_baseline(self, make_bundle: Callable[..., Bundle], people: list[Case]) -> None:
        """What brightness alone says, by the very map that the networks start from."""
        curve = [0.9, 0.8, 0.3, -0.2, -0.5]
        bundle, pair = make_bundle("m", base="mapped_condition", base_curves=[curve]), read_pair(people[0], T1_TO_FLAIR)
        rows = {row.key: row for row in rows_of(bundle, "fast", prefix="m:")}
        assert rows["m:map"].family == "baseline"
        made, source, inside = (
            rows["m:map"].make(pair).data.numpy(),
            pair.sources["t1"].numpy(),
            pair.brain.mask.numpy(),
        )
        expected = 0.5 * (np.interp(source, np.linspace(-1, 1, 5), curve) + 1.0)
        np.testing.assert_allclose(made[inside], expected[inside], atol=1e-5)
        assert made[0, 0, 0] == 0.0

    def test_a_regression_is_one_row(self, make_bundle: Callable[..., Bundle], people: list[Case]) -> None:
        rows = rows_of(make_bundle("u", regression=True), *["fast", "balanced"])
        assert [row.key for row in rows] == ["regression@fast"]
        row, _ = measure(read_pair(people[0], T1_TO_FLAIR), rows[0])
        assert row["volume_passes"] == 1
        assert math.isfinite(row["psnr"])

    def test_single_slices_have_one_plane(self, make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
        values, inside = brain_values()
        for kind, data in (("t1", values), ("flair", 1 - values)):
            image = nibabel.Nifti1Image((400 * data * inside)[:, 17].astype(np.float32), np.eye(4))
            nibabel.save(image, tmp_path / f"{kind}.nii.gz")
        case = Case("S", {kind: tmp_path / f"{kind}.nii.gz" for kind in ("t1", "flair")})
        pair = read_pair(case, T1_TO_FLAIR, slice_axis=1)
        rows = rows_of(make_bundle("a"), "1", plane=pair.plane, single_slices=True)
        assert [row.key for row in rows] == ["plane@1"]
        row, made = measure(pair, rows[0])
        assert made.data.shape == (30, 1, 28)
        assert math.isfinite(row["ssim"])
        with pytest.raises(RequestError, match="no coronal network"):
            rows_of(make_bundle("u", regression=True), plane=pair.plane, single_slices=True)

    def test_methods_are_chosen_by_family_key_or_rule(self, make_bundle: Callable[..., Bundle]) -> None:
        rows = [source_itself(), *rows_of(make_bundle("a"), "fast")]
        assert [row.key for row in choose(rows, ["baseline", "fusion"])] == ["source", "fusion@fast"]
        assert [row.key for row in choose(rows, ["classical", "plane:coronal"])] == ["source", "plane:coronal@fast"]
        with pytest.raises(RequestError, match="no method 'magic'"):
            choose(rows, ["magic"])


class TestPictures:
    def test_inputs_are_drawn_on_a_grey_scale_of_their_own(self) -> None:
        """White matter lies above 1 where the median is set; drawn so, it would all be white."""
        values, inside = brain_values()
        pair = pair_of({"t1": 1.6 * values * inside}, values, inside)
        drawn = (
            compare_translations(pair, {"source": Made(pair.truth)}, [measure(pair, source_itself())[0]]).panels[0].data
        )
        assert np.quantile(drawn[inside], 0.995) == pytest.approx(1.0, abs=0.01)
        np.testing.assert_allclose(drawn / drawn.max(), values * inside / (values * inside).max(), atol=0.02)


class TestCommand:
    def test_one_run_writes_tables_a_page_and_pictures(
        self, make_bundle: Callable[..., Bundle], datalist: Path, tmp_path: Path
    ) -> None:
        pytest.importorskip("matplotlib")
        out = tmp_path / "results"
        ours, unet = make_bundle("ours"), make_bundle("unet", regression=True)
        arguments = [str(datalist), "--model", str(ours.folder), "--model", str(unet.folder), "--plans", "fast"]
        done = CliRunner().invoke(cli.app, [*arguments, "--out", str(out), "--device", "cpu"])
        assert done.exit_code == 0, done.output
        assert "of the lesions' contrast" in done.output
        assert "does not say whom it was trained on" in done.output
        content = json.loads((out / "translation.json").read_text())
        assert content["direction"] == "T1 to FLAIR"
        assert ours.hash[:12] in content["caption"]["model"]
        assert {facts["subject"] for facts in content["subjects"]} == {"P1", "P2"}
        assert content["subjects"][0]["teachers"] == ["P0"]
        assert content["subjects"][0]["lesion_truth"]["contrast"] > 0.2
        with (out / "translation.csv").open() as stream:
            rows = {(row["subject"], row["method"]): row for row in csv.DictReader(stream)}
        assert len(rows) == 2 * 8
        # The FLAIR is a polynomial of the T1w, but for the lesion.
        assert float(rows["P1", "polynomial"]["psnr"]) > 25 > float(rows["P1", "source"]["psnr"])
        assert float(rows["P1", "polynomial"]["lesion_contrast_error"]) < -0.7  # brightness alone cannot know it
        text = (out / "translation.md").read_text()
        assert "3D U-Net regression" in text
        assert "What the model does to lesions" in text
        assert "no significance is claimed" in text
        assert " to " in next(line for line in text.splitlines() if line.startswith("| linear regression"))
        assert {path.name for path in out.glob("*.png")} == {"P1_flair.png", "P2_flair.png"}
        assert "data:image/jpeg;base64" in (out / "translation.html").read_text()

    def test_folds_make_one_table(self, make_bundle: Callable[..., Bundle], datalist: Path, tmp_path: Path) -> None:
        folds = []
        for person, others in (("P1", ["P0", "P2"]), ("P2", ["P0", "P1"])):
            fold = make_bundle(f"fold-{person.lower()}", training={"subjects": others})
            folds.append(f"{person}={fold.folder}")
        suite = find_pair_suite(datalist, None, "test", [], leave_one_out=True)
        wanted = {"how": Settings(["fast"], device="cpu"), "methods": ["linear", "fusion"], "pictures": False}
        benchmark, _ = evaluate_translation(suite, [], folds, tmp_path / "out", **wanted)  # type: ignore[arg-type]
        assert [(row.subject, row.method) for row in benchmark.rows] == [
            ("P1", "linear"), ("P1", "fusion@fast"), ("P2", "linear"), ("P2", "fusion@fast"),
        ]  # fmt: skip
        assert [facts["teachers"] for facts in benchmark.facts] == [("P0", "P2"), ("P0", "P1")]
        assert [facts["models"] for facts in benchmark.facts] == [("fold-p1 1.2.0",), ("fold-p2 1.2.0",)]
        assert "P1 by fold-p1 1.2.0" in benchmark.caption["model"]
        swapped = [f"P1={find_bundle(folds[1].partition('=')[2]).folder}", folds[1]]
        with pytest.raises(RequestError, match="was trained on P1"):
            evaluate_translation(suite, [], swapped, tmp_path / "out2", **wanted)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--suite", "translation-test"], "scores translation models"),
            (["--suite", "translation-test", "--model", "SR"], "super_resolution model"),
            (["LIST", "--model", "SR", "--model", "T"], "a run of its own"),
            (["LIST", "--model", "T", "--setting", "iso4"], "--setting is for super-resolution"),
            (["LIST", "--suite", "translation-val", "--model", "T"], "has no openms_19 in split"),
            (["LIST", "--model", "T", "--fold-model", "P1=T"], "not both"),
        ],
    )
    def test_bad_requests_end_with_2_and_one_sentence(
        self, make_bundle: Callable[..., Bundle], tiny_bundle: Bundle, datalist: Path, tmp_path: Path,
        arguments: list[str], message: str,
    ) -> None:  # fmt: skip
        named = {"LIST": str(datalist), "SR": str(tiny_bundle.folder), "T": str(make_bundle("t").folder)}
        named["P1=T"] = f"P1={named['T']}"
        out = tmp_path / "o"
        done = CliRunner().invoke(cli.app, [*(named.get(a, a) for a in arguments), "--out", str(out)])
        assert done.exit_code == 2, done.output
        assert message in " ".join(done.output.split())
        assert "Traceback" not in done.output
        assert not out.exists()
