"""`scorefusion data`: from a folder of scans to a datalist that can be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scorefusion.cli.console import EXIT_USER_ERROR, listening
from scorefusion.cli.stop import Stop
from scorefusion.errors import RequestError

if TYPE_CHECKING:
    from scorefusion.datasets.common_grid import RegistrationReport
    from scorefusion.datasets.datalist import Datalist
    from scorefusion.datasets.inspect import Problem

EPILOG = """
**Examples**

From a BIDS, BraTS or IXI folder to something that can be trained on:

    scorefusion data list scans --out scans.json

    scorefusion data split scans.json

    scorefusion data check scans.json --super-resolution

To learn FLAIR from T1w, first bring T1w onto FLAIR:

    scorefusion data register scans.json --reference flair --out registered

    scorefusion data check registered/datalist.json --contrasts t1,flair
"""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Find scans, split them by person, register their contrasts, and check the result.",
    epilog=EPILOG,
)

List = Annotated[Path, typer.Argument(metavar="DATALIST", help='JSON list of cases; "project": our own test data.')]
Json = Annotated[bool, typer.Option("--json", help="Report events as JSON lines on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")]


@app.command("list")
def list_command(
    folder: Annotated[Path, typer.Argument(help="The top folder of the scans.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The datalist to write.")] = Path("datalist.json"),
    layout: Annotated[str, typer.Option(help="bids, brats, ixi, or auto.")] = "auto",
    name: Annotated[str, typer.Option(help="Of the datalist; the folder's name if left out.")] = "",
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the cases in a folder by their names. All go under 'training' until they are split."""
    with listening(json_lines, quiet) as sink:
        from scorefusion.datasets.datalist import Datalist, write_datalist
        from scorefusion.datasets.readers import find_cases

        found = find_cases(folder, layout)
        datalist = Datalist(name or folder.resolve().name, found.cases)
        write_datalist(datalist, out)
        if not (json_lines or quiet):
            _show_cases(datalist, f"{datalist.name} ({found.layout})")
            for note in found.notes[:20]:
                typer.echo(f"Note: {note}")
            if len(found.notes) > 20:
                typer.echo(f"Note: {len(found.notes) - 20} more like these (--json lists all)")
            typer.echo(f"Written: {out}")
        sink({"event": "result", "output": out, "layout": found.layout, **_counts(datalist), "notes": found.notes})


@app.command("split")
def split_command(
    datalist: List,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The datalist to write; the one given if left out.")
    ] = None,
    fractions: Annotated[str, typer.Option(help="Shares of people for train, val and test.")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(min=0, max=2**53, help="Another seed, other splits.")] = 0,
    stratify: Annotated[bool, typer.Option(help="Give each split its share of every combination of contrasts.")] = True,
    again: Annotated[bool, typer.Option("--again", help="Split anew what is split already.")] = False,
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    """Deal people to train, val and test: nobody is in two of them, whatever the visit."""
    with listening(json_lines, quiet) as sink:
        from scorefusion.datasets.datalist import SECTIONS, read_datalist, write_datalist
        from scorefusion.datasets.split import split_by_person

        given = read_datalist(datalist)
        if (given.validation or given.test) and not again:
            msg = (
                f"{datalist} is split already; a model that was trained on it would meet people it knows. "
                "Add --again if that is what you want"
            )
            raise RequestError(msg)
        cases = [case for name in SECTIONS for case in given.cases(name)]
        done = split_by_person(cases, _shares(fractions), seed, stratify=stratify, name=given.name)
        out = out or datalist
        write_datalist(done, out)
        if not (json_lines or quiet):
            _show_cases(done, f"{done.name}, split by person with seed {seed}")
            typer.echo(f"Written: {out}")
        sink({"event": "result", "output": out, "seed": seed, **_counts(done)})


@app.command("register")
def register_command(
    datalist: List,
    reference: Annotated[str, typer.Option(help="The contrast that the others are brought to: t1, t2, flair, ...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for volumes, reports and the new datalist.")] = Path(
        "registered"
    ),
    interpolation: Annotated[str, typer.Option(help="cubic keeps detail, linear cannot overshoot.")] = "cubic",
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of the voxels sampled.")] = 0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Look again at cases marked 'aligned', and move contrasts that already lie well."),
    ] = False,
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring all contrasts of each person onto one of them (rigidly), with a report for each person."""
    with listening(json_lines, quiet) as sink, Stop() as stop:
        from scorefusion.datasets.common_grid import align_datalist
        from scorefusion.datasets.datalist import find_datalist, write_datalist
        from scorefusion.progress import Reporter

        reports: list[RegistrationReport] = []
        done = align_datalist(
            find_datalist(datalist),
            reference,
            out,
            interpolation=interpolation,
            seed=seed,
            force=force,
            reporter=Reporter(sink, stop.requested),
            on_report=reports.append,
        )
        output = out / "datalist.json"
        write_datalist(done, output)
        if not (json_lines or quiet):
            _show_reports(reports)
            typer.echo(f"Written: {output}")
        sink({"event": "result", "output": output, "cases": [report.to_dict() for report in reports]})


@app.command("check")
def check_command(
    datalist: List,
    contrasts: Annotated[str, typer.Option(help="Comma-separated: look at these only.")] = "",
    super_resolution: Annotated[
        bool, typer.Option("--super-resolution", help="Each contrast is a sharp target by itself.")
    ] = False,
    min_size: Annotated[int, typer.Option(help="Fewest voxels along the shortest axis.")] = 32,
    headers_only: Annotated[bool, typer.Option("--headers-only", help="Do not read voxels: seconds.")] = False,
    workers: Annotated[int, typer.Option(help="Files that are read at the same time.")] = 1,
    json_lines: Json = False,
    quiet: Quiet = False,
) -> None:
    """List all that is wrong with a datalist; exit code 2 if there is an error."""
    with listening(json_lines, quiet) as sink, Stop() as stop:
        from scorefusion.datasets.datalist import find_datalist
        from scorefusion.datasets.inspect import inspect
        from scorefusion.progress import Reporter

        problems = inspect(
            find_datalist(datalist, strict=False),
            _contrasts(contrasts),
            super_resolution,
            min_size,
            voxels=not headers_only,
            workers=workers,
            reporter=Reporter(sink, stop.requested),
        )
        errors = sum(problem.kind == "error" for problem in problems)
        if not json_lines:
            _show_problems(problems)
            typer.echo(_verdict(errors, len(problems) - errors))
        found = [{"kind": p.kind, "where": p.where, "message": p.message} for p in problems]
        sink({"event": "result", "errors": errors, "warnings": len(problems) - errors, "problems": found})
        if errors:
            raise typer.Exit(EXIT_USER_ERROR)


# -- what the terminal shows -------------------------------------------------------------------------------------------


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)  # a log has no edge to wrap at


def _show_cases(datalist: Datalist, title: str) -> None:
    """How many people, visits and volumes of each contrast there are in each split."""
    from rich.table import Table

    from scorefusion.datasets.case import CONTRASTS
    from scorefusion.datasets.datalist import SECTIONS

    splits = {split: datalist.cases(split) for split in SECTIONS if datalist.cases(split)}
    present = [key for key in CONTRASTS if any(key in case.contrasts for cases in splits.values() for case in cases)]
    table = Table(title=title, title_justify="left")
    for column in ("", "people", "visits", *present):
        table.add_column(column, justify="right" if column else "left")
    for split, cases in splits.items():
        numbers = [len({case.subject for case in cases}), len(cases)]
        numbers += [sum(key in case.contrasts for case in cases) for key in present]
        table.add_row(split, *(str(number) for number in numbers))
    _console().print(table)


def _show_reports(reports: Sequence[RegistrationReport]) -> None:
    from rich.table import Table

    table = Table("case", "contrast", "outcome", "moved (mm)", "turned (degrees)", "mutual information")
    for report in reports:
        for row in report.contrasts:
            if row.after is None:
                continue
            change = f"{row.before.nmi:.4f} -> {row.after.nmi:.4f}" if row.before else f"{row.after.nmi:.4f}"
            distance = sum(value**2 for value in row.motion.translation_mm) ** 0.5
            motion = (f"{distance:.2f}", f"{row.motion.rotation_degrees:.2f}")
            table.add_row(report.case.case_id, row.contrast, row.outcome, *motion, change)
    _console().print(table)


def _show_problems(problems: Sequence[Problem]) -> None:
    console = _console()
    for problem in problems:
        # As it is: brackets in paths are no markup, and a wrapped path cannot be copied.
        style = "red" if problem.kind == "error" else "yellow"
        text = f"{problem.kind.capitalize()}: {problem.where}: {problem.message}"
        console.print(text, style=style, markup=False, soft_wrap=True)


def _verdict(errors: int, warnings: int) -> str:
    if not (errors or warnings):
        return "Nothing is wrong."
    plural = {1: ""}
    return f"{errors} error{plural.get(errors, 's')}, {warnings} warning{plural.get(warnings, 's')}."


def _counts(datalist: Datalist) -> dict[str, dict[str, int]]:
    from scorefusion.datasets.datalist import SECTIONS

    splits = {split: datalist.cases(split) for split in SECTIONS}
    return {
        "people": {split: len({case.subject for case in cases}) for split, cases in splits.items()},
        "cases": {split: len(cases) for split, cases in splits.items()},
    }


def _shares(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        msg = f"--fractions is {text!r}; give three numbers with commas, such as 0.8,0.1,0.1"
        raise RequestError(msg) from error


def _contrasts(text: str) -> list[str]:
    from scorefusion.datasets.case import CONTRASTS, nearest

    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in CONTRASTS:
            msg = f"unknown contrast {name!r}{nearest(name, CONTRASTS)}; known are {', '.join(CONTRASTS)}"
            raise RequestError(msg)
    return names


if __name__ == "__main__":
    app()
