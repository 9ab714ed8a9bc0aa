"""`scorefusion downstream`: train a small tissue segmenter, and measure what a model does to a segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scorefusion.cli.console import listening
from scorefusion.cli.stop import Stop
from scorefusion.errors import RequestError

if TYPE_CHECKING:
    from scorefusion.datasets.datalist import Datalist
    from scorefusion.evaluation.benchmark import Method
    from scorefusion.evaluation.downstream.score import Downstream
    from scorefusion.evaluation.suites import Suite
    from scorefusion.progress import Reporter

app = typer.Typer(
    help="What a model does to a segmentation: Dice on the truth, on the coarse scan, on each restoration.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

#: Rules of a model that have no row unless `--methods` asks for them: steps on the way, not what a user would run.
_LEFT_OUT = ("plane", "plane+proj", "alternating+proj")

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 (any number) or mps.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Report events as JSON lines on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]

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
    datalist: Annotated[
        Path | None, typer.Argument(metavar="[DATALIST]", help="JSON with tissue maps. Default: the test data.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the segmenter, a MONAI bundle.")] = Path(
        "segmenter"
    ),
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
        from scorefusion.evaluation.downstream.trainer import TrainingOptions
        from scorefusion.evaluation.downstream.training import train_segmenter
        from scorefusion.progress import Reporter

        options = TrainingOptions(
            minutes=minutes,
            classes=tuple(_split(classes)),
            contrast=contrast,
            window=window,
            seed=seed,
            device=device,
            precision=precision,
        )
        trained = train_segmenter(_find_datalist(datalist), out, options, Reporter(sink, stop.requested))
        if not (json_lines or quiet):
            for subject, scores in trained.validation.items():
                words = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
                typer.echo(f"Dice on {subject} (validation): {words}")
            typer.echo(f"Written: {trained.folder} ({trained.steps} steps, {trained.seconds:.0f} s)")
        sink({"event": "result", "output": trained.folder, "validation": trained.validation})


@app.command(epilog=SCORE_EPILOG)
def score(
    datalist: Annotated[Path | None, typer.Argument(metavar="[DATALIST]", help="JSON list of sharp scans.")] = None,
    suite: Annotated[str | None, typer.Option(help="A named suite of the project's test data: test or val.")] = None,
    split: Annotated[str, typer.Option(help="Which part of the datalist: train, val or test.")] = "test",
    segmenter: Annotated[
        Path, typer.Option(help="Folder that `downstream train` wrote, or any MONAI bundle that segments one volume.")
    ] = Path("segmenter"),
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Name or folder of a model; several are compared.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--setting", help="iso4, thick5, ... as in evaluate. Default: iso4 and thick5.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Comma-separated keys as in evaluate. Default: classical, average, fusion, regression.")
    ] = "",
    plans: Annotated[str, typer.Option(help="Comma-separated presets or numbers of steps.")] = "fast",
    subjects: Annotated[str, typer.Option(help="Comma-separated: score these only.")] = "",
    without_maps: Annotated[
        bool, typer.Option("--without-maps", help="Also score cases without a tissue map, against the truth's result.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tables.")] = Path("downstream"),
    crop: Annotated[str, typer.Option(help="Keep the foreground, or only the brain's surroundings: brain.")] = (
        "foreground"
    ),
    seed: Annotated[int, typer.Option(help="Of the sampling noise.")] = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    json_lines: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Segment the truth, the coarse scan and its restorations; Dice, and the share of the gap that is closed."""
    with listening(json_lines, quiet) as sink, Stop() as stop:
        _check_libraries()
        from scorefusion.evaluation.cli import find_suite
        from scorefusion.progress import Reporter

        result, paths = run(
            find_suite(datalist, suite, split, _split(subjects)),
            settings or ["iso4", "thick5"],
            models or [],
            segmenter,
            out,
            methods=_split(methods),
            plans=_split(plans) or None,
            crop=crop,
            maps_only=not without_maps,
            seed=seed,
            device=device,
            precision=precision,
            reporter=Reporter(sink, stop.requested),
        )
        if not (json_lines or quiet):
            _show(result)
            for path in paths:
                typer.echo(f"Written: {path}")
        sink({"event": "result", "output": paths[0], "files": paths})


def run(
    suite: Suite,
    settings: Sequence[str],
    models: Sequence[str],
    segmenter: Path,
    out: Path,
    *,
    methods: Sequence[str] = (),
    plans: Sequence[str] | None = None,
    crop: str = "foreground",
    maps_only: bool = True,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> tuple[Downstream, list[Path]]:
    """`score` without its terminal. Returns the rows and the files written."""
    from scorefusion.bundle.store import find_bundle
    from scorefusion.evaluation.benchmark import MARGINS, classical_methods
    from scorefusion.evaluation.downstream.monai_bundle import load_segmenter
    from scorefusion.evaluation.downstream.report import write_report
    from scorefusion.evaluation.downstream.score import run_downstream
    from scorefusion.evaluation.learned import learned_methods
    from scorefusion.evaluation.simulate import Setting

    if crop not in MARGINS:
        msg = f"--crop is {crop!r}; choose one of {', '.join(MARGINS)}"
        raise RequestError(msg)
    parsed = [Setting.parse(name) for name in settings]
    bundles = [find_bundle(name) for name in models]
    chosen = load_segmenter(segmenter, device=device, precision=precision)
    rows: list[Method] = classical_methods()
    for bundle in bundles:
        prefix = f"{bundle.id}:" if len(bundles) > 1 else ""
        rows += learned_methods(bundle, plans=plans, seed=seed, device=device, precision=precision, prefix=prefix)
    names = ", ".join(f"{b.id} {b.version} (SHA-256 {b.hash[:12]})" for b in bundles) or "none"
    result = run_downstream(
        suite,
        parsed,
        _choose(rows, methods),
        chosen,
        caption={"model": names, "seed": f"{seed}, precision {precision}"},
        reporter=reporter,
        crop=crop,
        maps_only=maps_only,
    )
    return result, list(write_report(result, out).values())


def _choose(rows: Sequence[Method], wanted: Sequence[str]) -> list[Method]:
    """What was asked for, and the classical methods, which the gap and the best of them come from."""
    from scorefusion.evaluation.learned import Learned, choose_methods

    asked = choose_methods(rows, wanted)
    if not wanted:
        asked = [row for row in asked if not (isinstance(row, Learned) and row.row.key in _LEFT_OUT)]
    return [row for row in rows if row.family == "classical" or row in asked]


def _show(result: Downstream) -> None:
    from scorefusion.evaluation.document import markdown
    from scorefusion.evaluation.downstream.report import document, sentences

    typer.echo(markdown(document(result)))
    for line in sentences(result):
        typer.echo(line)


def _find_datalist(path: Path | None) -> Datalist:
    """The user's, or the project's test data without the maps of another program."""
    from dataclasses import replace

    from scorefusion.datasets.datalist import project_datalist, read_datalist
    from scorefusion.evaluation.downstream.training import OTHER_VOCABULARY

    if path is not None:
        return read_datalist(path, splits=("train", "val"))
    found = project_datalist()
    return replace(found, training=tuple(case for case in found.training if case.subject not in OTHER_VOCABULARY))


def _check_libraries() -> None:
    if find_spec("monai") is None:
        msg = "'scorefusion downstream' needs MONAI. Get it: pip install 'scorefusion[train]'"
        raise RequestError(msg)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    app()
