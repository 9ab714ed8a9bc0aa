"""The downstream table as Markdown, HTML, CSV and JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from scorefusion.evaluation.document import Cell, Document, Section, Table, number, table
from scorefusion.evaluation.downstream.score import CUBIC, TRUTH, Downstream, Row
from scorefusion.evaluation.report import write_files

_WORDS = {
    "map": "against the tissue map that came with the data",
    "own": "against the segmenter's own result on the truth",
}
_MEANING = (
    "Dice is twice the overlap over the sum of the sizes; the mean is over classes. Each volume is normalised and "
    "segmented by itself, whole, background included. The share says how much of the gap between cubic and truth a "
    "method closes: 0 % as cubic, 100 % as the truth, below 0 % worse than cubic. Its mean is taken from mean Dice. "
    "No significance is claimed from so few people."
)
_LIMITS = (
    "A segmenter that was trained on sharp scans is asked about restored ones; another segmenter may answer otherwise. "
    "Against its own result on the truth, errors that the segmenter always makes do not count."
)


def write_report(result: Downstream, folder: Path, stem: str = "downstream") -> dict[str, Path]:
    """Write `stem.md`, `.html`, `.csv` and `.json`; returns their paths by kind."""
    content = {
        "caption": result.caption,
        "settings": {setting.name: setting.description for setting in result.settings},
        "classes": result.classes,
        "rows": [
            {**asdict(row), "gap_share": {name: result.share(row, name) for name in result.references}}
            for row in result.rows
        ],
        "means": [
            {
                "setting": setting.name,
                "method": method,
                "reference": reference,
                "dice": result.mean_dice(setting.name, method, reference),
                "gap_share": result.mean_share(setting.name, method, reference),
            }
            for setting in result.settings
            for method in _labels(result)
            for reference in result.references
        ],
    }
    return write_files(document(result), result.flat(), content, folder, stem)


def document(result: Downstream) -> Document:
    """The whole report."""
    sections = []
    for setting in result.settings:
        tables = [_table(result, setting.name, reference) for reference in result.references]
        best = {f"{row.title}: {row.detail}" for row in result.rows if row.setting == setting.name and row.detail}
        said = (f"Best classical method by PSNR in the brain: {'; '.join(sorted(best))}.",) if best else ()
        sections.append(Section(f"{setting.name}: {setting.description}", said, tuple(tables)))
    return Document(
        "What it does to a segmentation", result.caption, (_MEANING, _LIMITS, *_apart(result)), tuple(sections)
    )


def sentences(result: Downstream) -> list[str]:
    """One line for each restoration and reference, for the terminal: how much of the gap it closes."""
    return [
        f"{setting.name}: {label}: closes {number(share, '.0%').text} of the gap in mean Dice {_WORDS[reference]}"
        for setting in result.settings
        for method, label in _labels(result).items()
        for reference in result.references
        if method not in (TRUTH, CUBIC)
        for share in [result.mean_share(setting.name, method, reference)]
    ]


def _table(result: Downstream, setting: str, reference: str) -> Table:
    """Methods by subjects, then the means over subjects."""
    rows = [row for row in result.rows if row.setting == setting]
    people = list(dict.fromkeys(row.title for row in rows))
    names = (*result.classes, None)
    header = ["method"]
    for person in people:
        header += [f"{person}: mean Dice ({' / '.join(result.classes)})", "gap closed"]
    header += [*(f"{name}, mean" for name in result.classes), "Dice, mean", "gap closed, mean"]
    best = {name: _best(result, setting, reference, name) for name in names}
    lines = []
    for method, label in _labels(result).items():
        mine = {row.title: row for row in rows if row.method == method}
        line: list[Cell | str] = [label]
        for person in people:
            line += _person(result, mine.get(person), reference)
        for name in names:
            value = result.mean_dice(setting, method, reference, name)
            line.append(number(value, ".4f", best=value == best[name] and method != TRUTH))
        lines.append([*line, number(result.mean_share(setting, method, reference), ".0%")])
    return table(f"Dice {_WORDS[reference]}", header, lines)


def _person(result: Downstream, row: Row | None, reference: str) -> list[Cell | str]:
    """Two cells of one subject: Dice, and the share of the gap by its mean."""
    if row is None:
        return ["-", "-"]
    classes = " / ".join(number(row.dice(reference, name), ".3f").text for name in result.classes)
    value = row.dice(reference)
    return [Cell(f"{value:.4f} ({classes})", value), number(result.share(row, reference), ".0%")]


def _best(result: Downstream, setting: str, reference: str, name: str | None) -> float:
    """Largest mean Dice of all but the truth."""
    values = [result.mean_dice(setting, method, reference, name) for method in _labels(result) if method != TRUTH]
    return max((value for value in values if value == value), default=float("nan"))


def _labels(result: Downstream) -> dict[str, str]:
    """Label by method, in the order of the run."""
    return {row.method: row.label for row in result.rows}


def _apart(result: Downstream) -> tuple[str, ...]:
    """People whose Dice is shown, but not counted."""
    reasons = dict.fromkeys(f"{row.title}, {row.apart}" for row in result.rows if row.apart)
    return (f"Kept out of the means: {'; '.join(reasons)}.",) if reasons else ()
