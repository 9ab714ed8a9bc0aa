"""`scorefusion train`: a recipe in, a model out; stops and goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from scorefusion.cli.console import listening
from scorefusion.cli.stop import Stop
from scorefusion.errors import RequestError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

#: A stop waits this long for the step in hand and its checkpoint.
GRACE_SECONDS = 120.0
STOPPED = "The run was stopped. What was learned is kept; the same command goes on from there."

EPILOG = """
**Examples**

Is the recipe complete, is the data in order, how much memory and time will it take? Nothing is trained:

    scorefusion train my-recipe.yaml --check

Train; the same command goes on after a stop, from at most five minutes before it:

    scorefusion train my-recipe.yaml --out runs/mine

A shipped recipe on one's own scans, from the shipped weights, for an hour:

    scorefusion train brain-sr --set data.datalist=scans.json --set stages.planes.minutes=60 --warm-start brain-sr

Four GPUs:

    scorefusion train paper-brats-sr --set data.datalist=brats.json --devices 4 --out runs/paper
"""


@app.command(epilog=EPILOG)
def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="YAML file, or a shipped recipe's name.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run. Default: runs/<recipe>.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only look: recipe, data, memory, hours.")] = False,
    stages: Annotated[str, typer.Option("--stages", help="Comma-separated: only these.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value: stages.planes.minutes=5. Repeatable.")
    ] = None,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(
            help="Start from this model's weights (name or folder). Several times: one model for each condition of a "
            "recipe with networks.per_condition."
        ),
    ] = None,
    pack: Annotated[
        Path | None,
        typer.Option(
            help="Train nothing: write the recipe's data into this one .safetensors file, for a machine without the "
            "scans (there: --set data.datalist=FILE)."
        ),
    ] = None,
    pack_edge: Annotated[
        int | None, typer.Option(min=8, max=4096, help="Keep so many voxels an axis of each packed volume.")
    ] = None,
    leave_out: Annotated[str, typer.Option(help="Comma-separated persons that are not read.")] = "",
    devices: Annotated[str, typer.Option(help="How many GPUs or processes; auto = all GPUs.")] = "1",
    nodes: Annotated[int, typer.Option(min=1, max=100_000, help="How many machines.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    strategy: Annotated[str, typer.Option(help="auto or ddp.")] = "auto",
    list_recipes: Annotated[bool, typer.Option("--list", help="Print the shipped recipes.")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Report events as JSON lines on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train a model on your own data."""
    with listening(json_lines, quiet) as sink, Stop(grace_seconds=GRACE_SECONDS, message=STOPPED) as stop:
        from scorefusion.progress import Reporter
        from scorefusion.training.recipe import known_recipes, read_recipe

        if list_recipes:
            for name in known_recipes():
                typer.echo(f"{name}: {read_recipe(name).output.description}")
            return
        if recipe is None:
            msg = f"give a recipe: a YAML file, or one of {', '.join(known_recipes())}"
            raise RequestError(msg)
        changes = list(settings or [])
        if warm_start:
            changes.append(f"warm_start={json.dumps(warm_start if len(warm_start) > 1 else warm_start[0])}")
        if leave_out:
            changes.append(f"data.leave_out=[{leave_out}]")
        chosen = read_recipe(recipe, changes)
        near = Path(recipe).resolve().parent if Path(recipe).is_file() else None
        reporter = Reporter(sink, stop.requested)
        if check:
            from scorefusion.training.check import check_recipe

            report = check_recipe(chosen, near)
            typer.echo(report.text() if not json_lines else "", nl=not json_lines)
            sink({"event": "result", "check": report.as_dict()})
            report.raise_if_wrong()
            return
        if strategy not in ("auto", "ddp"):
            msg = (
                f"--strategy is {strategy!r}; choose auto or ddp. Weights and optimiser of the largest recipe take "
                "about 4 GiB, so every process can hold them whole"
            )
            raise RequestError(msg)
        wanted = [name.strip() for name in stages.split(",") if name.strip()]
        unknown = sorted(set(wanted) - set(chosen.stages))
        if unknown:
            msg = f"--stages: recipe {chosen.name} has no stage {', '.join(unknown)}; it has {', '.join(chosen.stages)}"
            raise RequestError(msg)
        from scorefusion.training.run import Run, make_fabric

        fabric = make_fabric(accelerator, devices, nodes, strategy)
        if pack is not None:
            size = Run(chosen, pack.parent, fabric, reporter, near).pack(pack, pack_edge)
            typer.echo(f"Packed: {pack} ({size / 1e6:.1f} MB)")
            return
        folder = out or Path("runs") / chosen.name

        def work(fabric_: object) -> None:
            bundle = Run(chosen, folder, fabric, reporter, near).run(wanted)
            if bundle is not None:
                sink({"event": "result", "output": bundle.folder, "files": [bundle.folder]})
                if not (json_lines or quiet):
                    typer.echo(f"Model: {bundle.folder}")

        fabric.launch(work)


if __name__ == "__main__":
    app()
