"""NIfTI headers, read by nibabel and checked field by field: nibabel mends some lies silently, and we mend none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from scorefusion.errors import GeometryError
from scorefusion.imaging.grid import Grid
from scorefusion.imaging.source import (
    Described,
    refuse,
    refuse_damaged,
    refuse_header,
    refuse_unplaced,
    unpacked_start,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = {348: "n+1", 540: "n+2"}
"""Bytes of the header, and the magic word that goes with them."""

TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By NIfTI's code for a unit of length; unknown (0) is millimetres to everyone."""


def describe_nifti(path: Path, stream: BinaryIO) -> Described:
    """What the header of a NIfTI file says.

    Raises:
        VolumeError: it is not that of one scalar volume or a series of them.
    """
    packed = path.name.lower().endswith(".gz")
    header = _header(path, unpacked_start(stream, 540, "gzip" if packed else "raw"))
    number = int(header["dim"][0])
    sizes = tuple(int(n) for n in header["dim"][1 : number + 1])
    if not 1 <= number <= 7 or min(sizes) < 1:
        refuse_header(path, f"its sizes (dim) are {header['dim'].tolist()}")
    offset = float(header["vox_offset"])
    if not (header["sizeof_hdr"] <= offset < 1 << 40 and offset == int(offset)):
        refuse_header(path, f"its voxels (vox_offset) start at byte {offset:g}")
    slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    if slope == 0 or not np.isfinite(slope):  # by the standard, there is no scaling then
        slope, intercept = 1.0, 0.0
    if not np.isfinite(intercept):
        refuse_header(path, f"its intercept (scl_inter) is {intercept:g}")
    _, _, slice_axis = header.get_dim_info()
    return Described(
        sizes=sizes,
        spatial=(0, 1, 2),
        affine=_affine(path, header) if number >= 3 else np.eye(4),
        dtype=_dtype(path, header),
        start=0 if packed else int(offset),
        packing="gzip" if packed else "raw",
        prefix=int(offset) if packed else 0,
        slope=slope,
        intercept=intercept,
        slice_axis=slice_axis,
    )


def _header(path: Path, raw: bytes) -> Any:
    """As it is in the file: nibabel's checks would put a spacing of 1 where there is 0."""
    import nibabel as nib

    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        size = int.from_bytes(raw[:4], order)
        if size in SIZES and len(raw) >= size:
            kind = nib.Nifti1Header if size == 348 else nib.Nifti2Header
            header = kind(raw[:size], endianness="<" if order == "little" else ">", check=False)
            if header["magic"].item()[:3] == SIZES[size].encode():
                return header
    refuse_damaged(path)


def _dtype(path: Path, header: Any) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except Exception:  # nibabel's own, of several kinds
        refuse_header(path, f"it has numbers of an unknown type (datatype {int(header['datatype'])})")
    if dtype.fields is not None or dtype.kind not in "iuf":
        refuse(
            path,
            "holds colours or complex numbers, but one intensity for each voxel was expected",
            "Save the scalar volume, not a colour rendering or a raw reconstruction.",
        )
    return np.dtype(dtype)


def _affine(path: Path, header: Any) -> NDArray[np.float64]:
    """The sform if it is set and sound, else the qform; never a guess."""
    from nibabel.spatialimages import HeaderDataError

    code = int(header["xyzt_units"]) & 7
    if code not in TO_MM:
        refuse_header(path, f"its unit of length (xyzt_units) has the unknown code {code}")
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # by the standard, all else means 1
    affines = []
    for form in (header.get_sform, header.get_qform):
        try:
            affine, set_as = form(coded=True)
        except (ValueError, HeaderDataError):  # a quaternion that is no rotation
            continue
        if set_as > 0:
            affines.append(np.diag([*(TO_MM[code],) * 3, 1.0]) @ affine)
    for affine in affines:
        try:
            Grid((1, 1, 1), affine)
        except GeometryError:
            continue
        return affine
    if affines:
        return affines[0]  # the caller refuses it, in the words of Grid
    refuse_unplaced(path, "neither sform nor qform is set")
