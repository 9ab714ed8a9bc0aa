"""What a report says, before it is Markdown or HTML: sections with tables and pictures, cells with their figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: as it is read.
        value: what its column is sorted by; None = the text.
        best: stands out as the best of its column.
    """

    text: str
    value: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows} - {len(self.header)}
        if widths:
            msg = f"table {self.title!r}: rows of {sorted(widths)} cells under a header of {len(self.header)}"
            raise ValueError(msg)


@dataclass(frozen=True)
class Section:
    """Part of a report: what is said first, then its tables, then its pictures (PNG files)."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Document:
    """A report. The caption says what was done, on what, where and how."""

    title: str
    caption: Mapping[str, str]
    paragraphs: tuple[str, ...] = ()
    sections: tuple[Section, ...] = field(default=())


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Cell | str]], note: str = "") -> Table:
    """A table from cells and plain texts."""
    cells = (tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    return Table(title, tuple(header), tuple(cells), note)


def number(value: float, form: str, *, best: bool = False) -> Cell:
    """One figure; a dash where there is none.

    Args:
        value: nan = there is none.
        form: format specification such as `.2f`.
        best: see `Cell`.
    """
    return Cell("-") if math.isnan(value) else Cell(format(value, form), value, best)


def mean_and_range(values: Sequence[float], form: str, *, best: bool = False) -> Cell:
    """`mean (smallest to largest)` over subjects; the mean alone where there is one, a dash where there is none."""
    text = describe_range(values, lambda value: format(value, form))
    known = [value for value in values if not math.isnan(value)]
    return Cell(text, sum(known) / len(known), best) if known else Cell(text)


def describe_range(values: Sequence[float], show: Callable[[float], str]) -> str:
    """`mean (smallest to largest)` in words; nan does not count."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    mean = show(sum(known) / len(known))
    return mean if len(known) == 1 else f"{mean} ({show(min(known))} to {show(max(known))})"


def markdown(document: Document) -> str:
    """The report as Markdown. Pictures are named relative to the report's folder by their file name."""
    parts = [f"# {document.title}", "", *(f"- {key}: {value}" for key, value in document.caption.items())]
    parts += [part for paragraph in document.paragraphs for part in ("", paragraph)]
    for section in document.sections:
        parts += ["", f"## {section.title}"]
        parts += [part for paragraph in section.paragraphs for part in ("", paragraph)]
        for each in section.tables:
            parts += ["", f"### {each.title}", "", _markdown_table(each)]
            parts += ["", each.note] if each.note else []
        parts += [part for path in section.pictures for part in ("", f"![{path.stem}]({path.name})")]
    return "\n".join(parts) + "\n"


def _markdown_table(each: Table) -> str:
    """First column left, the others right, the best figures bold."""
    lines = [list(each.header), ["---", *["---:"] * (len(each.header) - 1)]]
    for row in each.rows:
        lines.append([f"**{cell.text}**" if cell.best else cell.text for cell in row])
    escaped = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)
