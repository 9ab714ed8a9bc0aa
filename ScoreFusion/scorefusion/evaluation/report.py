"""The one report: tables with a column a person, as Markdown, one HTML page, CSV, JSON and on the terminal."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scorefusion.evaluation.lesions import HOW
from scorefusion.evaluation.rows import Benchmark, Row, by_label, values_of
from scorefusion.progress import jsonable

PICTURE_WIDTH, JPEG_QUALITY = 1600, 80  # of pictures inside the page; the full ones stay beside it
FEW = "Means are over persons, with the smallest and the largest value; no significance is claimed from so few."
THROUGH_PLANE = "Slice-to-slice change beside the truth's (1 = as the truth, below = too smooth)"


@dataclass(frozen=True)
class Cell:
    """A cell: as it is read, what its column is sorted by (None = the text), and whether it is the column's best."""

    text: str
    value: float | None = None
    best: bool = False


Column = tuple[str, str, str]  # heading, figure, format


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
    """One figure in a format such as `.2f`; a dash where there is none (nan)."""
    return Cell("-") if math.isnan(value) else Cell(format(value, form), value, best)


def mean_and_range(values: Sequence[float], form: str) -> Cell:
    """`mean (smallest to largest)`; the mean alone where there is one value, a dash where there is none."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Cell("-")
    mean = sum(known) / len(known)
    extent = f" ({min(known):{form}} to {max(known):{form}})" if len(known) > 1 else ""
    return Cell(f"{mean:{form}}{extent}", mean)


def pair(psnr: float, ssim: float, *, best: bool = False) -> Cell:
    """`PSNR / SSIM` of one volume."""
    return Cell("-") if math.isnan(psnr) else Cell(f"{psnr:.2f} / {ssim:.4f}", psnr, best)


def heading(facts: Mapping[str, Any]) -> str:
    """A person's name, with † for a truth that says little and * for one kept out of the mean."""
    return f"{facts['title']}{'†' if facts.get('doubtful_axes') else ''}{'*' if facts['apart'] else ''}"


def score_table(
    title: str, rows: Sequence[Row], facts: Sequence[Mapping[str, Any]], figures: tuple[str, str], best_by: str
) -> Table:
    """Methods by persons: PSNR and SSIM, then mean and range; the best of a column stands out."""
    tops = {f["title"]: max((r[best_by] for r in rows if r.title == f["title"]), default=math.nan) for f in facts}
    lines: list[list[Cell | str]] = []
    for label, group in by_label(rows).items():
        own = {row.title: row for row in group}
        line: list[Cell | str] = [label]
        for name, top in tops.items():
            row = own.get(name)
            line.append("-" if row is None else pair(row[figures[0]], row[figures[1]], best=row[best_by] == top))
        psnr, ssim = (
            mean_and_range(values_of(group, figures[0]), ".2f"),
            mean_and_range(values_of(group, figures[1]), ".4f"),
        )
        lines.append([*line, Cell("-") if psnr.value is None else Cell(f"{psnr.text} / {ssim.text}", psnr.value)])
    return Table(title, ["method", *map(heading, facts), "mean (range)"], lines)


def mean_table(
    title: str, rows: Sequence[Row], columns: Sequence[Column], note: str = "", show: Callable[..., Cell] | None = None
) -> Table:
    """Methods by figures: mean and range over persons, or the mean alone if `show` is `mean_only`."""
    lines: list[list[Cell | str]] = [
        [label, *((show or mean_and_range)(values_of(group, figure), form) for _, figure, form in columns)]
        for label, group in by_label(rows).items()
    ]
    return Table(title, ["method", *(name for name, _, _ in columns)], lines, note)


def mean_only(values: Sequence[float], form: str) -> Cell:
    """The mean; `GiB` as a format is for bytes."""
    mean = sum(values) / len(values) if values else math.nan
    if form == "GiB":
        return Cell("-") if math.isnan(mean) else Cell(f"{mean / 2**30:.2f} GiB", mean)
    return number(mean, form)


COST: tuple[Column, ...] = (
    ("seconds", "seconds", ".2f"), ("slice passes", "slice_passes", ".0f"), ("volume passes", "volume_passes", ".0f"),
    ("peak memory", "peak_bytes", "GiB"),
)  # fmt: skip
ALONG: tuple[Column, ...] = tuple((f"along {letter}", f"through_plane_{axis}", ".2f") for letter, axis in
                                  zip("RAS", "ijk", strict=True))  # fmt: skip


def row_table(rows: Sequence[Row], who: str, columns: Sequence[Column]) -> Table:
    """One line per person and method."""
    lines: list[list[Cell | str]] = [
        [f"{row.title}, {row.label}", *(number(row[f], form) for _, f, form in columns)] for row in rows
    ]
    return Table("Every row", [f"{who}, method", *(name for name, _, _ in columns)], lines)


_LESION: tuple[Column, ...] = (
    ("contrast (of the range)", "lesion_contrast", "+.3f"), ("contrast kept", "lesion_kept", ".0%"),
    ("CNR", "lesion_cnr", "+.2f"), ("CNR, relative error", "lesion_cnr_error", "+.0%"),
    ("MAE in the lesion", "lesion_mae", ".4f"), ("MAE in the rest of the brain", "lesion_mae_elsewhere", ".4f"),
)  # fmt: skip


def lesion_sections(rows: Sequence[Row], facts: Sequence[Mapping[str, Any]], title: str) -> list[Section]:
    """Every method's lesions beside the truth's; none where no case has a mask."""
    lines: list[list[Cell | str]] = []
    for about in facts:
        if about["lesion"] is None:
            continue
        name, truth = about["title"], about["lesion_truth"]
        what = f"{name} ({about['lesion']}, {about['lesion_voxels']} voxels): truth"
        lines.append([what, number(truth["contrast"], "+.3f"), "", number(truth["cnr"], "+.2f"), "", "", ""])
        for row in rows:
            if row.title == name and "lesion_mae" in row.figures:
                figures = {**row.figures, "lesion_kept": 1.0 + row["lesion_contrast_error"]}
                lines.append([f"{name}: {row.label}", *(number(figures[f], form) for _, f, form in _LESION)])
    if not lines:
        return []
    tables = [Table("Lesions", ["volume: image", *(head for head, _, _ in _LESION)], lines)]
    return [Section(title, [HOW, *lesion_sentences(rows)], tables)]


def lesion_sentences(rows: Sequence[Row]) -> list[str]:
    """One sentence a model method: how much of the lesions' contrast is left, over persons."""
    sentences = []
    for label, group in by_label(row for row in rows if row.family == "model").items():
        known = [1.0 + v for v in values_of(group, "lesion_contrast_error") if not math.isnan(v)]
        if known:
            how = "keeps" if sum(known) >= 0 else "turns the contrast of lesions round:"
            persons = f"{len(known)} {'person' if len(known) == 1 else 'persons'}"
            share = mean_and_range(known, ".0%").text
            sentences.append(f"{label} {how} {share} of the lesions' contrast in the truth ({persons}).")
    return sentences


def apart_note(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whose columns are kept out of the mean, and why."""
    apart = "; ".join(f"{f['title']}, {f['apart']}" for f in facts if f["apart"])
    return [f"Columns marked * are kept out of the mean: {apart}."] if apart else []


def picture_sections(pictures: Sequence[Path]) -> list[Section]:
    """The last section, if there are pictures."""
    return [Section("Pictures", ["Each has its own caption."], (), pictures)] if pictures else []


# -- files and terminal ----------------------------------------------------------------------------------------------


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
    return {
        "caption": benchmark.caption,
        "settings": benchmark.settings,
        "subjects": benchmark.facts,
        "rows": [row.flat() for row in benchmark.rows],
    }


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
    environment.filters |= {"picture": _picture, "address": lambda path: quote(path.name), "js": _script_number}
    return environment.get_template("report.html").render(report=report)


def _script_number(value: float) -> str:
    """As JavaScript reads it."""
    return f"{value:.9g}".replace("inf", "Infinity")


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
