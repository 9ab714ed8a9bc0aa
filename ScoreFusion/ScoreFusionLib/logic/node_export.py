"""Volume nodes to files that the worker can read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vtk.util import numpy_support

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.errors import RunError
from ScoreFusionLib.logic.nifti import write_steps


def voxels_from_node(node: Any) -> NDArray:
    """Return the voxels of a scalar volume node as a view, `(K, J, I)`.

    Raises:
        RunError: The node holds no voxels, a colour image, or a single slice.
    """
    image = node.GetImageData() if node is not None else None
    if image is None or image.GetPointData().GetScalars() is None:
        name = node.GetName() if node is not None else ""
        msg = _("'{volume}' holds no voxels. Choose another volume, or load it again.").format(volume=name)
        raise RunError(msg)
    if image.GetNumberOfScalarComponents() != 1:
        msg = _(
            "'{volume}' has {count} values in each voxel; a grey volume with one is expected. Convert it first with "
            "the module Vector to Scalar Volume."
        ).format(volume=node.GetName(), count=image.GetNumberOfScalarComponents())
        raise RunError(msg)
    shape = image.GetDimensions()
    if min(shape) < 2:
        msg = _("'{volume}' is {shape} voxels large: one slice is not enough. Choose a 3D volume.").format(
            volume=node.GetName(), shape=" x ".join(map(str, shape))
        )
        raise RunError(msg)
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape[::-1])


def export_steps(node: Any, affine: NDArray[np.float64], path: Path) -> Iterator[None]:
    """Write a node to an uncompressed NIfTI file, in steps, without a change to the scene.

    Args:
        node: Scalar volume node.
        affine: float64 (4, 4), voxel index to RAS mm, in the frame of the run.
        path: Ends in `.nii`.
    """
    yield from write_steps(path, voxels_from_node(node), affine)
