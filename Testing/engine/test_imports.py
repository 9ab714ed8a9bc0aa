"""The rules of the house about who may import whom, and what each part needs to be importable at all."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import scorefusion

ENGINE = Path(scorefusion.__file__).parent
HOSTS = {"slicer", "qt", "ctk", "vtk", "vtkmodules", "PySide6", "PythonQt", "slicer_core"}

IMAGES = {"grid", "volume", "volume_io", "volume_itk", "intensity", "acquisition"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "progress": {"errors"},
    "memory": {"errors"},
    "runtime": {"errors", "memory"},
    "bundle": {"errors", "memory"},
    # Diffusion knows nothing of images, planes or networks; images know nothing of diffusion.
    "schedule": {"errors"},
    "sampler": {"errors", "schedule"},
    **{module: IMAGES | {"errors"} for module in IMAGES},
    "unet": {"errors"},
    "planes": {"errors"},
    # From slices to rules: each knows only what stands before it.
    "tiling": {"unet"},
    "intensity_map": {"intensity"},
    "inputs": {"acquisition", "intensity_map", "planes", "schedule", "unet"},
    "features": {"planes", "unet"},
    "ensemble": {"errors", "features", "inputs", "planes", "schedule", "unet"},
    # Files and people, no networks; only its command talks to the terminal.
    "datasets": {"errors", "progress", "grid", "volume", "volume_itk", "intensity", "cli"},
    "fusion": {"ensemble", "features", "inputs", "planes", "tiling", "unet"},
}
"""Parts with a short list of parts they may import. The others may import all but `ONLY_FROM_ABOVE`."""

ONLY_FROM_ABOVE = {
    "cli": {
        "datasets.cli",
        "evaluation.cli",
        "evaluation.demo",
        "evaluation.downstream.cli",
        "synthesis.cli",
        "training.cli",
        "training.ship",
        "__main__",
    },
    "training": set(),
    "evaluation": set(),
}
"""Parts that stand at the top, and the modules outside them that may still import them."""

TORCH_FREE = [
    "scorefusion",
    "errors",
    "progress",
    "memory",
    "runtime",
    "volume",
    "intensity",
    "bundle",
    "doctor",
    "cli",
]
NUMERIC_CORE = [
    "volume",
    "intensity",
    "acquisition",
    "schedule",
    "sampler",
    "planes",
    "unet",
    "fusion",
    "bundle",
    "pipeline",
]
BEYOND_THE_CORE = [
    "nibabel",
    "SimpleITK",
    "typer",
    "rich",
    "scipy",
    "skimage",
    "monai",
    "lightning",
    "matplotlib",
    "einops",
]


def engine_files() -> list[Path]:
    return sorted(ENGINE.rglob("*.py"))


def name_of(file: Path) -> str:
    """``bundle.store`` for ``bundle/store.py``, ``bundle`` for its ``__init__``."""
    parts = file.relative_to(ENGINE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_in(file: Path) -> Iterator[str]:
    """Full names of all that a file imports, inside functions too; imports for type checkers only do not count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            yield str(node.module)
            if node.module == "scorefusion":
                yield from (f"scorefusion.{alias.name}" for alias in node.names)


def parts_imported(file: Path) -> set[str]:
    """Modules and packages directly under `scorefusion` that a file imports."""
    known = {name_of(other).partition(".")[0] for other in engine_files()}
    found = {name.split(".")[1] for name in imports_in(file) if name.startswith("scorefusion.")}
    return found & known


def run_python(code: str, blocked: list[str] | None = None) -> None:
    """Run code in a fresh interpreter in which some packages cannot be imported."""
    block = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked or [])
    environment = {**os.environ, "PYTHONPATH": str(ENGINE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr


class TestArrows:
    @pytest.mark.parametrize("file", engine_files(), ids=name_of)
    def test_the_engine_never_imports_its_host(self, file: Path) -> None:
        assert not {name.partition(".")[0] for name in imports_in(file)} & HOSTS

    @pytest.mark.parametrize("part", MAY_IMPORT)
    def test_each_part_imports_only_what_it_may(self, part: str) -> None:
        for file in engine_files():
            if name_of(file).partition(".")[0] == part:
                assert parts_imported(file) <= MAY_IMPORT[part] | {part}, file.name

    @pytest.mark.parametrize("top", ONLY_FROM_ABOVE)
    def test_nothing_below_imports_the_top(self, top: str) -> None:
        for file in engine_files():
            name = name_of(file)
            if name.partition(".")[0] != top and name not in ONLY_FROM_ABOVE[top]:
                assert top not in parts_imported(file), name

    def test_only_the_command_line_prints(self) -> None:
        for file in engine_files():
            calls = (
                node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
            )
            printed = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
            assert not printed or "cli" in name_of(file), f"{file.name}: lines {printed}"

    def test_weights_are_never_unpickled(self) -> None:
        for file in engine_files():
            assert "pickle" not in set(imports_in(file)), file
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                    assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), file


class TestWhatIsNeeded:
    def test_listing_models_and_reading_errors_need_no_torch(self) -> None:
        modules = [name if name == "scorefusion" else f"scorefusion.{name}" for name in TORCH_FREE]
        run_python("".join(f"import {module}\n" for module in modules), blocked=["torch"])

    def test_the_numeric_core_needs_torch_numpy_and_safetensors_only(self) -> None:
        run_python("".join(f"import scorefusion.{name}\n" for name in NUMERIC_CORE), blocked=BEYOND_THE_CORE)

    def test_the_package_itself_imports_nothing_heavy(self) -> None:
        run_python("import scorefusion\nassert not {'torch', 'numpy', 'typer', 'rich'} & set(sys.modules)")


class TestPublicNames:
    @pytest.mark.parametrize("name", [name for name in scorefusion.__all__ if name != "__version__"])
    def test_each_is_there_on_first_use(self, name: str) -> None:
        pytest.importorskip("torch")
        assert callable(getattr(scorefusion, name))
        assert name in dir(scorefusion)

    def test_unknown_names_are_refused_as_usual(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'transmogrify'"):
            _ = scorefusion.transmogrify


@pytest.mark.slow
class TestWheel:
    def test_the_shipped_models_are_inside(self, repository: Path, tmp_path: Path) -> None:
        pytest.importorskip("hatchling")
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
        subprocess.run(build, cwd=repository, check=True, capture_output=True)
        (wheel,) = tmp_path.glob("*.whl")
        unpacked = tmp_path / "unpacked"
        subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(unpacked)], check=True)
        names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
        assert {"scorefusion/cli/__init__.py", "scorefusion/evaluation/__init__.py"} <= names
        assert not [name for name in names if "Testing" in name or name.endswith((".nii", ".nii.gz", ".pt"))]
        models = repository / "Resources" / "Models"
        shipped = sorted(path.parent.parent.name for path in models.glob("*/configs/metadata.json"))
        code = "import scorefusion; print([info.id for info in scorefusion.list_bundles()])"
        environment = {**os.environ, "PYTHONPATH": str(unpacked), "SCOREFUSION_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
        )
        assert done.stdout.strip() == str(shipped)
