"""The record beside a result, as a file: whose it is, and whether it still tells of the file it lies beside.

Image and record are two files, and a process can die between writing the one and the other. So the record carries the
hash of each file it tells of, and is put in place first: a pair that does not belong together shows.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

OUTPUTS = "Outputs"
_LARGEST = 16 * 1024**2  # bytes; a record has a few thousand


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in this file; None if there is no file, or one that ScoreFusion alone did not write."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    makers = content.get("GeneratedBy") if isinstance(content, dict) else None
    if not (isinstance(makers, list) and makers):
        return None
    ours = all(isinstance(maker, dict) and maker.get("Name") == "ScoreFusion" for maker in makers)
    return content if ours else None


def outputs_of(record: dict[str, Any]) -> dict[str, str]:
    """Name and SHA-256 of each file that a record tells of; none in records of version 0.1.0."""
    outputs = record.get(OUTPUTS)
    files = outputs.values() if isinstance(outputs, dict) else ()
    return {str(file.get("Name")): str(file.get("Sha256")) for file in files if isinstance(file, dict)}


def contradiction(volume: Path, sidecar: Path) -> str | None:
    """What to say if the record beside a volume tells of another file; None if there is none, or all is well."""
    hashes = set(outputs_of(read_record(sidecar) or {}).values())
    if not hashes or sha256(volume) in hashes:
        return None
    return (
        f"'{volume.name}' is not the file that '{sidecar.name}' beside it tells of (its SHA-256 is another): it was "
        "changed, or the run that made it was killed while saving. Make it again if its origin matters."
    )


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1024**2):
            digest.update(block)
    return digest.hexdigest()
