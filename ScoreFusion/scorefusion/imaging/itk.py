"""The one crossing to SimpleITK, which has other conventions than ours.

SimpleITK's world is LPS (x to the left, y to the back) and its arrays are indexed `[k, j, i]`. Both facts are handled
in the functions below, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scorefusion.errors import RequestError
from scorefusion.imaging.grid import Grid

if TYPE_CHECKING:
    import SimpleITK as sitk
    from numpy.typing import NDArray

FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS to LPS, and back."""


def set_grid(image: sitk.Image, grid: Grid) -> None:
    """RAS to LPS: give `image` the place in space that `grid` has."""
    affine = FLIP_XY @ grid.affine
    image.SetSpacing(grid.spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    direction = affine[:3, :3] / grid.spacing
    direction[np.abs(direction) < 1e-12] = 0.0  # ITK inverts this, and fails at numbers such as 1e-310
    image.SetDirection(direction.ravel().tolist())


def get_grid(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    """LPS to RAS: the place in space that `image` has, or a file's header."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    i, j, k = image.GetSize()
    return Grid((i, j, k), FLIP_XY @ affine)


def image_from_array(data: NDArray[np.float32], grid: Grid) -> sitk.Image:
    """`(I, J, K)` on a RAS grid to a SimpleITK image."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(data.transpose(2, 1, 0))
    set_grid(image, grid)
    return image


def array_from_image(image: sitk.Image) -> NDArray[np.float32]:
    """A SimpleITK image to `(I, J, K)`, or `(I, J, K, N)` if it has N values for each voxel."""
    import SimpleITK as sitk

    data = sitk.GetArrayFromImage(image)
    return np.ascontiguousarray(np.moveaxis(data, (2, 1, 0), (0, 1, 2)), dtype=np.float32)


def transform_from_matrix(matrix: NDArray[np.float64], centre: NDArray[np.float64]) -> sitk.Euler3DTransform:
    """RAS to LPS: a rigid matrix `(4, 4)` of points as a transform that turns about `centre` (RAS mm)."""
    import SimpleITK as sitk

    flipped, middle = FLIP_XY @ matrix @ FLIP_XY, FLIP_XY[:3, :3] @ centre
    transform = sitk.Euler3DTransform()
    transform.SetCenter(middle.tolist())
    transform.SetMatrix(flipped[:3, :3].ravel().tolist(), 1e-6)
    transform.SetTranslation((flipped[:3, :3] @ middle + flipped[:3, 3] - middle).tolist())
    return transform


def matrix_from_transform(transform: sitk.Euler3DTransform) -> NDArray[np.float64]:
    """LPS to RAS: a rigid transform of points as a matrix `(4, 4)`."""
    matrix, centre = np.eye(4), np.array(transform.GetCenter())
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = centre + np.array(transform.GetTranslation()) - matrix[:3, :3] @ centre
    return FLIP_XY @ matrix @ FLIP_XY


def resample_channel(
    data: NDArray[np.float32], source: Grid, target: Grid, interpolation: str, fill: float | None
) -> NDArray[np.float32]:
    """Values of `data` `(I, J, K)` on `source` at the voxels of `target`; see `scorefusion.imaging.volume.resample`."""
    import SimpleITK as sitk

    interpolators = {"nearest": sitk.sitkNearestNeighbor, "linear": sitk.sitkLinear, "cubic": sitk.sitkBSpline}
    if interpolation not in interpolators:
        msg = f"Unknown interpolation '{interpolation}'. Choose one of: {', '.join(interpolators)}."
        raise RequestError(msg)
    resampler = sitk.ResampleImageFilter()
    i, j, k = target.spatial_shape
    resampler.SetSize((i, j, k))
    reference = sitk.Image([1, 1, 1], sitk.sitkUInt8)  # carries the LPS geometry, so that it is computed in one place
    set_grid(reference, target)
    resampler.SetOutputSpacing(reference.GetSpacing())
    resampler.SetOutputOrigin(reference.GetOrigin())
    resampler.SetOutputDirection(reference.GetDirection())
    resampler.SetInterpolator(interpolators[interpolation])
    resampler.SetDefaultPixelValue(float(data.min()) if fill is None else fill)
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    return array_from_image(resampler.Execute(image_from_array(data, source)))
