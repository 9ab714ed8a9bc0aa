"""`scorefusion evaluate guided`: what sharp scans of other contrasts are worth, what wrong ones do, what leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scorefusion.cli.console import listening
from scorefusion.cli.stop import Stop
from scorefusion.evaluation.cli import Crop, Device, JsonLines, Precision, Quiet, Seed, Split, Subjects, split_words

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

EPILOG = """
**Examples**

The project's validation people, every way and four painted lesions each:

    scorefusion evaluate guided --model brain-sr --split val --lesions --out results

A look in a minute:

    scorefusion evaluate guided --model brain-sr --quick --only none,t1 --out results

Your own (JSON: {"test": [{"subject": "S01", "contrasts": {"t1": "S01_T1w.nii.gz", "flair": "S01_FLAIR.nii.gz"}}]}):

    scorefusion evaluate guided scans.json --model brain-sr --out results
"""


@app.command(epilog=EPILOG)
def guided(
    datalist: Annotated[
        str, typer.Argument(help="JSON list of people with sharp contrasts; project, project-all: our test data.")
    ] = "project",
    model: Annotated[str, typer.Option(help="Name or folder of a model that takes guides.")] = "brain-sr",
    alone: Annotated[str, typer.Option("--alone-model", help="Beside it, without guides; '' = none.")] = "",
    split: Split = "val",
    subjects: Subjects = "",
    contrasts: Annotated[str, typer.Option(help="Comma-separated: restore these only.")] = "",
    only: Annotated[str, typer.Option(help="Comma-separated ways: none, t1, all, mislabelled, moved, ...")] = "",
    lesions: Annotated[bool, typer.Option("--lesions", help="Paint lesions, too.")] = False,
    spots: Annotated[int, typer.Option(min=1, help="Painted lesions a contrast.")] = 4,
    preset: Annotated[str, typer.Option(help="Of the models: fast, balanced, best.")] = "fast",
    crop: Crop = "brain",
    quick: Annotated[
        bool, typer.Option("--quick", help="64 voxels a side, one acquisition a contrast, two lesions.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tables.")] = Path("guided"),
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    json_lines: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Restore coarse scans alone, beside sharp guides, and beside guides that are wrong or moved; score each."""
    with listening(json_lines, quiet) as sink, Stop() as stop:
        from scorefusion.evaluation.guided import command, tables
        from scorefusion.evaluation.models import Settings
        from scorefusion.evaluation.report import print_report
        from scorefusion.progress import Reporter

        found, painted, paths = command.evaluate_guided(
            datalist,
            split,
            model,
            alone or None,
            out,
            Settings(None, seed, device, precision),
            preset=preset,
            crop=crop,
            quick=quick,
            spots=spots if lesions else 0,
            subjects=split_words(subjects),
            contrasts=split_words(contrasts),
            only=split_words(only),
            reporter=Reporter(sink, stop.requested),
        )
        if not (json_lines or quiet):
            shown = [*tables.tables(found), *([tables.spot_table(painted)] if painted else [])]
            said = [*tables.sentences(found, painted), *(f"Written: {path}" for path in paths)]
            print_report(found.caption, shown, said)
        sink({"event": "result", "output": paths[0], "files": paths})


if __name__ == "__main__":
    app()
