"""Names and numbers on the command line: what an output may replace, and what it may be called."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from corpus.framework import Given, refused, right
from corpus.makers import good, metaimage

Prepare = Callable[[Path], object]


def written_to(
    output: str, prepare: Prepare = lambda folder: None, names: str | None = None, options: Sequence[str] = ()
) -> Callable[[Path], Given]:
    """A case's maker: a sound volume, and a result of this name in a folder that has been prepared."""

    def make(folder: Path) -> Given:
        given = good("scan.nii.gz")(folder)
        prepare(folder)
        return replace(given, output=output, names=output if names is None else names, options=options)

    return make


def a_file(name: str, text: str) -> Prepare:
    return lambda folder: (folder / name).write_text(text)


def a_link(name: str, goal: str) -> Prepare:
    return lambda folder: (folder / name).symlink_to(goal)


# Files that are not ours, where the record or the result would go.
for what, text in {
    "a sidecar": '{"SliceThickness": 2.5}',
    "another pipeline's record": '{"GeneratedBy": [{"Name": "other"}, {"Name": "ScoreFusion"}]}',
    "text": "my notes",
    "nothing": "",
    "brackets": "[" * 50_000,
    "a number of 5000 digits": "9" * 5000,
}.items():
    refused(f"outputs: the record over {what}", written_to("out.nii.gz", a_file("out.json", text), "out.json"))
for suffix in (".nii", ".nrrd", ".mha"):
    case = written_to(f"scan{suffix}", a_file("scan.json", json.dumps({"SliceThickness": 2.5})), "scan.json")
    refused(f"outputs: the record over the input's sidecar, beside scan{suffix}", case, "belongs to the input")
    refused(
        f"outputs: a record that would be the input's sidecar, beside scan{suffix}",
        written_to(f"scan{suffix}", names="scan.json"),
    )
refused(
    "outputs: the record over a link that leads nowhere", written_to("out.mha", a_link("out.json", "no"), "out.json")
)
refused("outputs: the record over a circle of links", written_to("out.mha", a_link("out.json", "out.json"), "out.json"))
refused("outputs: the record over a pipe", written_to("out.mha", lambda f: os.mkfifo(f / "out.json"), "out.json"))
refused("outputs: the record over a folder", written_to("out.mha", lambda f: (f / "out.json").mkdir(), "out.json"))
refused("outputs: a link to the input", written_to("out.nii.gz", a_link("out.nii.gz", "scan.nii.gz")), "is an input")
refused("outputs: a hard link to the input",
        written_to("out.nii.gz", lambda f: os.link(f / "scan.nii.gz", f / "out.nii.gz")), "is an input")  # fmt: skip
refused(
    "outputs: the input through a linked folder", written_to("here/scan.nii.gz", a_link("here", ".")), "is an input"
)
right("outputs: over an older file", written_to("out.nii.gz", a_file("out.nii.gz", "old")))
right("outputs: over a link to another file", written_to("out.nii.gz", a_link("out.nii.gz", "elsewhere.nii.gz")))


def detached(folder: Path) -> Given:
    """A header whose voxels are in a file that a result might be called like."""
    header = metaimage(folder / "scan.mhd")
    (data,) = (path for path in folder.iterdir() if path != header)
    text = header.read_text(encoding="latin-1")
    data.rename(folder / "voxels.mha")
    header.write_text(text.replace(data.name, "voxels.mha"), encoding="latin-1")
    return Given(header, output="voxels.mha", names="voxels.mha")


refused("outputs: the voxels of a header", detached, "belongs to the input")

# Names.
for name, says in {
    "": "is a folder",
    ".": "is a folder",
    "..": "is a folder",
    "/": "is a folder",
    "~no-such-user/out.nii.gz": "home folder",
    "out": "suffix",
    "out.png": "suffix",
    "/dev/full": "suffix",
    "/dev/null/out.nii.gz": "does not exist",
    "scan.nii.gz/out.nii.gz": "does not exist",
    "no/where/out.nii.gz": "does not exist",
    "n" * 251 + ".nii.gz": "too long",
    "n" * 300 + "/out.nii.gz": "too long",
    "nn/" * 1500 + "out.nii.gz": "too long",
    os.fsdecode(b"\xff.nrrd"): "not UTF-8",
    os.fsdecode(b"\xff.mha"): "not UTF-8",
}.items():
    shown = name if len(name) < 40 else f"{name[:8]}... ({len(name)})"
    refused(f"outputs: called {shown.encode('utf-8', 'backslashreplace').decode()!r}", written_to(name, names=""), says)
refused("outputs: a circle of links", written_to("loop.nii.gz", a_link("loop.nii.gz", "loop.nii.gz")), "symbolic links")
refused("outputs: a pipe", written_to("pipe.nii.gz", lambda f: os.mkfifo(f / "pipe.nii.gz")), "no ordinary file")
refused("outputs: a device", written_to("full.nii.gz", a_link("full.nii.gz", "/dev/full")), "no ordinary file")
for name in ("n" * 248 + ".nii.gz", "\u03c9 \u00e9.nii.gz", "a 'b' \"c\".nrrd", "[red]out.mha"):
    right(f"outputs: called {name[:20]!r} ({len(name)})", written_to(name))

# Rules.
for rule in ("average:axial+axial", "average:", "average:axial+", "axial+axial", "fusion:x"):
    refused(f"outputs: --rule {rule}", written_to("out.nii.gz", names=rule, options=["--rule", rule]))
