"""What takes time to find out about a volume is found out once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Found = TypeVar("_Found")
_KEPT = 16  # volumes; a scene with more of them scans again


def once_per_volume(look: Callable[[Any], _Found]) -> Callable[[Any], _Found]:
    """Let a function of a volume node look again only when the node or its voxels have changed.

    VTK counts modifications for all objects together, so that no two states of two nodes have the same number.
    """
    kept: dict[tuple[str, int, int], _Found] = {}

    def look_once(node: Any) -> _Found:
        image = node.GetImageData()
        state = (node.GetID(), node.GetMTime(), image.GetMTime() if image is not None else 0)
        if state not in kept:
            while len(kept) >= _KEPT:
                del kept[next(iter(kept))]
            kept[state] = look(node)
        return kept[state]

    return look_once
