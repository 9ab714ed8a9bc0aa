"""`make demo`: a real head is scanned coarsely, restored by the shipped model, and compared with what was lost.

    python -m scorefusion.evaluation.demo --output demo-output

Everything goes through the same doors as a user's scan: the coarse scan is a file, and `translate` restores it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.store import find_bundle
from scorefusion.cli.console import listening
from scorefusion.cli.stop import Stop
from scorefusion.datasets.case import Case
from scorefusion.errors import RequestError
from scorefusion.evaluation.benchmark import (
    Benchmark,
    Method,
    Restored,
    Subject,
    classical_methods,
    run_benchmark,
)
from scorefusion.evaluation.cli import show
from scorefusion.evaluation.gallery import Gallery
from scorefusion.evaluation.regions import rough_brain_mask
from scorefusion.evaluation.report import write_report
from scorefusion.evaluation.sample_data import sample_head
from scorefusion.evaluation.simulate import CoarseScan, Setting
from scorefusion.evaluation.suites import Suite, SuiteCase
from scorefusion.imaging.files import read_volume, write_volume
from scorefusion.imaging.foreground import foreground_box
from scorefusion.imaging.grid import Box
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import translate
from scorefusion.progress import Reporter
from scorefusion.run.devices import pick_device

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SUBJECT = "colin27"
MARGIN = 14  # voxels around the brain: enough head to see, little enough to be quick
QUICK_SHAPE = (80, 70, 90)  # voxels of the block that --quick restores


@dataclass(frozen=True, eq=False)
class Translated:
    """`translate` as a row: reads the coarse scan from its file, as a user would."""

    bundle: Bundle
    folder: Path
    name: str
    options: dict[str, int | str]
    device_name: str
    seed: int
    reporter: Reporter = field(default_factory=Reporter)

    @property
    def key(self) -> str:
        return f"fusion+proj@{self.name}"

    @property
    def label(self) -> str:
        told = ", ".join(f"{value} {key}" if key != "preset" else str(value) for key, value in self.options.items())
        return f"{self.bundle.id} ({told})"

    @property
    def family(self) -> str:
        return "model"

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return ()

    @property
    def device(self) -> torch.device:
        return pick_device(self.device_name)

    def restore(self, scan: CoarseScan, grid_of: Volume) -> Restored:
        setting = scan.setting
        path = coarse_path(self.folder, setting)
        if not path.exists():
            write_volume(scan.volume, path)
        thick = setting.kind == "thick"
        result = translate(
            path,
            self.bundle,
            spacing=grid_of.spacing,
            thickness=setting.amount if thick else None,
            axis=setting.axis if thick else None,
            uncertainty="samples" in self.options,
            seed=self.seed,
            device=self.device_name,
            cancelled=self._cancelled,
            **self.options,  # type: ignore[arg-type]
        )
        if not result.volume.grid.is_close(grid_of.grid, tolerance_mm=0.01):
            msg = f"the restored grid {result.volume.grid} is not the truth's {grid_of.grid}; choose another --setting"
            raise RequestError(msg)
        unsure = None if result.uncertainty is None else torch.from_numpy(result.uncertainty.data[0])
        return Restored(torch.from_numpy(result.volume.data[0]), unsure)

    def _cancelled(self) -> bool:
        self.reporter.check_cancelled()
        return False


def coarse_path(folder: Path, setting: Setting) -> Path:
    """Where the coarse scan lies."""
    return folder / f"coarse_{setting.name.replace('@', '-')}.nii.gz"


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
    """Everything the demo does.

    Args:
        output: folder for NIfTI files, PNG and tables; files of an earlier run are replaced.
        model: name or folder of a super-resolution bundle.
        setting: how the head is scanned coarsely.
        head: another whole head to use; None = the sample head, downloaded on first use.
        quick: restore a block from the middle of the brain only.

    Returns:
        The scores, and the files written.
    """
    reporter = reporter or Reporter()
    bundle = find_bundle(model)
    chosen = Setting.parse(setting)
    output.mkdir(parents=True, exist_ok=True)
    reporter.progress("getting a head", 0, 1)
    case = _prepare_head(head or sample_head(output / "sample"), output, chosen, quick)
    coarse_path(output, chosen).unlink(missing_ok=True)
    ours: list[Method] = [
        Translated(bundle, output, "fast", {"preset": "fast"}, device, seed, reporter),
        # Samples of two steps: enough spread for a map, and quick.
        Translated(bundle, output, "uncertainty", {"preset": "fast", "steps": 2, "samples": 4}, device, seed, reporter),
    ]
    methods = [*classical_methods(), *ours]
    gallery = Gallery(output, methods)
    written: list[Path] = []

    def keep(subject: Subject, restored: dict[str, Restored]) -> None:
        written.append(coarse_path(output, chosen))
        named = {"cubic": "cubic", "restored": "fusion+proj@fast"}
        volumes = {"truth": subject.truth}
        for name, key in named.items():
            volumes[name] = subject.truth.with_data(restored[key].data[None].numpy())
        unsure = restored["fusion+proj@uncertainty"].uncertainty
        if unsure is not None:
            volumes["uncertainty"] = subject.truth.with_data(unsure[None].numpy())
        for name, volume in volumes.items():
            written.append(output / f"{name}_{chosen.name.replace('@', '-')}.nii.gz")
            write_volume(volume, written[-1])
        gallery(subject, restored)

    benchmark = run_benchmark(
        Suite("sample head (Colin 27)" if head is None else head.name, "demo", (case,)),
        [chosen],
        methods,
        caption={"model": f"{bundle.id} {bundle.version} (SHA-256 {bundle.hash[:12]})", "seed": str(seed)},
        reporter=reporter,
        keep=keep,
        kept=gallery.wanted,
    )
    written += [*gallery.written, *write_report(benchmark, output, "demo", gallery.written).values()]
    return benchmark, written


def _prepare_head(path: Path, folder: Path, setting: Setting, quick: bool) -> SuiteCase:
    """Cut the head down to the brain's surroundings, in sizes that hold whole slices, and keep its brain mask."""
    head, _ = read_volume(path).canonical()
    brain = rough_brain_mask(head.data[0], head.spacing)
    multiple = setting.block(head.grid)
    box = foreground_box(brain, MARGIN, multiple)
    if quick:
        # From the middle of the brain outward through the right half of the skull.
        middle = [int(np.median(values)) for values in np.nonzero(brain)]
        start = [middle[0], max(0, middle[1] - QUICK_SHAPE[1] // 2), middle[2]]
        stop = [min(a + size, n) for a, size, n in zip(start, QUICK_SHAPE, head.spatial_shape, strict=True)]
        box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    stop = [a + (b - a) // multiple * multiple for a, b in zip(box.start, box.stop, strict=True)]
    box = Box(box.start, (stop[0], stop[1], stop[2]))
    sample = folder / "sample"
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
        show(benchmark)
        for path in written:
            typer.echo(f"Written: {path}")
        typer.echo(f"Seconds: {time.monotonic() - begin:.0f}")


if __name__ == "__main__":
    app()
