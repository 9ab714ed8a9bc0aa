"""``scorefusion translate``: one volume in, a sharper or translated one out, with its provenance beside it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scorefusion.cli.console import listening, say
from scorefusion.cli.outputs import check_outputs, staged_outputs, write_json
from scorefusion.cli.stop import Stop
from scorefusion.errors import RequestError
from scorefusion.run.memory import check_address_space
from scorefusion.run.record import OUTPUTS, sha256

if TYPE_CHECKING:
    from scorefusion.imaging.volume import Volume
    from scorefusion.pipeline import Result
    from scorefusion.run.request import Spacing

EPILOG = """
**Examples**

Make a scan with 5 mm slices sharp (1 mm in all directions):

    scorefusion translate t1.nii.gz -o t1_sharp.nii.gz

Take more time, and show how sure the model is:

    scorefusion translate t1.nii.gz -o t1_sharp.nii.gz --preset best --uncertainty t1_unsure.nii.gz

Three stacks of one contrast in different directions, made one:

    scorefusion translate axial.nii.gz --stack coronal.nii.gz --stack sagittal.nii.gz -o sharp.nii.gz

Beside a sharp T1w of the same exam, which may lie on any grid and a little elsewhere:

    scorefusion translate flair_5mm.nii.gz --input t1=t1_1mm.nii.gz -o flair_sharp.nii.gz

A model with two inputs, on the second GPU:

    scorefusion translate t1.nii.gz --input t2=t2.nii.gz --model MODEL -o flair.nii.gz --device cuda:1
"""


def translate(
    volume: Annotated[
        Path, typer.Argument(metavar="IN", help="The volume: .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Where the result goes, same formats.")],
    model: Annotated[str, typer.Option(help="Name or folder of the model; see: scorefusion models list.")] = "brain-sr",
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=FILE", help="A further input of the model, such as t2=t2.nii.gz."),
    ] = None,
    stacks: Annotated[
        list[Path] | None,
        typer.Option("--stack", metavar="FILE", help="A further stack of the same contrast; may be given repeatedly."),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(metavar="MM", help="Voxel size of the result: 1.0, 0.8,0.8,1.2 for each axis, or in-plane."),
    ] = None,
    thickness: Annotated[
        float | None,
        typer.Option(
            metavar="MM", min=0.01, max=100, help="Slice thickness, where it differs from the distance of slices."
        ),
    ] = None,
    axis: Annotated[
        str | None, typer.Option(metavar="AXIS", help="Voxel axis across the slices: i, j or k. Default: the coarsest.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Speed or quality: fast, balanced or best.")] = "fast",
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Sampling steps; replaces the preset's number.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Samples to draw; the result is their mean.")
    ] = None,
    uncertainty: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write how much the samples differ, voxel by voxel.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, metavar="INTEGER", help="The same seed gives the same result.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 (any number) or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    tile: Annotated[
        int | None,
        typer.Option(min=16, max=4096, help="Voxels a side that the 3D network takes at once. Default: what fits."),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="How planes are fused: fusion, average, alternating, axial, ... (for comparison)."),
    ] = None,
    frame: Annotated[int | None, typer.Option(min=0, max=65535, help="Which volume of a 4D file, from 0.")] = None,
    keep_slices: Annotated[
        bool, typer.Option("--keep-slices", help="Do not even out slices that differ in brightness.")
    ] = False,
    register: Annotated[
        bool,
        typer.Option(
            "--register/--no-register", help="Move further inputs and stacks onto IN, or trust their headers."
        ),
    ] = True,
    skip_unregistered: Annotated[
        bool, typer.Option("--skip-unregistered", help="Go on without a guide that cannot be registered.")
    ] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Report events as JSON lines on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    stop_on_stdin_close: Annotated[
        bool, typer.Option("--stop-on-stdin-close", help="With --json: end when standard input is closed.")
    ] = False,
) -> None:
    """Make a brain MRI sharper, or translate it to another contrast.

    The result is synthetic: it shows what the model finds likely, not what was measured. Not for diagnosis.
    """
    begin = time.monotonic()
    with listening(json_lines, quiet) as sink, Stop(on_stdin_close=json_lines and stop_on_stdin_close) as stop:
        check_address_space()
        from scorefusion.imaging.files import check_output_path, expanded, sidecar_path

        extra, further = _named_inputs(inputs or []), stacks or []
        wanted_spacing = _parse_spacing(spacing)
        output = check_output_path(output)
        uncertainty = None if uncertainty is None else check_output_path(uncertainty)
        record = sidecar_path(output)
        outputs = {"Image": output} | ({} if uncertainty is None else {"Uncertainty": uncertainty})
        given = [expanded(path) for path in (volume, *extra.values(), *further)]
        check_outputs(given, record, list(outputs.values()), stop)
        bundle, volumes = _read_inputs(model, volume, extra, frame)

        from scorefusion import pipeline  # torch is loaded here, after everything that can fail quickly

        result = pipeline.translate(
            volumes,
            bundle,
            stacks=further,
            spacing=wanted_spacing,
            thickness=thickness,
            axis=axis,
            preset=preset,
            steps=steps,
            samples=samples,
            uncertainty=uncertainty is not None,
            seed=seed,
            device=device,
            precision=precision,
            rule=rule,
            tile=tile,
            even_slices=not keep_slices,
            register=register,
            skip_unregistered=skip_unregistered,
            on_event=sink,
            cancelled=stop.requested,
        )
        _save(result, outputs, record, stop)
        sink(
            {
                "event": "result",
                "output": output,
                "uncertainty": uncertainty,
                "provenance": record,
                "quality": result.quality,
                "seconds": round(time.monotonic() - begin, 2),
            }
        )
        if not (json_lines or quiet):
            say(f"Synthetic volume: {output}")
            if uncertainty is not None:
                say(f"Uncertainty:      {uncertainty}")
            say(f"Provenance:       {record}")


def _read_inputs(model: str, first: Path, extra: dict[str, Path], frame: int | None) -> tuple[Any, dict[str, Volume]]:
    """The model and its inputs by name; the unnamed one is the model's first condition."""
    from scorefusion.bundle.store import find_bundle
    from scorefusion.imaging.files import read_volume

    bundle = find_bundle(model)
    names = [condition["name"] for condition in bundle.section["conditions"]]
    for name in extra:
        if name not in names[1:]:
            further = ", ".join(names[1:]) or "none"
            what = "is the unnamed input, IN, already" if name == names[0] else "is unknown"
            msg = f"Input {name!r} {what}. Further inputs of model {bundle.id!r}: {further}."
            raise RequestError(msg)
    volumes = {names[0]: read_volume(first, frame=frame)}
    volumes |= {name: read_volume(path) for name, path in extra.items()}
    return bundle, volumes


def _save(result: Result, outputs: dict[str, Path], record: Path, stop: Stop) -> None:
    from scorefusion.imaging.files import write_volume

    volumes = {"Image": result.volume, "Uncertainty": result.uncertainty}
    with staged_outputs(record, list(outputs.values()), stop) as staged:
        files = {}
        for role, path in outputs.items():
            volume = volumes[role]
            if volume is None:
                msg = "The model gave no uncertainty. Ask for at least two samples: --samples 4."
                raise RequestError(msg)
            write_volume(volume, staged(path))
            files[role] = {"Name": path.name, "Sha256": sha256(staged(path))}
        write_json(staged(record), {**result.provenance, OUTPUTS: files, "Quality": result.quality})


def _named_inputs(pairs: list[str]) -> dict[str, Path]:
    inputs: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            msg = f"--input {pair!r} is not of the form NAME=FILE, such as t2=t2.nii.gz."
            raise RequestError(msg)
        if name in inputs:
            msg = f"--input {name!r} was given twice."
            raise RequestError(msg)
        inputs[name] = Path(path)
    return inputs


def _parse_spacing(text: str | None) -> Spacing:
    if text is None:
        return None
    if text == "in-plane":
        return "in-plane"
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or not all(0.01 <= value <= 100 for value in values):
        msg = (
            f"--spacing {text!r} is not a voxel size. Give one number of mm from 0.01 to 100, or three: 0.8,0.8,1.2; "
            "or in-plane."
        )
        raise RequestError(msg)
    return values[0] if len(values) == 1 else (values[0], values[1], values[2])
