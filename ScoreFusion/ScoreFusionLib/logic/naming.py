"""Names of volumes in place of the files that stand for them in the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Naming:
    """Says what a volume is called in Slicer wherever the worker, which knows files alone, says a path.

    >>> naming = Naming()
    >>> naming.learn(Path("/run/input-image.nii"), "MRHead")
    >>> naming("'/run/input-image.nii' is dark (input-image.nii)")
    "'MRHead' is dark (MRHead)"
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def learn(self, path: Path, name: str) -> None:
        """From now on say `name` for `path`, with and without its folder."""
        self._names |= {str(path): name, path.name: name}

    def __call__(self, value: Any) -> Any:
        """Return text, or lists and dicts of texts, with names for paths; all else as it is."""
        if isinstance(value, dict):
            return {key: self(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self(inner) for inner in value]
        if isinstance(value, str):
            for path in sorted(self._names, key=len, reverse=True):  # a path before the file name at its end
                value = value.replace(path, self._names[path])
        return value
