"""The one report: tables as Markdown, one HTML page, CSV, JSON and on the terminal."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scorefusion.evaluation.rows import Benchmark
from scorefusion.progress import jsonable

PICTURE_WIDTH, JPEG_QUALITY = 1600, 80  # of pictures inside the page; the full ones stay beside it


@dataclass(frozen=True)
class Cell:
    """A cell: as it is read, what its column is sorted by (None = the text), and whether it is the column's best."""

    text: str
    value: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    note: str = ""

    def cells(self) -> list[list[Cell]]:
        """All rows as cells, each as wide as the header."""
        found = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]
        if any(len(row) != len(self.header) for row in found):
            msg = f"table {self.title!r}: a row is not as wide as the header of {len(self.header)} cells"
            raise ValueError(msg)
        return found


@dataclass(frozen=True)
class Section:
    """Part of a report: what is said first, then its tables, then its pictures (PNG files)."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Path] = ()


@dataclass(frozen=True)
class Report:
    """What a command found. The caption says what was done, on what, where and how."""

    title: str
    caption: Mapping[str, str]
    paragraphs: Sequence[str] = ()
    sections: Sequence[Section] = ()


def number(value: float, form: str, *, best: bool = False) -> Cell:
    """One figure in a format such as `.2f` (`GiB`: of bytes); a dash where there is none (nan)."""
    if math.isnan(value):
        return Cell("-")
    return Cell(f"{value / 2**30:.2f} GiB" if form == "GiB" else format(value, form), value, best)


def mean_and_range(values: Sequence[float], form: str, *, ranged: bool = True) -> Cell:
    """`mean (smallest to largest)`; the mean alone where there is one value, a dash where there is none."""
    known = [value for value in values if not math.isnan(value)]
    mean = number(sum(known) / len(known) if known else math.nan, form)
    extent = f" ({min(known):{form}} to {max(known):{form}})" if ranged and len(known) > 1 else ""
    return Cell(f"{mean.text}{extent}", mean.value)


# -- files and terminal ------------------------------------------------------------------------------------------------


def write_report(
    report: Report, rows: Sequence[Mapping[str, Any]], content: Mapping[str, Any], folder: Path, stem: str
) -> list[Path]:
    """Write `stem.md`, `.html`, `.csv` (the rows) and `.json` (the content); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{stem}.{kind}" for kind in ("md", "html", "csv", "json")]
    files[0].write_text(markdown(report), encoding="utf-8")
    files[1].write_text(page(report), encoding="utf-8")
    with files[2].open("w", newline="", encoding="utf-8") as stream:
        names = list(dict.fromkeys(key for row in rows for key in row)) or ["subject"]
        writer = csv.DictWriter(stream, fieldnames=names)
        writer.writeheader()
        writer.writerows(rows)
    files[3].write_text(json.dumps(jsonable(dict(content)), indent=1, allow_nan=False), encoding="utf-8")
    return files


def content_of(benchmark: Benchmark) -> dict[str, Any]:
    """A benchmark for JSON."""
    own = {"caption": benchmark.caption, "settings": benchmark.settings, "subjects": benchmark.facts}
    return {**own, "rows": [row.flat() for row in benchmark.rows]}


def markdown(report: Report) -> str:
    """The report as Markdown. Pictures are named by their file name, relative to the report's folder."""
    blocks = [f"# {report.title}", "\n".join(f"- {key}: {value}" for key, value in report.caption.items())]
    blocks += report.paragraphs
    for section in report.sections:
        blocks += [f"## {section.title}", *section.paragraphs]
        for table in section.tables:
            lines = [table.header, ["---", *["---:"] * (len(table.header) - 1)]]
            lines += [[f"**{cell.text}**" if cell.best else cell.text for cell in row] for row in table.cells()]
            escaped = [[text.replace("|", "\\|") for text in line] for line in lines]
            blocks += [f"### {table.title}", "\n".join("| " + " | ".join(line) + " |" for line in escaped)]
            blocks += [table.note] if table.note else []
        blocks += [f"![{path.stem}]({path.name})" for path in section.pictures]
    return "\n\n".join(blocks) + "\n"


def page(report: Report) -> str:
    """One HTML file that needs nothing else; without JavaScript its tables stand as they are."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("scorefusion.evaluation", ""), autoescape=True, trim_blocks=True)
    environment.filters |= {
        "picture": _picture,
        "address": lambda path: quote(path.name),
        "js": lambda value: f"{value:.9g}".replace("inf", "Infinity"),  # as JavaScript reads it
    }
    return environment.get_template("report.html").render(report=report)


def _picture(path: Path) -> str:
    """A picture as a `data:` address, JPEG of moderate width; empty if it is not there."""
    from PIL import Image  # it comes with matplotlib, without which there are no pictures

    if not path.is_file():
        return ""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width > PICTURE_WIDTH:
        image = image.resize((PICTURE_WIDTH, round(image.height * PICTURE_WIDTH / image.width)))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def print_report(caption: Mapping[str, str], tables: Sequence[Table], lines: Sequence[str]) -> None:
    """The caption, the main tables and what they come to, on the terminal. A table's note is its caption."""
    import rich.table
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)  # a log has no edge to wrap at
    for key, value in caption.items():
        console.print(f"{key}: {value}", style="dim", markup=False, soft_wrap=True)
    for each in tables:
        shown = rich.table.Table(title=each.title, caption=each.note or None)
        for position, name in enumerate(each.header):
            shown.add_column(name, justify="right" if position else "left")
        for row in each.cells():
            shown.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
        console.print(shown)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
