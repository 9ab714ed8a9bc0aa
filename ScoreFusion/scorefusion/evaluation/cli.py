"""`scorefusion evaluate`: every method on every scan in one run, as tables, one page and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scorefusion.cli.console import listening
from scorefusion.cli.stop import Stop
from scorefusion.errors import RequestError

if TYPE_CHECKING:
    from scorefusion.bundle.folder import Bundle
    from scorefusion.evaluation.benchmark import Benchmark, Method
    from scorefusion.evaluation.suites import Suite
    from scorefusion.evaluation.translation.run import TranslationBenchmark

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

EPILOG = """
**Examples**

The project's test suite, all baselines and one model, at 4x isotropic and 5 mm slices:

    scorefusion evaluate --suite test --model brain-sr --setting iso4 --setting thick5 --out results

Your own scans (JSON: {"test": [{"subject": "S01", "target": "S01_T1w.nii.gz"}]}), main rules only:

    scorefusion evaluate scans.json --model brain-sr --methods classical,average+proj,fusion+proj --out results

A translation model beside a U-Net, on people that have both contrasts on one grid
(JSON: {"training": [...], "test": [{"subject": "S01", "contrasts": {"t1": "S01_T1w.nii.gz", "flair": "..."}}]}):

    scorefusion evaluate scans.json --model my-t1-to-flair --model my-unet --out results

Leave one person out: each is translated by the model that has not seen this person:

    scorefusion evaluate --suite translation-loso --fold-model openms_07=fold-openms_07 --fold-model ... --out results
"""


@app.command(epilog=EPILOG)
def evaluate(
    datalist: Annotated[Path | None, typer.Argument(metavar="[DATALIST]", help="JSON list of sharp scans.")] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="A named suite of the project's test data: test or val; for translation models translation-test, "
            "translation-val, translation-loso or jif-test; these take their volumes from DATALIST if one is given."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of the datalist: train, val or test.")] = "test",
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Name or folder of a model; several are compared.")
    ] = None,
    fold_models: Annotated[
        list[str] | None,
        typer.Option("--fold-model", help="SUBJECT=MODEL: a translation model that has not seen this person."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--setting",
            help="How scans are made coarse (not for translation): iso4, thick5, thick5@A, thick5g, inplane4, ... "
            "Default: iso4 and thick5.",
        ),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated: classical, model, nearest, cubic+ibp, fusion+proj, ...; for translation source, "
            "linear, histogram, fusion, ... Default: all."
        ),
    ] = "",
    plans: Annotated[
        str, typer.Option(help="Comma-separated presets, numbers of steps, uncertainty. Default: presets and 1.")
    ] = "",
    subjects: Annotated[str, typer.Option(help="Comma-separated: score these only.")] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and pictures.")] = Path("evaluation"),
    crop: Annotated[str, typer.Option(help="Score the foreground, or only the brain's surroundings: brain.")] = (
        "foreground"
    ),
    pictures: Annotated[bool, typer.Option(help="Draw a PNG for each scan and setting.")] = True,
    seed: Annotated[int, typer.Option(help="Of the sampling noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 (any number) or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    json_lines: Annotated[bool, typer.Option("--json", help="Report events as JSON lines on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Restore simulated coarse scans, or translate contrasts, by every method, and score against the truth."""
    with listening(json_lines, quiet) as sink, Stop() as stop:
        from scorefusion.progress import Reporter

        reporter = Reporter(sink, stop.requested)
        common: dict[str, Any] = {
            "methods": _split(methods),
            "plans": _split(plans) or None,
            "pictures": pictures,
            "seed": seed,
            "device": device,
            "precision": precision,
            "reporter": reporter,
        }
        names, folds, persons = models or [], fold_models or [], _split(subjects)
        if _is_translation(names, folds, suite, settings, crop):
            from scorefusion.evaluation.translation.command import evaluate_translation, find_pair_suite

            pairs = find_pair_suite(datalist, suite, split, persons, leave_one_out=bool(folds))
            translations, paths = evaluate_translation(pairs, names, folds, out, **common)
            printed = partial(show_translation, translations)
        else:
            chosen = find_suite(datalist, suite, split, persons)
            out.mkdir(parents=True, exist_ok=True)
            benchmark, paths = run(chosen, settings or ["iso4", "thick5"], names, out, crop=crop, **common)
            printed = partial(show, benchmark)
        if not (json_lines or quiet):
            printed()
            for path in paths:
                typer.echo(f"Written: {path}")
        sink({"event": "result", "output": paths[0], "files": paths})


def run(
    suite: Suite,
    settings: Sequence[str],
    models: Sequence[str],
    out: Path,
    *,
    methods: Sequence[str] = (),
    plans: Sequence[str] | None = None,
    crop: str = "foreground",
    pictures: bool = True,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    reporter: object = None,
) -> tuple[Benchmark, list[Path]]:
    """The command without its terminal: everything that `evaluate` does. Returns the rows and the files written."""
    from scorefusion.bundle.store import find_bundle
    from scorefusion.evaluation.benchmark import MARGINS, classical_methods, run_benchmark
    from scorefusion.evaluation.gallery import Gallery
    from scorefusion.evaluation.learned import choose_methods, learned_methods
    from scorefusion.evaluation.report import write_report
    from scorefusion.evaluation.simulate import Setting

    if crop not in MARGINS:
        msg = f"--crop is {crop!r}; choose one of {', '.join(MARGINS)}"
        raise RequestError(msg)
    parsed = [Setting.parse(name) for name in settings]
    bundles = [find_bundle(name) for name in models]
    rows: list[Method] = classical_methods()
    for bundle in bundles:
        prefix = f"{bundle.id}:" if len(bundles) > 1 else ""
        rows += learned_methods(bundle, plans=plans, seed=seed, device=device, precision=precision, prefix=prefix)
    rows = choose_methods(rows, methods)
    gallery = Gallery(out, rows) if pictures else None
    benchmark = run_benchmark(
        suite,
        parsed,
        rows,
        caption=_caption(bundles, seed, precision),
        reporter=reporter,  # type: ignore[arg-type]
        keep=gallery,
        kept=gallery.wanted if gallery else (),
        crop=crop,
    )
    drawn = gallery.written if gallery else []
    return benchmark, [*write_report(benchmark, out, pictures=drawn).values(), *drawn]


def show(benchmark: Benchmark) -> None:
    """Print the brain tables and the gains."""
    from rich.console import Console

    from scorefusion.evaluation.benchmark import gains
    from scorefusion.evaluation.report import terminal_table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)  # a log has no edge to wrap at
    for key, value in benchmark.caption.items():
        console.print(f"{key}: {value}", style="dim", markup=False, soft_wrap=True)
    for setting in benchmark.settings:
        console.print(terminal_table(benchmark, setting.name))
    for gain in gains(benchmark):
        line = f"{gain.setting}: {gain.label}: {gain.mean:+.2f} dB over the best classical method of each volume"
        console.print(f"{line} (mean, brain)", markup=False, soft_wrap=True)


def show_translation(benchmark: TranslationBenchmark) -> None:
    """Print the first table, the gains and what became of the lesions."""
    from rich.console import Console

    from scorefusion.evaluation.lesion_table import statements
    from scorefusion.evaluation.translation.report import gain_lines, translation_terminal_table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    for key, value in benchmark.caption.items():
        console.print(f"{key}: {value}", style="dim", markup=False, soft_wrap=True)
    console.print(translation_terminal_table(benchmark))
    for line in (*gain_lines(benchmark), *statements(benchmark.rows)):
        console.print(line, markup=False, soft_wrap=True)


def _is_translation(
    models: Sequence[str], folds: Sequence[str], suite: str | None, settings: Sequence[str] | None, crop: str
) -> bool:
    """Whether translation models are meant; refuses options that have no meaning for them."""
    from scorefusion.evaluation.translation.command import asks_for_translation

    if not asks_for_translation(models, folds, suite):
        return False
    idle = [name for name, given in (("--setting", settings), ("--crop", crop != "foreground")) if given]
    if idle:
        msg = f"{idle[0]} is for super-resolution models: a translation model is given the sharp scans; leave it out"
        raise RequestError(msg)
    return True


def _caption(bundles: Sequence[Bundle], seed: int, precision: str) -> dict[str, str]:
    names = ", ".join(f"{b.id} {b.version} (SHA-256 {b.hash[:12]})" for b in bundles) or "none"
    return {"model": names, "seed": f"{seed}, precision {precision}"}


def find_suite(datalist: Path | None, name: str | None, split: str, subjects: Sequence[str]) -> Suite:
    """What `evaluate` and `downstream` score: a datalist or a named suite, all of it or some subjects."""
    from dataclasses import replace

    from scorefusion.datasets.datalist import read_datalist
    from scorefusion.evaluation.suites import named_suite, suite_of

    if (datalist is None) == (name is None):
        msg = "give either a datalist file or --suite test (or val), not both and not neither"
        raise RequestError(msg)
    if datalist is not None:
        suite = suite_of(read_datalist(datalist, [split]), split)
    else:
        suite = named_suite(name or "")
    if not subjects:
        return suite
    unknown = sorted(set(subjects) - {case.subject for case in suite.cases})
    if unknown:
        known = ", ".join(case.subject for case in suite.cases)
        msg = f"{suite.name} has no subject {', '.join(unknown)}; it has {known}"
        raise RequestError(msg)
    return replace(suite, cases=tuple(case for case in suite.cases if case.subject in subjects))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    app()
