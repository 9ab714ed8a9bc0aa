"""What Slicer's build and its Extensions Index read: lists, addresses, pictures. Needs neither Slicer nor Qt."""

from __future__ import annotations

import ast
import json
import re
import struct
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "ScoreFusion"
CMAKE = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
TOP = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
ENTRY = json.loads((ROOT / "ScoreFusion.json").read_text(encoding="utf-8"))

# The rules of slicer-extension-catalog-entry-schema-v1.0.2.json, written out.
KNOWN_KEYS = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "dicom_support_rule": str,
    "enabled": bool,
    "tier": int,
}


def listed(variable: str) -> set[str]:
    """Return the entries of a `set(variable ...)` in the module's CMakeLists.txt."""
    found = re.search(rf"set\({variable}\n(.*?)\n\s*\)", CMAKE, re.DOTALL)
    assert found is not None
    return {line.strip().replace("${MODULE_NAME}", "ScoreFusion") for line in found[1].splitlines() if line.strip()}


def tree(*folders: str, suffixes: tuple[str, ...]) -> set[str]:
    return {
        path.relative_to(MODULE).as_posix()
        for folder in folders
        for path in (MODULE / folder).rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts
    }


class TestLists:
    """A file that is not listed works from source and is missing when installed."""

    def test_every_python_file_of_the_module_is_listed(self) -> None:
        assert listed("MODULE_PYTHON_SCRIPTS") == {"ScoreFusion.py"} | tree("ScoreFusionLib", suffixes=(".py",))

    def test_every_python_file_of_the_engine_is_listed(self) -> None:
        assert listed("ENGINE_PYTHON_SCRIPTS") == tree("scorefusion", suffixes=(".py",))

    def test_every_resource_is_listed(self) -> None:
        expected = tree("Resources", suffixes=(".ui", ".png", ".svg", ".txt")) | tree(
            "scorefusion", suffixes=(".yaml", ".html")
        )
        assert listed("MODULE_PYTHON_RESOURCES") == expected

    def test_models_and_sample_data_are_installed(self) -> None:
        for folder in ("Models", "SampleData"):
            assert f"../Resources/{folder}" in CMAKE


class TestMetadata:
    def test_the_project_is_named_as_the_entry(self) -> None:
        assert "project(ScoreFusion)" in TOP

    def test_the_entry_follows_the_schema(self) -> None:
        assert {"$schema", "category", "scm_url"} <= set(ENTRY) <= set(KNOWN_KEYS)
        for key, value in ENTRY.items():
            assert isinstance(value, KNOWN_KEYS[key]), key
        assert ENTRY["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
        assert ENTRY["category"] == "Image Synthesis"
        assert 1 <= ENTRY["tier"] <= 5
        assert b"\r" not in (ROOT / "ScoreFusion.json").read_bytes()

    def test_the_repository_name_is_one_that_the_index_takes(self) -> None:
        name = ENTRY["scm_url"].removesuffix(".git").rsplit("/", 1)[1]
        assert re.match(r"Slicer[-_]?|SlicerExtension-", name)
        assert ENTRY["scm_url"].startswith("https://")

    def test_dependencies_agree(self) -> None:
        depends = re.search(r'set\(EXTENSION_DEPENDS "(.*?)"\)', TOP)
        assert depends is not None
        assert depends[1].split() == ENTRY["build_dependencies"]

    @pytest.mark.parametrize("variable", ["EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"])
    def test_pictures_lie_where_the_addresses_say(self, variable: str) -> None:
        found = re.search(rf'^set\({variable} "(.*)"\)$', TOP, re.MULTILINE)  # one line, double quotes: read by regex
        assert found is not None
        for url in found[1].split():
            prefix = "https://raw.githubusercontent.com/scorefusion-mri/SlicerScoreFusion/main/"
            assert url.startswith(prefix)
            path = ROOT / url.removeprefix(prefix)
            assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    def test_the_icon_is_128_pixels(self) -> None:
        data = (ROOT / "ScoreFusion.png").read_bytes()
        assert struct.unpack(">II", data[16:24]) == (128, 128)

    def test_title_description_and_readme_say_what_it_is_for(self) -> None:
        purpose = "MRI super-resolution and translation"
        description = re.search(r'set\(EXTENSION_DESCRIPTION "(.*?)"\)', TOP)
        title = re.search(r'parent\.title = _\("(.*?)"\)', (MODULE / "ScoreFusion.py").read_text(encoding="utf-8"))
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        assert description is not None
        assert title is not None
        assert purpose in description[1]
        assert purpose in title[1]
        assert purpose in readme

    def test_there_is_no_category_in_cmake(self) -> None:
        assert "EXTENSION_CATEGORY" not in TOP

    def test_there_is_a_licence_at_the_root(self) -> None:
        assert (ROOT / "LICENSE").is_file()


class TestImports:
    """The index's checks: only these packages at file scope, and nothing done there."""

    ALLOWED = {"slicer", "vtk", "qt", "ctk", "SimpleITK", "numpy", "scipy", "ScoreFusionLib"}

    @pytest.mark.parametrize(
        "path", [MODULE / "ScoreFusion.py", *sorted((MODULE / "ScoreFusionLib").rglob("*.py"))], ids=lambda p: p.name
    )
    def test_file_scope(self, path: Path) -> None:
        import sys

        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node in body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                root = name.split(".")[0]
                assert root in self.ALLOWED or root in sys.stdlib_module_names, f"{path.name} imports {name}"
            is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            assert not is_call, f"{path.name}:{node.lineno} does something at import"

    def test_the_layers_point_one_way(self) -> None:
        for path in (MODULE / "ScoreFusionLib" / "logic").rglob("*.py"):
            assert "ScoreFusionLib.widgets" not in path.read_text(encoding="utf-8"), path
        for path in (MODULE / "scorefusion").rglob("*.py"):
            imports = re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert not {"slicer", "qt", "vtk", "ctk", "ScoreFusionLib"} & set(imports), path
