"""A report as one HTML file that needs nothing else: style, pictures and the sorting of tables are inside.

No address outside the file is ever loaded. Without JavaScript the tables stand as they are.
"""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from scorefusion.evaluation.document import Cell, Document, Section, Table

#: Pixels across an embedded picture; the full one stays beside the page.
PICTURE_WIDTH = 1600
JPEG_QUALITY = 80

#: Longer texts in a cell are set as prose.
LONG_TEXT = 28

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --faint: #5b6675; --paper: #ffffff; --line: #d9dee5;
  --band: #f3f5f8; --mark: #0b6a53; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e9ef; --faint: #9aa5b4; --paper: #12161c; --line: #2c343f;
  --band: #1a2029; --mark: #6fd3b4; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 86rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: .4rem 0 .8rem; } h2 { font-size: 1.3rem; margin: 2.2rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; } p { max-width: 60rem; margin: .5rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; font-size: .88rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
nav { margin: 1rem 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; } a { color: var(--mark); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; } tbody tr:hover > * { background: var(--band); }
thead th { background: var(--band); vertical-align: bottom; white-space: normal; min-width: 4.5rem; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); font-weight: 500;
  white-space: normal; min-width: 9rem; max-width: 22rem; }
thead th:first-child { background: var(--band); }
td.text { text-align: left; white-space: normal; min-width: 13rem; }
td.best { font-weight: 700; color: var(--mark); }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid var(--mark); }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
.note, figcaption, footer { color: var(--faint); font-size: .86rem; }
figure { margin: 1.2rem 0; } img { width: 100%; height: auto; border-radius: 6px; display: block; }
footer { margin: 3rem 0 1rem; border-top: 1px solid var(--line); padding-top: .8rem; }
@media (max-width: 40rem) { body { padding: .7rem; } dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  th:first-child { max-width: 10rem; min-width: 7rem; } figure { overflow-x: auto; } img { min-width: 44rem; } }
"""

_FOOTER = "Made by ScoreFusion. Restored and translated volumes are synthetic: research use only, not for diagnosis."

# A click on a column's name sorts by it: first downwards (large figures on top), then upwards.
_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, column = head.cellIndex, body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") !== "descending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => { const cell = row.cells[column], value = parseFloat(cell.dataset.value);
    return [Number.isNaN(value) ? null : value, cell.textContent]; };
  const rows = Array.from(body.rows, (row) => [key(row), row]);
  rows.sort(([[a, s]], [[b, t]]) => a === null || b === null
    ? (a === null) - (b === null) || (down ? s.localeCompare(t) : t.localeCompare(s)) : down ? b - a : a - b);
  body.append(...rows.map(([, row]) => row));
});
"""


def page(document: Document) -> str:
    """The whole file. Pictures that are not there are named, not shown."""
    sections = "\n".join(_section(number, section) for number, section in enumerate(document.sections))
    links = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>' for number, section in enumerate(document.sections)
    )
    facts = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in document.caption.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(document.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(document.title)}</h1>
<dl>{facts}</dl>
{_paragraphs(document.paragraphs)}
<nav>{links}</nav>
<main>
{sections}
</main>
<footer>{escape(_FOOTER)}</footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def write_page(document: Document, path: Path) -> Path:
    """Write the page; returns its path."""
    path.write_text(page(document), encoding="utf-8")
    return path


def _section(number: int, section: Section) -> str:
    tables = "\n".join(_table(each) for each in section.tables)
    pictures = "\n".join(_picture(path) for path in section.pictures)
    return (
        f'<section id="s{number}">\n<h2>{escape(section.title)}</h2>\n{_paragraphs(section.paragraphs)}\n'
        f"{tables}\n{pictures}\n</section>"
    )


def _paragraphs(texts: tuple[str, ...]) -> str:
    return "\n".join(f"<p>{escape(text)}</p>" for text in texts)


def _table(each: Table) -> str:
    title = escape(each.title)
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in each.header)
    rows = "\n".join(f"<tr>{_first(row[0])}{''.join(map(_cell, row[1:]))}</tr>" for row in each.rows)
    note = f'<p class="note">{escape(each.note)}</p>' if each.note else ""
    return (
        f'<h3>{title}</h3>\n<div class="scroll" role="region" tabindex="0" aria-label="{title}">'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n{note}"
    )


def _first(cell: Cell) -> str:
    return f'<th scope="row">{escape(cell.text)}</th>'


def _cell(cell: Cell) -> str:
    if cell.value is None and len(cell.text) > LONG_TEXT:
        return f'<td class="text">{escape(cell.text)}</td>'
    value = "" if cell.value is None else f' data-value="{_script_number(cell.value)}"'
    mark = ' class="best"' if cell.best else ""
    return f"<td{mark}{value}>{escape(cell.text)}</td>"


def _script_number(value: float) -> str:
    """As JavaScript reads it."""
    return f"{value:.9g}".replace("inf", "Infinity")


def _picture(path: Path) -> str:
    name = escape(path.name)
    try:
        source = _data_address(path)
    except OSError:
        return f'<p class="note">The picture {name} is not there.</p>'
    return (
        f'<figure><a href="{escape(_relative(path))}"><img src="{source}" alt="{escape(path.stem)}" loading="lazy">'
        f"</a><figcaption>{name} (the file beside this page is larger)</figcaption></figure>"
    )


def _relative(path: Path) -> str:
    """Pictures lie beside the page; their names are made for addresses, but a subject's name may hold anything."""
    from urllib.parse import quote

    return quote(path.name)


def _data_address(path: Path) -> str:
    """The picture inside the page: as JPEG of moderate width where Pillow is there, else the file as it is."""
    try:
        from PIL import Image
    except ImportError:  # Pillow comes with matplotlib, without which there are no pictures
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width > PICTURE_WIDTH:
        image = image.resize((PICTURE_WIDTH, round(image.height * PICTURE_WIDTH / image.width)))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
