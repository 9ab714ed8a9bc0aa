"""`scorefusion evaluate`: every method on every scan in one run, as tables, one page and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scorefusion.cli.console import listening
from scorefusion.cli.stop import Stop
from scorefusion.errors import RequestError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

EPILOG = """
**Examples**

The project's test suite, all baselines and one model, at 4x isotropic and 5 mm slices:

    scorefusion evaluate --suite test --model brain-sr --setting iso4 --setting thick5 --out results

Your own scans (JSON: {"test": [{"subject": "S01", "target": "S01_T1w.nii.gz"}]}), main rules only:

    scorefusion evaluate scans.json --model brain-sr --methods classical,average+proj,fusion+proj --out results

Guides beside the scan have a suite of their own: scorefusion evaluate guided --help

A translation model beside a U-Net, on people that have both contrasts on one grid
(JSON: {"training": [...], "test": [{"subject": "S01", "contrasts": {"t1": "S01_T1w.nii.gz", "flair": "..."}}]}):

    scorefusion evaluate scans.json --model my-t1-to-flair --model my-unet --out results

Leave one person out: each is translated by the model that has not seen this person:

    scorefusion evaluate --suite translation-loso --fold-model openms_07=fold-openms_07 --fold-model ... --out results
"""


def _option(name: str, about: str, *short: str) -> Any:
    return typer.Option(name, *short, help=about)


Models = Annotated[list[str] | None, _option("--model", "Name or folder of a model; several are compared.")]
Split = Annotated[str, _option("--split", "Which part of the datalist: train, val or test.")]
Subjects = Annotated[str, _option("--subjects", "Comma-separated: score these only.")]
Seed = Annotated[int, _option("--seed", "Of the sampling noise.")]
Device = Annotated[str, _option("--device", "auto, cpu, cuda, cuda:0 (any number) or mps.")]
Precision = Annotated[str, _option("--precision", "auto, float32, bfloat16 or float16.")]
Crop = Annotated[str, _option("--crop", "foreground, brain (its surroundings), or voxels a side in its middle: 64.")]
JsonLines = Annotated[bool, _option("--json", "Report events as JSON lines on standard output.")]
Quiet = Annotated[bool, _option("--quiet", "No progress bar.", "-q")]
_Datalist = Annotated[Path | None, typer.Argument(metavar="[DATALIST]", help="JSON list of sharp scans.")]
_SUITE = "A named suite of the project's test data: test or val; for translation models translation-test, "
_SUITE += "translation-val, translation-loso or jif-test; these take their volumes from DATALIST if one is given."
_FOLDS = "SUBJECT=MODEL: a translation model that has not seen this person."
_SETTING = "How scans are made coarse (not for translation): iso4, thick5, thick5@A, thick5g, inplane4, ... "
_SETTING += "Default: iso4 and thick5."
_METHODS = "Comma-separated: classical, model, nearest, cubic+ibp, fusion+proj, ...; for translation source, "
_METHODS += "linear, histogram, fusion, ... Default: all."
_PLANS = "Comma-separated presets, numbers of steps, uncertainty. Default: presets and 1."


@app.command(epilog=EPILOG)
def evaluate(
    datalist: _Datalist = None,
    suite: Annotated[str | None, _option("--suite", _SUITE)] = None,
    split: Split = "test",
    models: Models = None,
    fold_models: Annotated[list[str] | None, _option("--fold-model", _FOLDS)] = None,
    settings: Annotated[list[str] | None, _option("--setting", _SETTING)] = None,
    methods: Annotated[str, _option("--methods", _METHODS)] = "",
    plans: Annotated[str, _option("--plans", _PLANS)] = "",
    subjects: Subjects = "",
    out: Annotated[Path, _option("--out", "Folder for tables and pictures.", "-o")] = Path("evaluation"),
    crop: Crop = "foreground",
    pictures: Annotated[bool, typer.Option(help="Draw a PNG for each scan and setting.")] = True,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    json_lines: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Restore simulated coarse scans, or translate contrasts, by every method, and score against the truth."""
    with listening(json_lines, quiet) as sink, Stop() as stop:
        from scorefusion.evaluation import benchmark as restoration
        from scorefusion.evaluation.models import Settings
        from scorefusion.evaluation.report import print_report
        from scorefusion.evaluation.suites import find_pair_suite, find_suite
        from scorefusion.evaluation.tables import terminal
        from scorefusion.evaluation.translation import command
        from scorefusion.progress import Reporter

        names, folds, persons = models or [], fold_models or [], split_words(subjects)
        how = Settings(split_words(plans) or None, seed, device, precision)
        reporter = Reporter(sink, stop.requested)
        common: dict[str, Any] = {"methods": split_words(methods), "pictures": pictures, "reporter": reporter}
        if command.asks_for_translation(names, folds, suite):
            for name, given in (("--setting", settings), ("--crop", crop != "foreground")):
                if given:
                    msg = f"{name} is for super-resolution models: translation is given the sharp scans; leave it out"
                    raise RequestError(msg)
            pairs = find_pair_suite(datalist, suite, split, persons, leave_one_out=bool(folds))
            found, paths = command.evaluate_translation(pairs, names, folds, out, how, **common)
        else:
            chosen, wanted = find_suite(datalist, suite, split, persons), settings or ["iso4", "thick5"]
            found, paths = restoration.evaluate(chosen, wanted, names, out, how, crop=crop, **common)
        if not (json_lines or quiet):
            tables, sentences = terminal(found)
            print_report(found.caption, tables, [*sentences, *(f"Written: {path}" for path in paths)])
        sink({"event": "result", "output": paths[0], "files": paths})


def split_words(text: str) -> list[str]:
    """The parts of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    app()
