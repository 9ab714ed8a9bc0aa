"""The rules of the house about who may import whom, and what each room needs to be importable at all."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import scorefusion
from scorefusion.version import __version__

ENGINE = Path(scorefusion.__file__).parent
MODULE = ENGINE.parent
HOSTS = {"slicer", "qt", "ctk", "vtk", "vtkmodules", "PySide6", "PythonQt", "slicer_core"}

EVERYONES = {"documents", "errors", "progress", "transfer", "version", "wording"}
"""What every room may use; these know nothing but each other."""

MAY_IMPORT: dict[str, set[str]] = {
    "imaging": set(),
    "diffusion": set(),
    "networks": set(),
    "fusion": {"imaging", "diffusion", "networks"},
    "bundle": {"imaging", "diffusion", "networks", "fusion"},
    "run": {"imaging", "diffusion", "networks", "fusion", "bundle"},
    "pipeline": {"imaging", "diffusion", "networks", "fusion", "bundle", "run"},
    # Files and people, no networks; only its command talks to the terminal.
    "datasets": {"imaging", "cli"},
    "synthesis": {"imaging", "datasets", "cli"},
    "training": {
        "imaging", "diffusion", "networks", "fusion", "bundle", "run", "pipeline", "datasets", "synthesis", "cli"
    },
    "evaluation": {
        "imaging", "diffusion", "networks", "fusion", "bundle", "run", "pipeline", "datasets", "training", "cli"
    },
    "cli": {"imaging", "bundle", "run", "pipeline", "networks"},
    "__main__": {"cli"},
}  # fmt: skip
"""For each room the rooms below it."""

TORCH_FREE = [
    "scorefusion",
    "errors",
    "progress",
    "wording",
    "version",
    "imaging.volume",
    "imaging.files",
    "imaging.intensity",
    "bundle.store",
    "bundle.install",
    "run.memory",
    "run.devices",
    "run.domain",
    "run.installation",
    "cli.app",
]
NUMERIC_CORE = [
    "imaging.volume",
    "imaging.intensity",
    "imaging.acquisition",
    "diffusion.schedule",
    "diffusion.sampler",
    "networks.unet",
    "fusion.planes",
    "fusion.rules",
    "bundle.load",
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


def python_files(*folders: Path) -> dict[str, Path]:
    """By full module name, all files below some packages; a package is called by its folder's name."""
    found = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder.parent).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = file
    return found


ENGINE_FILES = python_files(ENGINE)
ALL_FILES = python_files(ENGINE, MODULE / "ScoreFusionLib")


def imports_in(file: Path) -> Iterator[str]:
    """Full names of all that a file imports: at its top, inside functions, for type checkers, and by a name in a text
    (`import_module("a.b")`). Of `from a import b` both `a` and `a.b`, which may be a module."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def graph(files: dict[str, Path]) -> dict[str, set[str]]:
    """By module, what it imports among `files`. Whoever imports `a.b.c` has run `a` and `a.b` first, so these count."""
    arrows = {}
    for name, file in files.items():
        found = {module for module in imports_in(file) if module in files}
        for module in [name, *found]:
            parts = module.split(".")
            found |= {".".join(parts[:length]) for length in range(1, len(parts))}
        arrows[name] = found - {name}
    return arrows


def circle_in(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that can each be reached from themselves; leaves are taken away until nothing changes."""
    left = dict(arrows)
    while True:
        leaves = {name for name, targets in left.items() if not targets & left.keys()}
        if not leaves:
            break
        left = {name: targets for name, targets in left.items() if name not in leaves}
    entered = {target for targets in left.values() for target in targets}
    return sorted(name for name in left if name in entered)


def room_of(module: str) -> str:
    """`imaging` for `scorefusion.imaging.grid`; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def run_python(code: str, blocked: list[str] | None = None) -> None:
    """Run code in a fresh interpreter in which some packages cannot be imported."""
    block = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked or [])
    environment = {**os.environ, "PYTHONPATH": str(ENGINE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr


class TestArrows:
    @pytest.mark.parametrize("name", ENGINE_FILES)
    def test_the_engine_never_imports_its_host(self, name: str) -> None:
        assert not {module.partition(".")[0] for module in imports_in(ENGINE_FILES[name])} & HOSTS

    def test_no_module_can_be_reached_from_itself(self) -> None:
        assert circle_in(graph(ALL_FILES)) == []

    def test_every_room_has_its_rule(self) -> None:
        rooms = {room_of(name) for name in ENGINE_FILES} - {""}
        assert rooms == MAY_IMPORT.keys() | EVERYONES

    @pytest.mark.parametrize("room", MAY_IMPORT)
    def test_each_room_imports_only_from_below(self, room: str) -> None:
        for name, targets in graph(ENGINE_FILES).items():
            if room_of(name) == room:
                assert {room_of(target) for target in targets} - {""} <= MAY_IMPORT[room] | EVERYONES | {room}, name

    def test_what_everyone_may_use_knows_no_room(self) -> None:
        arrows = graph(ENGINE_FILES)
        for name in EVERYONES:
            assert {room_of(target) for target in arrows[f"scorefusion.{name}"]} - {""} <= EVERYONES, name

    @pytest.mark.parametrize(
        "written",
        [
            "import scorefusion.b",
            "from scorefusion import b",
            "def later():\n    from scorefusion.b import x",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from scorefusion.b import x",
            "from importlib import import_module\nimport_module('scorefusion.b')",
        ],
    )
    def test_a_circle_is_seen_however_it_is_imported(self, tmp_path: Path, written: str) -> None:
        package = tmp_path / "scorefusion"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "a.py").write_text(written)
        (package / "b.py").write_text("from scorefusion.c import y")
        (package / "c.py").write_text("import scorefusion.a")
        circle = circle_in(graph(python_files(package)))
        assert circle == ["scorefusion.a", "scorefusion.b", "scorefusion.c"]

    def test_a_package_that_gathers_its_modules_is_a_circle(self, tmp_path: Path) -> None:
        package = tmp_path / "scorefusion"
        package.mkdir()
        (package / "__init__.py").write_text("from scorefusion.a import x")
        (package / "a.py").write_text("")
        assert circle_in(graph(python_files(package))) == ["scorefusion", "scorefusion.a"]

    def test_only_the_command_line_prints(self) -> None:
        for name, file in ENGINE_FILES.items():
            calls = (
                node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
            )
            printed = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
            assert not printed or "cli" in name.split("."), f"{name}: lines {printed}"

    def test_weights_are_never_unpickled(self) -> None:
        for file in ENGINE_FILES.values():
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

    def test_the_package_itself_imports_nothing(self) -> None:
        run_python(
            "import scorefusion\nassert [n for n in sys.modules if n.startswith('scorefusion')] == ['scorefusion']"
        )


def test_the_version_is_that_of_the_distribution(repository: Path) -> None:
    stated = (repository / "pyproject.toml").read_text(encoding="utf-8")
    assert 'path = "ScoreFusion/scorefusion/version.py"' in stated
    assert __version__.count(".") == 2


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
        assert {"scorefusion/cli/app.py", "scorefusion/evaluation/__init__.py"} <= names
        assert not [name for name in names if "Testing" in name or name.endswith((".nii", ".nii.gz", ".pt"))]
        models = repository / "Resources" / "Models"
        shipped = sorted(path.parent.parent.name for path in models.glob("*/configs/metadata.json"))
        code = "from scorefusion.bundle.store import list_bundles; print([info.id for info in list_bundles()])"
        environment = {**os.environ, "PYTHONPATH": str(unpacked), "SCOREFUSION_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
        )
        assert done.stdout.strip() == str(shipped)
