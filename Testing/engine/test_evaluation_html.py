"""The page of an evaluation: complete, escaped, and in need of nothing outside itself."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from scorefusion.datasets.case import Case  # noqa: E402
from scorefusion.evaluation.benchmark import classical_methods, run_benchmark  # noqa: E402
from scorefusion.evaluation.benchmark_report import document, write_benchmark  # noqa: E402
from scorefusion.evaluation.report import (  # noqa: E402
    PICTURE_WIDTH,
    Cell,
    Report,
    Section,
    Table,
    markdown,
    mean_and_range,
    number,
    page,
    write_report,
)
from scorefusion.evaluation.simulate import Setting  # noqa: E402
from scorefusion.evaluation.suites import Suite, SuiteCase  # noqa: E402
from scorefusion.imaging.files import write_volume  # noqa: E402
from scorefusion.imaging.volume import Volume  # noqa: E402

VOID = {"meta", "img", "br", "hr", "link", "input"}
SHAPE = (26, 28, 24)


class Reader(HTMLParser):
    """Checks that tags are closed in order, and collects tables, addresses and texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.values: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.addresses += [facts[key] or "" for key in ("src", "href") if key in facts]
        self.values += [facts["data-value"] or ""] if "data-value" in facts else []
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture
def report(tmp_path: Path) -> Report:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "one & two.png"
    image.fromarray(np.zeros((40, 2000, 3), np.uint8)).save(path)
    rows = [["<script>alert(1)</script>", number(2.5, ".2f", best=True)], ["b & c", number(math.inf, ".2f")]]
    first = Table('scores "here"', ["method | rule", "PSNR"], [*rows, ["none", number(math.nan, ".2f")]], "a note")
    sections = (Section("One <b>", ("P > Q",), (first,)), Section("Two", (), (), (path, tmp_path / "gone.png")))
    return Report("T <i>", {"data": "<x>", "machine": "m"}, ("said",), sections)


class TestPage:
    def test_it_parses_and_holds_every_row(self, report: Report) -> None:
        found = Reader(page(report))
        assert found.rows == [
            ["method | rule", "PSNR"],
            ["<script>alert(1)</script>", "2.50"],
            ["b & c", "inf"],
            ["none", "-"],
        ]
        assert found.values == ["2.5", "Infinity"]

    def test_nothing_that_was_given_becomes_markup(self, report: Report) -> None:
        text = page(report)
        assert text.count("<script") == 1
        assert "<i>" not in text
        assert "<b>" not in text
        assert "<x>" not in text
        assert 'aria-label="scores &#34;here&#34;"' in text

    def test_no_address_leads_outside(self, report: Report) -> None:
        text = page(report)
        assert re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text)) is None
        for address in Reader(text).addresses:
            assert address.startswith(("#s", "data:image/jpeg;base64,")) or address == "one%20%26%20two.png"

    def test_pictures_are_inside_and_of_moderate_width_and_missing_ones_are_named(self, report: Report) -> None:
        import base64
        import io

        from PIL import Image

        text = page(report)
        data = re.search(r"data:image/jpeg;base64,([^\"]+)", text)
        assert data is not None
        assert Image.open(io.BytesIO(base64.b64decode(data[1]))).width == PICTURE_WIDTH
        assert "The picture gone.png is not there." in text

    def test_it_is_fit_for_phones_and_for_the_dark(self, report: Report) -> None:
        text = page(report)
        assert 'name="viewport" content="width=device-width' in text
        assert "prefers-color-scheme: dark" in text
        assert "overflow-x: auto" in text

    def test_the_file_is_utf8(self, report: Report, tmp_path: Path) -> None:
        path = write_report(Report("Größe †", {}), [], {}, tmp_path, "page")[1]
        assert "Größe †" in path.read_text(encoding="utf-8")
        assert '<meta charset="utf-8">' in path.read_text(encoding="utf-8")


class TestTables:
    def test_markdown_says_the_same(self, report: Report) -> None:
        text = markdown(report)
        assert "| method \\| rule | PSNR |" in text
        assert "| <script>alert(1)</script> | **2.50** |" in text
        assert "![gone](gone.png)" in text

    @pytest.mark.parametrize(
        ("values", "text", "value"),
        [
            ([1.0, 2.0, 4.5], "2.50 (1.00 to 4.50)", 2.5),
            ([3.0], "3.00", 3.0),
            ([math.nan, 3.0], "3.00", 3.0),
            ([], "-", None),
            ([math.nan], "-", None),
        ],
    )
    def test_means_come_with_their_range(self, values: list[float], text: str, value: float | None) -> None:
        assert mean_and_range(values, ".2f") == Cell(text, value)

    def test_rows_of_another_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match="table 't': a row is not as wide as the header of 2"):
            Table("t", ["a", "b"], [["x"]]).cells()


def scan(folder: Path, name: str, seed: int, lesion: bool) -> SuiteCase:
    """A textured ball, with or without a bright lesion and its mask."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1.15, 1.15, size) for size in SHAPE), indexing="ij")
    inside = sum(a**2 for a in axes) < 1
    data = 500 + 100 * np.sin(9 * axes[0]) * np.cos(8 * axes[1] + 5 * axes[2]) + 20 * rng.standard_normal(SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[11:14, 13:16, 10:13] = True
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    write_volume(Volume((np.where(mask & lesion, 900, data) * inside)[None].astype(np.float32), affine), folder / name)
    masks = {}
    if lesion:
        masks["lesion"] = folder / f"lesion_{name}"
        write_volume(Volume(mask[None].astype(np.float32), affine), masks["lesion"])
    case = Case(name.partition(".")[0], {"flair": folder / name}, masks=masks, skull_stripped=True)
    return SuiteCase(case, "flair")


class TestSuperResolutionReport:
    def test_ranges_slices_lesions_and_every_row(self, tmp_path: Path) -> None:
        cases = (scan(tmp_path, "A.nii.gz", 0, lesion=True), scan(tmp_path, "B.nii.gz", 1, lesion=False))
        methods = [method for method in classical_methods() if method.key in ("nearest", "cubic")]
        benchmark = run_benchmark(Suite("balls", "test", cases), [Setting.parse("iso2")], methods)
        by: dict[tuple[str, str], Any] = {(row.subject, row.method): row for row in benchmark.rows}
        assert not any("lesion" in figure for figure in by["B", "cubic"].figures)
        # A lesion of three voxels fades where pairs of voxels are averaged: (8 + 12/2 + 6/4 + 1/8) / 27 = 58 % is left.
        assert by["A", "nearest"]["lesion_contrast_error"] == pytest.approx(0.579 - 1, abs=0.06)
        assert benchmark.facts[0]["lesion_voxels"] == 27
        assert benchmark.facts[0]["lesion_truth"]["contrast"] > 0.3
        titles = [each.title for section in document(benchmark).sections for each in section.tables]
        assert "Slice-to-slice change beside the truth's (1 = as the truth, below = too smooth)" in titles
        assert "Lesions" in titles
        paths = {path.suffix[1:]: path for path in write_benchmark(benchmark, tmp_path / "out")}
        assert set(paths) == {"md", "html", "csv", "json"}
        rows = Reader(paths["html"].read_text(encoding="utf-8")).rows
        firsts = [row[0] for row in rows]
        for subject in ("A", "B"):
            for method in methods:
                assert f"{subject} FLAIR, {method.label}" in firsts
        assert "A FLAIR (lesion, 27 voxels): truth" in firsts
        line = next(row for row in rows if row[0] == "nearest")
        low, high = sorted(by[name, "nearest"]["psnr_brain"] for name in "AB")
        assert line[-1].startswith(f"{(low + high) / 2:.2f} ({low:.2f} to {high:.2f}) / ")
