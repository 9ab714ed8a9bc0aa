"""`sitkUtils`: volumes to SimpleITK images and back, with the change from RAS to LPS."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def PullVolumeFromSlicer(nodeObjectOrName: Any) -> Any:
    """Return a volume node as a SimpleITK image."""
    import SimpleITK

    node = slicer.util.getNode(nodeObjectOrName) if isinstance(nodeObjectOrName, str) else nodeObjectOrName
    image = SimpleITK.GetImageFromArray(slicer.util.arrayFromVolume(node), isVector=node.IsA("vtkMRMLVectorVolumeNode"))
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    ijk_to_lps = _LPS @ slicer.util.arrayFromVTKMatrix(matrix)
    spacing = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((ijk_to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(ijk_to_lps[:3, 3].tolist())
    return image


def PushVolumeToSlicer(
    sitkimage: Any, targetNode: Any = None, name: str | None = None, className: str = "vtkMRMLScalarVolumeNode"
) -> Any:
    """Put a SimpleITK image into a volume node."""
    import SimpleITK

    node = targetNode or slicer.mrmlScene.AddNewNodeByClass(
        className, slicer.mrmlScene.GetUniqueNameByString(name or "Volume")
    )
    slicer.util.updateVolumeFromArray(node, SimpleITK.GetArrayFromImage(sitkimage))
    ijk_to_lps = np.eye(4)
    ijk_to_lps[:3, :3] = np.reshape(sitkimage.GetDirection(), (3, 3)) * sitkimage.GetSpacing()
    ijk_to_lps[:3, 3] = sitkimage.GetOrigin()
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(_LPS @ ijk_to_lps))
    node.CreateDefaultDisplayNodes()
    return node
