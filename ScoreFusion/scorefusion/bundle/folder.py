"""One bundle in its folder: its metadata, its integrity and its weights."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorefusion.bundle.metadata import network_files, validate_metadata
from scorefusion.documents import parse_json
from scorefusion.errors import BundleError, DocumentError

if TYPE_CHECKING:
    from torch import Tensor

METADATA_PATH = "configs/metadata.json"
CARD_PATH = "docs/README.md"
LICENCE_PATH = "LICENSE"

MAX_METADATA_BYTES = 2 * 1024**2
_MAX_CARD_BYTES = 1024**2
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # among them what moves a terminal's cursor or changes its title


class Bundle:
    """A model, ready to be loaded. Opening one reads the metadata only, and checks it.

    Args:
        folder: holds ``configs/metadata.json`` and ``models/``.

    Raises:
        BundleError: no bundle there, or metadata that cannot be used. The message lists every problem found.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.metadata: dict[str, Any] = parse_metadata(_read_metadata(self.folder), str(self.folder))

    def __repr__(self) -> str:
        return f"Bundle({self.id!r}, version={self.version!r}, folder={str(self.folder)!r})"

    @property
    def section(self) -> dict[str, Any]:
        """The ``scorefusion`` section of the metadata."""
        section: dict[str, Any] = self.metadata["scorefusion"]
        return section

    @property
    def id(self) -> str:
        """What users type: ``brain-sr``."""
        return str(self.section.get("id", self.folder.name))

    @property
    def name(self) -> str:
        """What users read: ``Brain MRI super-resolution``."""
        return str(self.metadata.get("name", self.id))

    @property
    def version(self) -> str:
        """Of the model, not of its format."""
        return str(self.metadata["version"])

    @property
    def task(self) -> str:
        """``super_resolution`` or ``translation``."""
        return str(self.section["task"])

    @property
    def volume_kind(self) -> str | None:
        """``diffusion`` or ``regression`` for a 3D network that works alone; None = plane networks."""
        volume = self.section["networks"].get("volume")
        return str(volume["kind"]) if volume else None

    @cached_property
    def hash(self) -> str:
        """SHA-256 that names this very model: over the hashes of the metadata and of the weights, sorted by path."""
        hashes = {path: facts["sha256"] for path, facts in self.section["files"].items()}
        hashes[METADATA_PATH] = hashlib.sha256(_read_metadata(self.folder)).hexdigest()
        lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(hashes.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Of all weight files."""
        return sum(int(facts["bytes"]) for facts in self.section["files"].values())

    def card(self) -> str:
        """The model card, as Markdown: what the model was trained on, its measured quality, its limits."""
        path = self.folder / CARD_PATH
        if not path.is_file():
            return f"# {self.name}\n\n{self.metadata['description']}\n"
        with path.open("rb") as file:
            text = file.read(_MAX_CARD_BYTES).decode("utf-8", errors="replace")
        return _UNSHOWN.sub("", text)

    def check_present(self) -> None:
        """Raise `BundleError` if a weight file is missing or has the wrong size. Quick: reads no weights."""
        for path in self.section["files"]:
            self._check_file(path)

    def verify(self) -> None:
        """Raise `BundleError` unless every weight file is there and is, to the last bit, the one the metadata names."""
        self.check_present()
        for path in self.section["files"]:
            self._read_checked(path)

    def load_state_dict(self, relative_file: str) -> dict[str, Tensor]:
        """Weights of one file, on the CPU: checked against their SHA-256, half precision widened to float32.

        Args:
            relative_file: as in the metadata, such as ``models/plane.safetensors``.
        """
        import safetensors.torch
        import torch

        content = self._read_checked(relative_file)
        try:
            tensors = safetensors.torch.load(content)
        except Exception as error:  # safetensors raises its own kind, which older versions do not export
            msg = f"Bundle {self.id!r}: {relative_file} is not a valid safetensors file ({error})."
            raise BundleError(msg) from error
        return {
            name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
        }

    @property
    def network_files(self) -> list[str]:
        """Weight files that the networks need."""
        return network_files(self.section)

    def _check_file(self, path: str) -> str:
        """The SHA-256 that a file must have; the file is there and of the right size."""
        facts = self.section["files"].get(path)
        if facts is None:
            listed = ", ".join(self.section["files"])
            msg = f"Bundle {self.id!r} lists no file {path!r}. It lists: {listed}."
            raise BundleError(msg)
        file = self.folder / path
        if not file.is_file():
            msg = f"Bundle {self.id!r} is incomplete: {path} is missing in {self.folder}. Import the model again."
            raise BundleError(msg)
        size = file.stat().st_size
        if size != facts["bytes"]:
            msg = (
                f"Bundle {self.id!r} is damaged: {path} has {size} bytes, its metadata says {facts['bytes']}. "
                "Import the model again."
            )
            raise BundleError(msg)
        return str(facts["sha256"])

    def _read_checked(self, path: str) -> bytes:
        """The bytes that were hashed are the bytes that are used: no second look at a file that may have changed."""
        expected = self._check_file(path)
        try:
            content = (self.folder / path).read_bytes()
        except OSError as error:
            msg = f"Bundle {self.id!r} is incomplete: {path} cannot be read ({error.strerror})."
            raise BundleError(msg) from error
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            msg = (
                f"Bundle {self.id!r} was damaged or changed: {path} has SHA-256 {found[:12]}..., its metadata "
                f"says {expected[:12]}.... It was not loaded. Import the model again."
            )
            raise BundleError(msg)
        return content


def parse_metadata(content: bytes, where: str) -> dict[str, Any]:
    """Parse and validate the bytes of a ``metadata.json``."""
    try:
        metadata: dict[str, Any] = parse_json(content)
    except DocumentError as error:
        msg = f"Bundle {where!r} cannot be used: {METADATA_PATH} {error}."
        raise BundleError(msg) from error
    validate_metadata(metadata, where)
    return metadata


def _read_metadata(folder: Path) -> bytes:
    path = folder / METADATA_PATH
    try:
        if not path.is_file():
            msg = f"No model bundle in {str(folder)!r}: it has no {METADATA_PATH}."
            raise BundleError(msg)
        with path.open("rb") as file:
            content = file.read(MAX_METADATA_BYTES + 1)
    except OSError as error:
        msg = f"No model bundle can be read from {str(folder)!r} ({error.strerror})."
        raise BundleError(msg) from error
    if len(content) > MAX_METADATA_BYTES:
        msg = f"Bundle {str(folder)!r} cannot be used: its {METADATA_PATH} is larger than 2 MiB."
        raise BundleError(msg)
    return content
