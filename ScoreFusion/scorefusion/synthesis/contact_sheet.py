"""All synthetic heads of a run on one picture: a row a head, the middle slices of each contrast side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scorefusion.synthesis.generator import SyntheticHead

GAP = 3
"""Black pixels between panels."""


def contact_sheet(heads: Sequence[SyntheticHead]) -> NDArray[np.uint8]:
    """Grey picture `(H, W)`: for each contrast an axial and a sagittal slice, patient's right on the left, nose left.

    Args:
        heads: all with the same contrasts and shape.
    """
    rows = []
    for head in heads:
        panels = []
        for image in head.images.values():
            x = image.cpu().numpy()
            i, _, k = (size // 2 for size in x.shape)
            # Radiological view: columns run from right to left, rows from front to back, or from top to bottom.
            panels += [x[::-1, ::-1, k].T, x[i, ::-1, ::-1].T]
        height = max(panel.shape[0] for panel in panels)
        rows.append(np.concatenate([_framed(panel, height) for panel in panels], axis=1))
    picture = np.concatenate(rows, axis=0)
    return np.clip((picture + 1.0) * 0.5 * 255.0, 0, 255).astype(np.uint8)


def write_png(picture: NDArray[np.uint8], path: Path) -> Path:
    """Write a grey picture `(H, W)`. Returns its path."""
    import SimpleITK as sitk

    sitk.WriteImage(sitk.GetImageFromArray(picture), str(path))
    return path


def _framed(panel: NDArray[np.float32], height: int) -> NDArray[np.float32]:
    """The panel in the middle of a strip of this height, with a gap around it."""
    above = (height - panel.shape[0]) // 2
    below = height - panel.shape[0] - above
    return np.pad(panel, ((above + GAP, below + GAP), (GAP, GAP)), constant_values=-1.0)
