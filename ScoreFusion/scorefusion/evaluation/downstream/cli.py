"""`scorefusion downstream`: train a small tissue segmenter, and measure what a model does to a segmentation."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from scorefusion.cli.console import listening
from scorefusion.cli.stop import Stop
from scorefusion.datasets.datalist import Datalist, project_datalist, read_datalist
from scorefusion.errors import RequestError
from scorefusion.evaluation.cli import Device, JsonLines, Models, Precision, Quiet, Seed, Split, Subjects, split_words

HELP = "What a model does to a segmentation: Dice on the truth, on the coarse scan, on each restoration."
app = typer.Typer(
    help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)

#: Rules of a model that have no row unless `--methods` asks for them: steps on the way, not what a user would run.
_LEFT_OUT = ("plane", "plane+proj", "alternating+proj")
#: Cases of the project's data that nothing is learnt from: eve's map came from another program than all others.
_OTHER_VOCABULARY = ("eve",)

TRAIN_EPILOG = """
**Examples**

Six minutes on the tissue maps of the project's training subjects; again with more minutes goes on:

    scorefusion downstream train --out segmenter --minutes 6

Your own scans (JSON: {"training": [{"subject": "S01", "contrasts": {"t1": "..."}, "masks": {"tissue": "..."}}]}):

    scorefusion downstream train scans.json --classes CSF,GM,WM --out segmenter
"""

SCORE_EPILOG = """
**Examples**

    scorefusion downstream score --suite test --model brain-sr --segmenter segmenter --out results

A U-Net regression beside it, and a MONAI bundle of your own as the segmenter:

    scorefusion downstream score scans.json --model brain-sr --model my-regression --segmenter my-monai-bundle
"""


@app.command(epilog=TRAIN_EPILOG)
def train(
    datalist: Annotated[Path | None, typer.Argument(help="JSON with tissue maps. Default: the test data.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the MONAI bundle.")] = Path("segmenter"),
    minutes: Annotated[float, typer.Option(help="Of training, over all runs into this folder.")] = 6.0,
    classes: Annotated[str, typer.Option(help="Names of labels 1, 2, ... in the maps.")] = "CSF,GM,WM",
    contrast: Annotated[str, typer.Option(help="Of the volumes: t1, t2, flair, ...")] = "t1",
    window: Annotated[int, typer.Option(help="Voxels a side of a training window.")] = 64,
    seed: Annotated[int, typer.Option(help="Of weights, windows and augmentation.")] = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    json_lines: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Train a small 3D U-Net on tissue maps; it resumes where it stopped."""
    with listening(json_lines, quiet) as sink, Stop() as stop:
        _check_libraries()
        from scorefusion.evaluation.downstream.train import TrainingOptions, train_segmenter
        from scorefusion.progress import Reporter

        names = tuple(split_words(classes))
        options = TrainingOptions(minutes, None, names, contrast, window, seed=seed, device=device, precision=precision)
        trained = train_segmenter(training_data(datalist), out, options, Reporter(sink, stop.requested))
        if not (json_lines or quiet):
            for subject, scores in trained.validation.items():
                words = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
                typer.echo(f"Dice on {subject} (validation): {words}")
            typer.echo(f"Written: {out} ({trained.step} steps, {trained.seconds:.0f} s)")
        sink({"event": "result", "output": out, "validation": trained.validation})


@app.command(epilog=SCORE_EPILOG)
def score(
    datalist: Annotated[Path | None, typer.Argument(help="JSON list of sharp scans.")] = None,
    suite: Annotated[str | None, typer.Option(help="A named suite of the project's test data: test or val.")] = None,
    split: Split = "test",
    segmenter: Annotated[Path, typer.Option(help="What `train` wrote, or any MONAI bundle.")] = Path("segmenter"),
    models: Models = None,
    settings: Annotated[
        list[str] | None, typer.Option("--setting", help="As in evaluate. Default: iso4 and thick5.")
    ] = None,
    methods: Annotated[str, typer.Option(help="As in evaluate. Default: average, fusion, regression.")] = "",
    plans: Annotated[str, typer.Option(help="Comma-separated presets or numbers of steps.")] = "fast",
    subjects: Subjects = "",
    without_maps: Annotated[
        bool, typer.Option("--without-maps", help="Score cases without a tissue map, too.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tables.")] = Path("downstream"),
    crop: Annotated[str, typer.Option(help="foreground, or brain: only its surroundings.")] = "foreground",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    json_lines: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Segment the truth, the coarse scan and its restorations; Dice, and the share of the gap that is closed."""
    with listening(json_lines, quiet) as sink, Stop() as stop:
        _check_libraries()
        from scorefusion.bundle.store import find_bundle
        from scorefusion.evaluation.benchmark import classical_methods, learned_methods
        from scorefusion.evaluation.downstream.score import document, run_downstream, write_downstream
        from scorefusion.evaluation.downstream.segmenter import load_segmenter
        from scorefusion.evaluation.models import Settings, named
        from scorefusion.evaluation.report import markdown
        from scorefusion.evaluation.rows import choose
        from scorefusion.evaluation.simulate import Setting
        from scorefusion.evaluation.suites import find_suite
        from scorefusion.progress import Reporter

        chosen = find_suite(datalist, suite, split, split_words(subjects))
        parsed = [Setting.parse(name) for name in settings or ["iso4", "thick5"]]
        how, reporter = Settings(split_words(plans) or None, seed, device, precision), Reporter(sink, stop.requested)
        network = load_segmenter(segmenter, device=device, precision=precision)
        rows = [*classical_methods(), *learned_methods(models or [], how, reporter)]
        asked = choose(rows, split_words(methods))
        if not methods:
            asked = [row for row in asked if row.rule not in _LEFT_OUT]
        # The gap and the best of the classical methods need these in any case.
        kept = [row for row in rows if row.family == "classical" or row in asked]
        caption = {"model": named([find_bundle(name) for name in models or []]), "seed": how.words}
        result = run_downstream(
            chosen, parsed, kept, network, caption=caption, reporter=reporter, crop=crop, maps_only=not without_maps
        )
        paths = write_downstream(result, out)
        if not (json_lines or quiet):
            typer.echo("\n".join([markdown(document(result)), *(f"Written: {path}" for path in paths)]))
        sink({"event": "result", "output": paths[0], "files": paths})


def training_data(path: Path | None) -> Datalist:
    """The user's datalist, or the project's test data without the maps of another program."""
    if path is not None:
        return read_datalist(path, splits=("train", "val"))
    found = project_datalist()
    return replace(found, training=tuple(case for case in found.training if case.subject not in _OTHER_VOCABULARY))


def _check_libraries() -> None:
    if find_spec("monai") is None:
        msg = "'scorefusion downstream' needs MONAI. Get it: pip install 'scorefusion[train]'"
        raise RequestError(msg)


if __name__ == "__main__":
    app()
