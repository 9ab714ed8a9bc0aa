"""Heads from seeds: determinism, contrasts that agree, range, lesions, files; on a head made of ellipsoids."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from typer.testing import CliRunner  # noqa: E402

from scorefusion.errors import RequestError  # noqa: E402
from scorefusion.imaging.files import read_volume  # noqa: E402
from scorefusion.synthesis.cli import app  # noqa: E402
from scorefusion.synthesis.generator import ContrastGenerator, GeneratorOptions, SyntheticHead  # noqa: E402
from scorefusion.synthesis.labels import LAST_OF_BRAIN, LabelMap, Tissue  # noqa: E402

T = Tissue
SHAPE = (40, 44, 36)


def nested_head(shape: tuple[int, int, int] = (72, 80, 64), skull: bool = True) -> LabelMap:
    """Ellipsoids within each other, from skin to ventricles, with a thalamus to one side only."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    radius = np.sqrt(i**2 + j**2 + k**2)
    classes = np.zeros(shape, dtype=np.uint8)
    shells = [(0.9, T.CSF), (0.85, T.CORTEX), (0.7, T.WHITE_MATTER), (0.25, T.VENTRICLES)]
    if skull:
        shells = [(0.98, T.SKIN), (0.96, T.SOFT_TISSUE), (0.93, T.BONE), *shells]
    for size, tissue in shells:
        classes[radius < size] = tissue
    classes[((i - 0.4) ** 2 + j**2 + k**2) < 0.02] = T.THALAMUS
    return LabelMap(classes, np.diag([1.5, 1.5, 1.5, 1.0]), source="nested")


@pytest.fixture(scope="module")
def clean() -> GeneratorOptions:
    """Healthy, stripped, straight and without artefacts."""
    return GeneratorOptions(
        shape=SHAPE,
        spacing_mm=2.5,
        strip_share=1.0,
        lesion_share=0.0,
        coarse_share=0.0,
        ghost_share=0.0,
        ringing_share=0.0,
        noise=(0.002, 0.004),
        bias=(0.0, 0.01),
    )


def medians(head: SyntheticHead, contrast: str) -> dict[Tissue, float]:
    found = {}
    for tissue in (T.WHITE_MATTER, T.CORTEX, T.VENTRICLES):
        found[tissue] = float(head.images[contrast][head.classes == int(tissue)].median())
    return found


class TestDeterminism:
    def test_a_seed_is_a_head_whatever_came_before(self) -> None:
        options = GeneratorOptions(shape=SHAPE, spacing_mm=2.0, lesion_share=0.5)
        maps = [nested_head(), nested_head((64, 60, 70), skull=False)]
        first = ContrastGenerator(maps, options)
        straight = [first.draw(seed) for seed in range(4)]
        other = ContrastGenerator(maps, options)
        for seed in (3, 1, 3, 0, 2):
            again = other.draw(seed)
            assert torch.equal(again.classes, straight[seed].classes)
            assert again.parameters == straight[seed].parameters
            for name, image in again.images.items():
                assert torch.equal(image, straight[seed].images[name])

    def test_different_seeds_are_different_heads(self, clean: GeneratorOptions) -> None:
        generator = ContrastGenerator([nested_head()], clean)
        assert not torch.equal(generator.draw(0).classes, generator.draw(1).classes)

    def test_an_image_does_not_depend_on_its_companions(self, clean: GeneratorOptions) -> None:
        both = ContrastGenerator([nested_head()], replace(clean, contrasts=("t1", "flair"))).draw(5)
        alone = ContrastGenerator([nested_head()], replace(clean, contrasts=("flair",))).draw(5)
        assert torch.equal(both.images["flair"], alone.images["flair"])
        assert both.parameters["tissues"] == alone.parameters["tissues"]

    def test_the_callers_random_state_is_left_alone(self, clean: GeneratorOptions) -> None:
        torch.manual_seed(7)
        expected = torch.rand(1)
        torch.manual_seed(7)
        ContrastGenerator([nested_head()], clean).draw(0)
        assert torch.equal(torch.rand(1), expected)


class TestImages:
    def test_contrasts_look_as_they_should(self, clean: GeneratorOptions) -> None:
        generator = ContrastGenerator([nested_head()], clean)
        for seed in range(6):
            head = generator.draw(seed)
            t1, t2, flair = (medians(head, name) for name in ("t1", "t2", "flair"))
            assert t1[T.WHITE_MATTER] > t1[T.CORTEX] > t1[T.VENTRICLES]
            assert t2[T.VENTRICLES] > t2[T.CORTEX] > t2[T.WHITE_MATTER]
            assert flair[T.VENTRICLES] < -0.3
            assert flair[T.VENTRICLES] < flair[T.WHITE_MATTER] - 0.5

    def test_range(self) -> None:
        generator = ContrastGenerator([nested_head()], GeneratorOptions(shape=SHAPE, spacing_mm=2.5, mode="mixed"))
        for seed in range(10):
            head = generator.draw(seed)
            for image in head.images.values():
                assert image.dtype == torch.float32
                assert image.shape == SHAPE
                assert bool(torch.isfinite(image).all())
                assert -1.5 < float(image.min()) < -0.9
                assert -0.5 < float(image.max()) < 6.0
            if head.parameters["stripped"]:
                background = head.classes == 0
                assert all(bool((image[background] == -1).all()) for image in head.images.values())

    def test_bright_tissue_of_the_whole_head_is_near_one(self, clean: GeneratorOptions) -> None:
        options = replace(clean, shape=(76, 84, 68), spacing_mm=1.5, scaling=0.02)  # all of it, as fine as the map
        head = ContrastGenerator([nested_head(skull=False)], options).draw(1)
        for image in head.images.values():
            assert float(image[head.classes > 0].quantile(0.995)) == pytest.approx(1.0, abs=0.3)

    def test_stripping_leaves_the_brain_and_the_skull_when_asked(self, clean: GeneratorOptions) -> None:
        stripped = ContrastGenerator([nested_head()], clean).draw(3).classes
        whole = ContrastGenerator([nested_head()], replace(clean, strip_share=0.0)).draw(3).classes
        assert float((whole > LAST_OF_BRAIN).float().mean()) > 0.05
        assert int((stripped > LAST_OF_BRAIN).sum()) < 0.03 * int((stripped > 0).sum())
        assert int((stripped == int(T.CORTEX)).sum()) > 5000

    def test_contrasts_share_their_anatomy_and_texture(self, clean: GeneratorOptions) -> None:
        # T2 and PD of one head: both rise with water, so their texture within white matter goes together.
        heads = [
            ContrastGenerator([nested_head()], replace(clean, noise=(1e-5, 2e-5))).draw(seed) for seed in (1, 2, 3)
        ]
        for head in heads:
            deep = torch.nn.functional.avg_pool3d((head.classes == 1).float()[None, None], 3, 1, 1)[0, 0] > 0.99
            t2, pd = (head.images[name][deep] for name in ("t2", "pd"))
            assert float(torch.corrcoef(torch.stack([t2, pd]))[0, 1]) > 0.4
        other = heads[1].images["pd"]
        assert heads[0].images["t2"].shape == other.shape
        assert not torch.equal(heads[0].classes, heads[1].classes)

    def test_noise_is_of_the_size_written_down(self, clean: GeneratorOptions) -> None:
        options = replace(clean, noise=(0.02, 0.0201), contrasts=("t2",))
        quiet = ContrastGenerator([nested_head()], replace(options, noise=(1e-6, 1.1e-6))).draw(2)
        noisy = ContrastGenerator([nested_head()], options).draw(2)
        fluid = quiet.classes == int(T.VENTRICLES)
        difference = (noisy.images["t2"] - quiet.images["t2"])[fluid]
        written = noisy.parameters["contrasts"]["t2"]["noise"]
        assert written == pytest.approx(0.02, rel=0.01)
        assert float(difference.std()) == pytest.approx(2 * written, rel=0.15)  # [0, 1] became [-1, 1]


class TestLesions:
    def test_plaques_are_bright_in_flair_and_lie_in_white_matter(self, clean: GeneratorOptions) -> None:
        ill = ContrastGenerator([nested_head()], replace(clean, spacing_mm=1.5, lesion_share=1.0))
        healthy = ContrastGenerator([nested_head()], replace(clean, spacing_mm=1.5))
        seen = 0
        for seed in range(8):
            head = ill.draw(seed)
            if head.parameters["lesions"]["kind"] != "plaques":
                continue
            lesion = head.classes == int(T.LESION)
            if lesion.sum() < 10:
                continue
            seen += 1
            before = healthy.draw(seed).classes
            # The same head, so that what is a lesion now was white matter.
            assert float((before[lesion] == int(T.WHITE_MATTER)).float().mean()) > 0.95
            core = head.images["flair"][lesion].median()
            assert float(core) > medians(head, "flair")[T.WHITE_MATTER]
        assert seen >= 3

    def test_a_mass_has_oedema_and_one_class(self, clean: GeneratorOptions) -> None:
        generator = ContrastGenerator([nested_head()], replace(clean, spacing_mm=1.5, lesion_share=1.0))
        kinds = [generator.draw(seed) for seed in range(12)]
        masses = [head for head in kinds if head.parameters["lesions"]["kind"] == "mass"]
        assert masses
        for head in masses:
            assert int(head.classes.max()) < len(Tissue)
            assert int((head.classes == int(T.LESION)).sum()) > 200
            assert head.parameters["lesions"]["core_mm"] >= 6

    def test_lesions_of_the_map_heal_in_healthy_heads(self, clean: GeneratorOptions) -> None:
        label_map = nested_head()
        label_map.classes[label_map.classes == T.THALAMUS] = T.LESION
        assert not (ContrastGenerator([label_map], clean).draw(0).classes == int(T.LESION)).any()
        ill = ContrastGenerator([label_map], replace(clean, lesion_share=1.0)).draw(0)
        assert int((ill.classes == int(T.LESION)).sum()) > 20


class TestOptions:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"mode": "real"}, "choose 'plausible', 'random' or 'mixed'"),
            ({"contrasts": ("t1", "t7")}, "choose from t1, t1ce, t2, flair, pd"),
            ({"contrasts": ()}, "Contrasts are none"),
            ({"shape": (96, 96, 4)}, r"got \(96, 96, 4\)"),
            ({"spacing_mm": 0.0}, "positive millimetres"),
        ],
    )
    def test_refusals(self, wrong: dict[str, object], message: str) -> None:
        with pytest.raises(RequestError, match=message):
            GeneratorOptions(**wrong)  # type: ignore[arg-type]

    def test_no_map_and_no_brain(self) -> None:
        with pytest.raises(RequestError, match="at least one label map"):
            ContrastGenerator([])
        skin = LabelMap(np.full((9, 9, 9), T.SKIN, dtype=np.uint8), np.eye(4), source="skin.nii")
        with pytest.raises(RequestError, match=r"'skin\.nii' has no brain"):
            ContrastGenerator([skin])

    def test_parameters_go_to_json(self) -> None:
        generator = ContrastGenerator([nested_head()], GeneratorOptions(shape=SHAPE, spacing_mm=2.5, lesion_share=1.0))
        for seed in range(4):
            parameters = generator.draw(seed).parameters
            assert json.loads(json.dumps(parameters)) == parameters
            assert parameters["seed"] == seed


class TestCommand:
    def test_it_writes_images_parameters_and_a_picture(self, tmp_path: Path) -> None:
        from test_synthesis_labels import write_map

        write_map(tmp_path / "map.nii.gz", nested_head((40, 44, 36)).classes)
        arguments = [str(tmp_path / "map.nii.gz"), "--out", str(tmp_path / "made"), "--contrasts", "t1,flair"]
        arguments += ["--count", "2", "--shape", "32,36,28", "--seed", "11", "--scheme", "tissue", "--quiet"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        names = sorted(path.name for path in (tmp_path / "made").iterdir())
        ends = (".json", "_classes.nii.gz", "_flair.nii.gz", "_t1.nii.gz")
        assert names == ["contact-sheet.png", *(f"synthetic-{n:04d}{end}" for n in (11, 12) for end in ends)]
        volume = read_volume(tmp_path / "made" / "synthetic-0011_t1.nii.gz")
        assert volume.orientation == "RAS"
        assert volume.spatial_shape == (32, 36, 28)
        about = json.loads((tmp_path / "made" / "synthetic-0012.json").read_text())
        assert about["seed"] == 12
        assert about["options"]["contrasts"] == ["t1", "flair"]

    def test_wrong_shape_is_told(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, [str(tmp_path), "--out", str(tmp_path / "made"), "--shape", "32"])
        assert result.exit_code == 2


class TestSpeed:
    def test_seconds_of_processor_time(self, record_property: Callable[[str, object], None]) -> None:
        """Informational: recorded, not judged."""
        generator = ContrastGenerator([nested_head()], GeneratorOptions(shape=(48, 48, 48), spacing_mm=2.0))
        generator.draw(0)
        start = time.process_time()
        generator.draw(1)
        record_property("seconds_48", time.process_time() - start)
