"""`make demo`: a real head is scanned coarsely, restored by the shipped model, and compared with what was lost.

    python -m scorefusion.evaluation.demo --output demo-output

Everything goes through the same doors as a user's scan: the coarse scan is a file, and `translate` restores it.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.store import find_bundle
from scorefusion.cli.console import listening
from scorefusion.cli.stop import Stop
from scorefusion.datasets.case import Case
from scorefusion.errors import RequestError
from scorefusion.evaluation.benchmark import Subject, classical_methods, run_benchmark
from scorefusion.evaluation.benchmark_report import Gallery, terminal, write_benchmark
from scorefusion.evaluation.models import named
from scorefusion.evaluation.regions import rough_brain_mask
from scorefusion.evaluation.report import print_report
from scorefusion.evaluation.rows import Benchmark, Made, Method, Row
from scorefusion.evaluation.sample_data import sample_head
from scorefusion.evaluation.simulate import Setting
from scorefusion.evaluation.suites import Suite, SuiteCase
from scorefusion.imaging.files import read_volume, write_volume
from scorefusion.imaging.foreground import foreground_box
from scorefusion.imaging.grid import Box
from scorefusion.pipeline import translate
from scorefusion.progress import Reporter
from scorefusion.run.devices import pick_device

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SUBJECT = "colin27"
MARGIN = 14  # voxels around the brain: enough head to see, little enough to be quick
QUICK_SHAPE = (80, 70, 90)  # voxels of the block that --quick restores

#: What is restored, by name; samples of two steps have enough spread for a map, and are quick.
PLANS: dict[str, dict[str, Any]] = {
    "fast": {"preset": "fast"},
    "uncertainty": {"preset": "fast", "steps": 2, "samples": 4, "uncertainty": True},
}


def run_demo(
    output: Path,
    *,
    model: str = "brain-sr",
    setting: str = "thick5",
    head: Path | None = None,
    quick: bool = False,
    device: str = "auto",
    seed: int = 0,
    reporter: Reporter | None = None,
) -> tuple[Benchmark, list[Path]]:
    """Everything the demo does. Returns the scores, and the files written.

    Args:
        output: folder for NIfTI files, PNG and tables; files of an earlier run are replaced.
        model: name or folder of a super-resolution bundle.
        setting: how the head is scanned coarsely.
        head: another whole head to use; None = the sample head, downloaded on first use.
        quick: restore a block from the middle of the brain only.
    """
    reporter, bundle, chosen = reporter or Reporter(), find_bundle(model), Setting.parse(setting)
    output.mkdir(parents=True, exist_ok=True)
    reporter.progress("getting a head", 0, 1)
    case = _prepare_head(head or sample_head(output / "sample"), output / "sample", chosen, quick)
    name = chosen.name.replace("@", "-")
    coarse = output / f"coarse_{name}.nii.gz"
    coarse.unlink(missing_ok=True)
    ours = []
    for plan, options in PLANS.items():
        told = ", ".join(str(v) if k == "preset" else f"{v} {k}" for k, v in options.items() if k != "uncertainty")
        make = partial(_restore, coarse, bundle, {**options, "seed": seed, "device": device}, reporter)
        label = f"{bundle.id} ({told})"
        ours.append(Method(f"fusion+proj@{plan}", label, "model", make, device=pick_device(device)))
    methods = [*classical_methods(), *ours]
    gallery = Gallery(output, methods)
    written: list[Path] = [coarse]

    def keep(subject: Subject, made: dict[str, Made], rows: list[Row]) -> None:
        volumes = {"truth": subject.truth}
        unsure = made["fusion+proj@uncertainty"].deviation
        kept = {"cubic": made["cubic"].data, "restored": made["fusion+proj@fast"].data, "uncertainty": unsure}
        volumes |= {
            what: subject.truth.with_data(data[None].numpy()) for what, data in kept.items() if data is not None
        }
        for what, volume in volumes.items():
            written.append(output / f"{what}_{name}.nii.gz")
            write_volume(volume, written[-1])
        gallery(subject, made, rows)

    benchmark = run_benchmark(
        Suite("sample head (Colin 27)" if head is None else head.name, "demo", (case,)),
        [chosen],
        methods,
        caption={"model": named([bundle]), "seed": str(seed)},
        reporter=reporter,
        keep=keep,
        kept=gallery.wanted,
    )
    return benchmark, [*written, *gallery.written, *write_benchmark(benchmark, output, "demo", gallery.written)]


def _restore(coarse: Path, bundle: Bundle, options: dict[str, Any], reporter: Reporter, subject: Subject) -> Made:
    """`translate` as a row: reads the coarse scan from its file, as a user would."""
    setting, grid = subject.scan.setting, subject.truth.grid
    if not coarse.exists():
        write_volume(subject.scan.volume, coarse)

    def cancelled() -> bool:
        reporter.check_cancelled()
        return False

    slices: dict[str, Any] = {"thickness": setting.amount, "axis": setting.axis} if setting.kind == "thick" else {}
    result = translate(coarse, bundle, spacing=grid.spacing, cancelled=cancelled, **slices, **options)
    if not result.volume.grid.is_close(grid, tolerance_mm=0.01):
        msg = f"the restored grid {result.volume.grid} is not the truth's {grid}; choose another --setting"
        raise RequestError(msg)
    unsure = None if result.uncertainty is None else torch.from_numpy(result.uncertainty.data[0])
    return Made(torch.from_numpy(result.volume.data[0]), unsure)


def _prepare_head(path: Path, sample: Path, setting: Setting, quick: bool) -> SuiteCase:
    """Cut the head down to the brain's surroundings, in sizes that hold whole slices, and keep its brain mask."""
    head, _ = read_volume(path).canonical()
    brain = rough_brain_mask(head.data[0], head.spacing)
    multiple = setting.block(head.grid)
    box = foreground_box(brain, MARGIN, multiple)
    start, stop = list(box.start), list(box.stop)
    if quick:  # from the middle of the brain outward through the right half of the skull
        middle = [int(np.median(values)) for values in np.nonzero(brain)]
        start = [middle[0], max(0, middle[1] - QUICK_SHAPE[1] // 2), middle[2]]
        stop = [min(a + size, n) for a, size, n in zip(start, QUICK_SHAPE, head.spatial_shape, strict=True)]
    stop = [a + (b - a) // multiple * multiple for a, b in zip(start, stop, strict=True)]
    box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    truth, mask = sample / "head.nii.gz", sample / "brain.nii.gz"
    sample.mkdir(exist_ok=True)
    write_volume(head.crop(box), truth)
    write_volume(head.with_data(brain[None].astype(np.float32)).crop(box), mask)
    subject = SUBJECT if path.name == "ch2.nii.gz" else path.name.partition(".")[0]
    return SuiteCase(Case(subject, {"t1": truth}, masks={"brain": mask}, skull_stripped=False), "t1")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "--out", "-o", help="Folder for the results.")] = Path(
        "demo-output"
    ),
    model: Annotated[str, typer.Option(help="Name or folder of the model.")] = "brain-sr",
    setting: Annotated[str, typer.Option(help="How the scan is made coarse: thick5, iso4, ...")] = "thick5",
    head: Annotated[Path | None, typer.Option(help="Another T1-weighted head, instead of the sample.")] = None,
    quick: Annotated[bool, typer.Option(help="Only a block from the middle of the brain: seconds.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 (any number) or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the sampling noise.")] = 0,
) -> None:
    """Make a real head coarse, restore it, and show what came back: NIfTI files, a picture, a table."""
    with listening(False) as sink, Stop() as stop:
        begin = time.monotonic()
        reporter = Reporter(sink, stop.requested)
        benchmark, written = run_demo(
            output, model=model, setting=setting, head=head, quick=quick, device=device, seed=seed, reporter=reporter
        )
        lines = [f"Written: {path}" for path in written]
        tables, gains = terminal(benchmark)
        print_report(benchmark.caption, tables, [*gains, *lines, f"Seconds: {time.monotonic() - begin:.0f}"])


if __name__ == "__main__":
    app()
