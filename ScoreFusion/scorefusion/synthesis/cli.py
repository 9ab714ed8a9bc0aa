"""`scorefusion synthesise`: heads with several contrasts from label maps, as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from scorefusion.cli.console import listening
from scorefusion.cli.stop import Stop
from scorefusion.errors import RequestError

if TYPE_CHECKING:
    from scorefusion.progress import Reporter
    from scorefusion.synthesis.generator import GeneratorOptions, SyntheticHead
    from scorefusion.synthesis.labels import LabelMap

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

MAP_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")

EPILOG = """
**Examples**

Three heads, T1w and FLAIR of each, from one FreeSurfer segmentation:

    scorefusion synthesise aparc+aseg.nii.gz --out made --contrasts t1,flair --count 3

Whole heads from a folder of maps, any brightness for any tissue:

    scorefusion synthesise maps/ --out made --mode random --shape 192,224,192 --stripped 0
"""


@app.command(epilog=EPILOG)
def synthesise(
    labels: Annotated[list[Path], typer.Argument(metavar="LABELS...", help="Label maps, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images, their parameters and a picture.")],
    contrasts: Annotated[str, typer.Option(help="Comma-separated: t1, t1ce, t2, flair, pd.")] = "t1,t2,flair",
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of heads.")] = 3,
    mode: Annotated[
        str, typer.Option(help="plausible (from relaxation times), random (any brightness) or mixed.")
    ] = "plausible",
    seed: Annotated[int, typer.Option(min=0, max=2**53, help="Of the first head; the others follow.")] = 0,
    shape: Annotated[str, typer.Option(help="Voxels along left-right, back-front, bottom-top.")] = "176,208,176",
    spacing: Annotated[float, typer.Option(min=0.1, max=20, help="Voxel size, mm.")] = 1.0,
    stripped: Annotated[float, typer.Option(min=0, max=1, help="Share of heads without skull.")] = 0.7,
    lesions: Annotated[float, typer.Option(min=0, max=1, help="Share of heads with lesions.")] = 0.35,
    scheme: Annotated[str, typer.Option(help="Numbers of the maps: auto, freesurfer, three or tissue.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    json_lines: Annotated[bool, typer.Option("--json", help="Report events as JSON lines on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Make synthetic scans from label maps: consistent contrasts of heads that nobody has."""
    with listening(json_lines, quiet) as sink, Stop() as stop:
        from scorefusion.progress import Reporter
        from scorefusion.synthesis.generator import GeneratorOptions

        options = GeneratorOptions(
            mode=mode,  # type: ignore[arg-type]  # checked by the options
            contrasts=tuple(name.strip() for name in contrasts.split(",") if name.strip()),
            shape=_parse_shape(shape),
            spacing_mm=spacing,
            strip_share=stripped,
            lesion_share=lesions,
        )
        files = run(labels, out, options, count, seed, scheme, device, Reporter(sink, stop.requested))
        if not (json_lines or quiet):
            typer.echo(f"Written: {len(files)} files in {out}; have a look at {files[-1]}")
        sink({"event": "result", "output": files[-1], "files": files})


def run(
    labels: Sequence[Path],
    out: Path,
    options: GeneratorOptions,
    count: int,
    seed: int,
    scheme: str,
    device: str,
    reporter: Reporter,
) -> list[Path]:
    """The command without its terminal. Returns the files written, the picture last."""
    from scorefusion.synthesis.contact_sheet import contact_sheet, write_png
    from scorefusion.synthesis.generator import ContrastGenerator
    from scorefusion.synthesis.labels import load_label_map

    paths = _find_maps(labels)
    maps: list[LabelMap] = []
    for path in paths:
        reporter.progress("reading maps", len(maps), len(paths))
        maps.append(load_label_map(path, scheme))  # type: ignore[arg-type]  # checked there
    generator = ContrastGenerator(maps, options, device)
    out.mkdir(parents=True, exist_ok=True)
    files, heads = [], []
    for number in range(count):
        reporter.progress("making heads", number, count)
        head = generator.draw(seed + number)
        files += _write(head, options, out / f"synthetic-{seed + number:04d}")
        heads.append(head)
    reporter.progress("making heads", count, count)
    return [*files, write_png(contact_sheet(heads), out / "contact-sheet.png")]


def _write(head: SyntheticHead, options: GeneratorOptions, stem: Path) -> list[Path]:
    """Images, classes and parameters of one head."""
    from scorefusion.imaging.files import write_volume
    from scorefusion.imaging.volume import Volume
    from scorefusion.synthesis.labels import TISSUE_NAMES

    affine = np.diag([options.spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [-0.5 * (size - 1) * options.spacing_mm for size in options.shape]
    files = []
    for name, image in {**head.images, "classes": head.classes}.items():
        data = image.cpu().numpy().astype(np.float32)[None]
        files.append(write_volume(Volume(data, affine), stem.with_name(f"{stem.name}_{name}.nii.gz")))
    sidecar = stem.with_name(f"{stem.name}.json")
    about = {**head.parameters, "options": options.to_dict(), "classes": dict(enumerate(TISSUE_NAMES))}
    sidecar.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return [*files, sidecar]


def _find_maps(labels: Sequence[Path]) -> list[Path]:
    """The files named, and those in the folders named."""
    paths: list[Path] = []
    for path in labels:
        found = sorted(p for p in path.iterdir() if p.name.endswith(MAP_SUFFIXES)) if path.is_dir() else [path]
        if not found:
            msg = f"The folder '{path}' has no label maps; expected files ending in {', '.join(MAP_SUFFIXES)}."
            raise RequestError(msg)
        paths += found
    return paths


def _parse_shape(text: str) -> tuple[int, int, int]:
    try:
        i, j, k = (int(part) for part in text.split(","))
    except ValueError as error:
        msg = f"--shape is {text!r}, but three whole numbers were expected, such as 176,208,176."
        raise RequestError(msg) from error
    if not all(8 <= size <= 2048 for size in (i, j, k)):
        msg = f"--shape is {text!r}, but each size must be from 8 to 2048 voxels."
        raise RequestError(msg)
    return i, j, k
