"""Bring models in from a zip file or a folder, and take them out again.

A file from outside is not trusted: it is checked before anything is unpacked, only what its metadata names is unpacked,
hashes are checked before anything is put in place, and nothing in it is ever run.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from scorefusion.bundle.archive import (
    NAMES_WITHOUT_SUFFIX,
    Member,
    Source,
    checked_members,
    open_source,
    read,
    refuse,
)
from scorefusion.bundle.bounds import MAX_BYTES
from scorefusion.bundle.folder import CARD_PATH, MAX_METADATA_BYTES, METADATA_PATH, Bundle, parse_metadata
from scorefusion.bundle.names import is_bundle_id
from scorefusion.bundle.staging import move_into_place, staged_folder
from scorefusion.bundle.store import find_bundle, is_shipped, list_bundles, user_models_folder
from scorefusion.errors import BundleError


def import_bundle(path: str | Path, *, force: bool = False, max_bytes: int = MAX_BYTES) -> Bundle:
    """Check a model from outside and put it among the user's models.

    Of the source are taken its metadata, the weight files that the metadata names, the card and the licence; all else
    is checked like these, and left.

    Args:
        path: a zip file, or a folder with ``configs/metadata.json``. In a zip, all may lie in one folder.
        force: replace an imported model of the same id.
        max_bytes: refuse what would unpack to more.

    Raises:
        BundleError: the file is unsafe, incomplete, damaged, or a model of that id exists. Nothing was changed.
    """
    source = Path(path)
    with open_source(source) as archive:
        members = _bundle_members(archive, max_bytes)
        metadata_bytes = b"".join(read(archive, members[METADATA_PATH]))
        section = parse_metadata(metadata_bytes, str(source))["scorefusion"]
        bundle_id = section.get("id", _id_from(members[METADATA_PATH], source))
        if not is_bundle_id(bundle_id):
            refuse(source, f"it names the model {bundle_id!r}, which cannot be. Set scorefusion.id in its metadata")
        final = user_models_folder() / bundle_id
        wanted = {METADATA_PATH, CARD_PATH, *NAMES_WITHOUT_SUFFIX, *section["files"]}
        try:
            _check_place(bundle_id, final, force)
            with staged_folder(final.parent) as staged:
                for name in sorted(wanted & set(members)):
                    to = staged / name
                    to.parent.mkdir(parents=True, exist_ok=True)
                    with to.open("wb") as file:
                        file.writelines([metadata_bytes] if name == METADATA_PATH else read(archive, members[name]))
                Bundle(staged).verify()
                move_into_place(staged, final)
        except OSError as error:
            msg = (
                f"The model could not be written to {str(final.parent)!r}: {error.strerror}. "
                "Make room there, or set SCOREFUSION_HOME to another folder."
            )
            raise BundleError(msg) from error
    return Bundle(final)


def remove_bundle(name: str) -> Path:
    """Delete an imported model, broken or not, by its id or folder; returns the folder that is gone.

    Raises:
        BundleError: it came with ScoreFusion, there is none, or several have that id.
    """
    matches = [info for info in list_bundles() if name == info.id or Path(name).absolute() == info.folder]
    if len(matches) > 1:
        msg = f"Nothing was removed. {matches[-1].problem}"
        raise BundleError(msg)
    folder = matches[0].folder if matches else find_bundle(name).folder
    if is_shipped(folder):
        msg = f"Model {name!r} came with ScoreFusion and cannot be removed."
        raise BundleError(msg)
    if folder.resolve().parent != user_models_folder().resolve():
        msg = f"Model {name!r} lies in {str(folder)!r}, which ScoreFusion does not manage. Delete that folder yourself."
        raise BundleError(msg)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        msg = f"Model {name!r} could not be removed from {str(folder)!r}: {error.strerror}."
        raise BundleError(msg) from error
    return folder


def _bundle_members(archive: Source, max_bytes: int) -> dict[str, Member]:
    """By the path inside the bundle, which is the source itself or the one folder that all lies in."""
    members = checked_members(archive, max_bytes)
    found = [member.path for member in members if f"/{member.path}".endswith(f"/{METADATA_PATH}")]
    if not found:
        msg = f"{str(archive.path)!r} is not a model bundle: it has no {METADATA_PATH}."
        raise BundleError(msg)
    path = min(found, key=len)
    root = path.removesuffix(METADATA_PATH)
    outside = [member.path for member in members if not member.path.startswith(root)]
    if outside or root.count("/") > 1:
        msg = (
            f"{str(archive.path)!r} is not one model bundle: {METADATA_PATH} must lie at its top, or all in one folder "
            f"(found {(outside or [path])[0]!r})."
        )
        raise BundleError(msg)
    inside = {member.path.removeprefix(root): member for member in members}
    if inside[METADATA_PATH].size > MAX_METADATA_BYTES:
        refuse(archive.path, f"its {METADATA_PATH} is larger than {MAX_METADATA_BYTES // 1024**2} MiB")
    return inside


def _id_from(metadata: Member, source: Path) -> str:
    root = metadata.path.removesuffix(METADATA_PATH).rstrip("/")
    return (root or (source.stem if source.suffix == ".zip" else source.name)).lower()


def _check_place(bundle_id: str, final: Path, force: bool) -> None:
    for info in list_bundles():
        if info.id == bundle_id and info.shipped:
            msg = f"A model {bundle_id!r} came with ScoreFusion and stays. Change scorefusion.id in its metadata."
            raise BundleError(msg)
    if final.exists() and not force:
        msg = f"A model {bundle_id!r} is already installed in {str(final)!r}. Use --force (force=True) to replace it."
        raise BundleError(msg)
