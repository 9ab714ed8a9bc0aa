"""A trained bundle with its card and its measured quality, put where it is shipped from.

python -m scorefusion.training.ship runs/mine/bundle/my-model --out Resources/Models/my-model --card card.md
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated

import typer

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.write import write_bundle
from scorefusion.cli.console import listening
from scorefusion.documents import read_json
from scorefusion.training.recipe import without_folders

LARGEST = 8_000_000  # bytes of a shipped bundle


def ship(source: Path, out: Path, card: str, licence: str, quality: dict[str, object], version: str | None) -> Bundle:
    """Copy a bundle's networks as they are, with another card, licence text, quality and version.

    Raises:
        ValueError: larger than what we ship.
    """
    bundle = Bundle(source)
    bundle.verify()
    metadata = copy.deepcopy(bundle.metadata)
    if version is not None:
        metadata["version"] = version
        metadata["changelog"] = {version: "see CHANGELOG.md"}
    metadata["scorefusion"]["quality"] = quality
    training = metadata["scorefusion"].get("training", {})
    if "recipe" in training:
        training["recipe"] = without_folders(training["recipe"])
    states = {file: bundle.load_state_dict(file) for file in metadata["scorefusion"]["files"]}
    shipped = write_bundle(out, metadata, states, card, licence, overwrite=True)
    if shipped.size_bytes > LARGEST:
        msg = f"{out} has {shipped.size_bytes} bytes; shipped models have at most {LARGEST}: use smaller networks"
        raise ValueError(msg)
    return shipped


def main(
    source: Annotated[Path, typer.Argument(help="The trained bundle.")],
    out: Annotated[Path, typer.Option(help="Where it is shipped from; replaced.")],
    card: Annotated[Path, typer.Option(help="Model card, Markdown.")],
    licence: Annotated[Path, typer.Option(help="Licence text.")] = Path("LICENSE"),
    quality: Annotated[Path | None, typer.Option(help="JSON of measured figures.")] = None,
    version: Annotated[str | None, typer.Option(help="Of the model.")] = None,
) -> None:
    """Put a trained bundle where it is shipped from."""
    with listening(json_lines=False):
        figures = {} if quality is None else read_json(quality)
        text, terms = card.read_text(encoding="utf-8"), licence.read_text(encoding="utf-8")
        shipped = ship(source, out, text, terms, figures, version)
        typer.echo(f"{shipped.id} {shipped.version}: {shipped.size_bytes} bytes, {shipped.hash}")


if __name__ == "__main__":
    typer.run(main)
