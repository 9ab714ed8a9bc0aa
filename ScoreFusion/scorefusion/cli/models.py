"""``scorefusion models``: what is installed, and what each model can do. Works without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scorefusion.bundle.install import import_bundle, remove_bundle
from scorefusion.bundle.store import BundleInfo, find_bundle, list_bundles
from scorefusion.cli.console import EXIT_USER_ERROR, listening, say
from scorefusion.errors import BundleError
from scorefusion.progress import JsonLines
from scorefusion.wording import readable

app = typer.Typer(no_args_is_help=True, help="List, inspect, check, import and remove models.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """List the installed models."""
    with listening(as_json):
        infos = list_bundles()
        if as_json:
            JsonLines()({"models": [info.to_dict() for info in infos]})
            return
        if not infos:
            say("No model is installed. Import one with: scorefusion models import FILE.zip")
        for info in infos:
            say(_line(info))


@app.command()
def show(name: Annotated[str, typer.Argument(help="Name or folder of the model.")], as_json: Json = False) -> None:
    """Show a model's card: what it was trained on, how good it is, and its limits."""
    with listening(as_json):
        bundle = find_bundle(name)
        if as_json:
            JsonLines()({**_info_of(bundle.id, bundle.folder), "metadata": bundle.metadata, "card": bundle.card()})
            return
        from rich.console import Console
        from rich.markdown import Markdown

        console = Console()
        console.print(Markdown(bundle.card())) if console.is_terminal else say(bundle.card())


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="Name or folder of the model; all models if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Check that weights are complete and unchanged."""
    with listening(as_json):
        infos = list_bundles() if name is None else [BundleInfo(name, Path(), False, find_bundle(name))]
        rows = [{"id": info.bundle.id if info.bundle else info.id, "problem": _problem(info)} for info in infos]
        if as_json:
            JsonLines()({"models": [{**row, "ok": row["problem"] is None} for row in rows]})
        else:
            for row in rows:
                say(f"{row['id']}: {row['problem'] or 'complete and unchanged'}")
        if any(row["problem"] for row in rows):
            raise typer.Exit(EXIT_USER_ERROR)


@app.command("import")
def import_command(
    path: Annotated[Path, typer.Argument(help="A zip file or a folder in the MONAI bundle layout.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an imported model of the same name.")] = False,
    as_json: Json = False,
) -> None:
    """Check a model from outside, and install it for this user."""
    with listening(as_json):
        bundle = import_bundle(path, force=force)
        if as_json:
            JsonLines()({"imported": _info_of(bundle.id, bundle.folder)})
        else:
            say(f"Imported {bundle.id} {bundle.version} to {bundle.folder}")


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of an imported model.")], as_json: Json = False) -> None:
    """Delete an imported model."""
    with listening(as_json):
        folder = remove_bundle(name)
        if as_json:
            JsonLines()({"removed": {"id": name, "folder": folder}})
        else:
            say(f"Removed {name} from {folder}")


def _info_of(bundle_id: str, folder: Path) -> dict[str, Any]:
    for info in list_bundles():
        if info.id == bundle_id and info.folder == folder:
            return info.to_dict()
    return BundleInfo(bundle_id, folder, False, find_bundle(folder)).to_dict()


def _problem(info: BundleInfo) -> str | None:
    if info.problem is not None or info.bundle is None:
        return info.problem
    try:
        info.bundle.verify()
    except BundleError as error:
        return str(error)
    return None


def _line(info: BundleInfo) -> str:
    if info.bundle is None:
        return f"{info.id}\n    cannot be used: {info.problem}"
    bundle = info.bundle
    origin = "shipped" if info.shipped else "imported"
    lines = [f"{bundle.id} {bundle.version} ({origin}, {readable(bundle.size_bytes)})", f"    {bundle.name}"]
    given = [
        "/".join(condition["contrasts"]) + (" (optional)" if condition.get("optional") else "")
        for condition in bundle.section["conditions"]
    ]
    contrasts = " + ".join(given)
    lines.append(f"    {bundle.task.replace('_', ' ')}: {contrasts} -> {bundle.section['target']['name']}")
    if info.problem is not None:
        lines.append(f"    cannot be used: {info.problem}")
    return "\n".join(lines)
