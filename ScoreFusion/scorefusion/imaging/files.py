"""Volumes from files and to files.

Headers are checked field by field (`nifti`, `nrrd`, `metaimage`), voxels are read to their checksum (`source`), and
nibabel and SimpleITK write. What cannot be used is refused, in words that name the file and the way out, so that the
rest of the engine may trust a `Volume`: finite, three-dimensional, not constant, with a sound affine. Writing is
atomic: a file with the final name is complete, whatever happens.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from scorefusion.documents import read_json
from scorefusion.errors import DocumentError, VolumeError
from scorefusion.imaging.atomic import hidden_folder
from scorefusion.imaging.grid import Grid
from scorefusion.imaging.metaimage import describe_metaimage
from scorefusion.imaging.nifti import describe_nifti
from scorefusion.imaging.nrrd import describe_nrrd
from scorefusion.imaging.source import DICOM_HINT, MOST_VOXELS, Described, opened, read_voxels, refuse, short
from scorefusion.imaging.volume import THICKEST_MM, THINNEST_MM, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NIFTI_SUFFIXES = (".nii", ".nii.gz")
READERS: dict[str, Callable[[Path, BinaryIO], Described]] = {
    ".nii": describe_nifti,
    ".nii.gz": describe_nifti,
    ".nrrd": describe_nrrd,
    ".nhdr": describe_nrrd,
    ".mha": describe_metaimage,
    ".mhd": describe_metaimage,
}
READABLE_SUFFIXES = tuple(READERS)
WRITABLE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha")
"""Formats of one file each: a header with a separate data file could not be replaced atomically."""

LONGEST_SIDECAR = 1 << 24  # bytes
CONVERT_HINT = "Convert it first, for example by loading it in 3D Slicer and saving it as .nii.gz or .nrrd."


def read_volume(path: str | os.PathLike[str], frame: int | None = None) -> Volume:
    """Read a 3D volume.

    Args:
        path: a file in NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd) format.
        frame: which one to take from a file with several volumes or several values for each voxel, from 0.

    Returns:
        One channel, in the units of the file. `slice_thickness` comes from the BIDS sidecar beside the file, if any.

    Raises:
        VolumeError: the file is missing, unreadable or not a usable volume; the message says what to do.
        GeometryError: its place in space is not usable.
    """
    path = expanded(path)
    with opened(path) as (stream, digest):
        described = _describe(path, stream)
        chosen = _select_frame(path, described, frame)
        grid = _grid(path, described)
        digests = [(path.name, digest)]
        if described.voxels is None:
            data = read_voxels(path, stream, described, chosen)
        else:
            with _naming(path), opened(described.voxels) as (apart, digest):
                data = read_voxels(described.voxels, apart, described, chosen)
                digests.append((described.voxels.name, digest))
    thickness, sidecar_axis = _read_sidecar(sidecar_path(path))
    axis = sidecar_axis if sidecar_axis is not None else _slice_axis(grid, described.slice_axis)
    volume = Volume(
        data[None],
        grid.affine,
        slice_thickness=thickness,
        slice_axis=axis,
        source=str(path),
        digests=tuple(digests),
    )
    volume.check_voxels()
    return volume


def read_grid(path: str | os.PathLike[str], frame: int | None = None) -> Grid:
    """Where the voxels of a file lie, from its header alone: blind to a damaged rest.

    Args:
        path: as for `read_volume`.
        frame: as for `read_volume`.

    Raises:
        VolumeError: the file is missing, or its header is not that of a usable volume.
        GeometryError: its place in space is not usable.
    """
    path = expanded(path)
    with opened(path) as (stream, _):
        described = _describe(path, stream)
    _select_frame(path, described, frame)
    return _grid(path, described)


def write_volume(volume: Volume, path: str | os.PathLike[str]) -> Path:
    """Write a one-channel volume as float32; the file appears under its name only when it is complete.

    Args:
        volume: `(1, I, J, K)`.
        path: ends in .nii, .nii.gz, .nrrd or .mha. A file of this name is replaced.

    Returns:
        The path written.
    """
    path = check_output_path(path)
    if volume.data.shape[0] != 1:
        msg = f"'{path}' can hold one channel, but the volume has {volume.data.shape[0]}. Write each to its own file."
        raise VolumeError(msg)
    suffix = _suffix(path, WRITABLE_SUFFIXES) or ""
    try:
        with hidden_folder(path.parent) as folder:
            partial = folder / f"volume{suffix}"  # the suffix selects the format
            (_write_nifti if suffix in NIFTI_SUFFIXES else _write_itk)(volume, partial)
            partial.replace(path)
    except (OSError, RuntimeError) as error:
        msg = f"'{path}' could not be written: {_first_line(error)}. Check the free space and rights of its folder."
        raise VolumeError(msg) from error
    return path


def check_output_path(path: str | os.PathLike[str]) -> Path:
    """Find out before hours of work whether the result can be written. Returns the path, `~` expanded."""
    path = expanded(path)
    another = "Choose another name."
    try:
        if path.is_dir():
            what = "is a folder, but the output must be a file"
            refuse(path, what, "Add a file name, for example 'result.nii.gz'.")
        suffix = _suffix(path, WRITABLE_SUFFIXES)
        if suffix is None:
            fix = f"End the name in one of: {', '.join(WRITABLE_SUFFIXES)}."
            refuse(path, "has no suffix that can be written", fix)
        if suffix not in NIFTI_SUFFIXES:
            os.fspath(path).encode()  # ITK ends the process at other names
        if not path.parent.is_dir():
            refuse(
                path, f"cannot be written: the folder '{path.parent}' does not exist", "Create it, or choose another."
            )
        if not os.access(path.parent, os.W_OK):
            refuse(path, f"cannot be written: no right to write in '{path.parent}'", "Choose another folder.")
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(path.stat().st_mode):
                refuse(path, "is no ordinary file, but a device, a pipe or a socket", another)
            if not os.access(path, os.W_OK):
                refuse(path, "exists and is write-protected", "Choose another name, or lift the protection.")
    except UnicodeEncodeError:
        refuse(path, "has a name that is not UTF-8, which this format cannot have", f"{another} Or end it in .nii.gz.")
    except OSError as error:  # a circle of links, a name too long, a folder that may not be entered
        shown = path if len(str(path)) < 300 else Path(f"{str(path)[:100]}...")
        refuse(shown, f"cannot be written: {error.strerror}", another)
    return path


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path as the user means it: `~` and `~somebody` are home folders."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        msg = f"'{path}' begins with the home folder of a user who has none. Write the whole path."
        raise VolumeError(msg) from error


def sidecar_path(volume: Path) -> Path:
    """``scan.nii.gz`` -> ``scan.json``, where BIDS, and our record, tell about a volume."""
    suffix = _suffix(volume, READABLE_SUFFIXES) or volume.suffix
    return volume.parent / (volume.name[: len(volume.name) - len(suffix)] + ".json")  # a folder may have no name


# ---- Reading ----


def _describe(path: Path, stream: BinaryIO) -> Described:
    """What the header says; refuses what is no volume by its name."""
    suffix = _suffix(path, READABLE_SUFFIXES)
    if suffix is None:
        fix = DICOM_HINT if path.suffix.lower() in {".dcm", ".ima", ""} else CONVERT_HINT
        refuse(path, f"has an unknown suffix; these can be read: {', '.join(READABLE_SUFFIXES)}", fix)
    return READERS[suffix](path, stream)


def _grid(path: Path, described: Described) -> Grid:
    """Where the voxels lie; refuses what no scan is."""
    if np.prod(described.spatial_shape, dtype=object) > MOST_VOXELS:
        size = " x ".join(str(n) for n in described.spatial_shape)
        refuse(path, f"has {size} voxels, if its header is right: more than can be worked with", "Crop it first.")
    with _naming(path):
        grid = Grid(described.spatial_shape, described.affine)
        grid.check_plausible()
    return grid


def _select_frame(path: Path, described: Described, frame: int | None) -> int:
    """The number of the one volume that is wanted; refuses files that do not hold it."""
    size = " x ".join(str(n) for n in described.sizes)
    if len(described.sizes) < 3 or min(described.spatial_shape) < 2:
        refuse(
            path,
            f"is a single slice ({size} voxels), but a 3D volume was expected",
            "Join the slices of the series into one volume, for example with `dcm2niix` or in 3D Slicer.",
        )
    last = described.frames - 1
    if last == 0:
        if frame not in (None, 0):
            refuse(path, f"holds one volume, so there is no frame {frame}", "Leave the frame out.")
        return 0
    if sum(n > 1 for axis, n in enumerate(described.sizes) if axis not in described.spatial) > 1:
        refuse(
            path, f"has {len(described.sizes)} dimensions ({size})", "Save the 3D volume you need as a file of its own."
        )
    if frame is None:
        refuse(
            path,
            f"holds {last + 1} values for each voxel (colours, vectors or frames), but one was expected"
            if described.interleaved
            else f"is 4D ({size}): it holds {last + 1} volumes, but one was expected",
            f"Choose one from 0 to {last}: `--frame 0` on the command line, `frame=0` in Python.",
        )
    if not 0 <= frame <= last:
        refuse(path, f"has no frame {frame}", f"Choose one from 0 to {last}.")
    return frame


def _read_sidecar(sidecar: Path) -> tuple[float | None, int | None]:
    """Slice thickness (mm) and slice axis from the BIDS sidecar, None where it says nothing."""
    try:
        if not sidecar.is_file():
            return None, None
    except OSError:  # a name that is too long to exist
        return None, None
    try:
        fields = read_json(sidecar, largest=LONGEST_SIDECAR, foreign=True)
    except DocumentError as error:
        msg = f"{error}, but lies beside the volume. Mend or remove it."
        raise VolumeError(msg) from error
    if not isinstance(fields, dict):
        return None, None  # some other file that happens to have this name
    thickness = fields.get("SliceThickness")
    if thickness is not None:
        is_number = isinstance(thickness, (int, float)) and not isinstance(thickness, bool)
        if not (is_number and THINNEST_MM <= thickness <= THICKEST_MM):
            what = f"has SliceThickness {short(thickness)}, not {THINNEST_MM:g} to {THICKEST_MM:g} mm"
            refuse(sidecar, what, "Correct or remove it.")
        thickness = float(thickness)
    direction = str(fields.get("SliceEncodingDirection", ""))[:1]
    return thickness, "ijk".index(direction) if direction in tuple("ijk") else None


def _slice_axis(grid: Grid, header_axis: int | None) -> int | None:
    """The axis of clearly the largest spacing; where there is none, the one the header names."""
    order = np.argsort(grid.spacing)
    largest, second = grid.spacing[order[2]], grid.spacing[order[1]]
    # Tools that turn axes often forget the header field, so what can be measured goes first.
    return int(order[2]) if largest > 1.05 * second else header_axis


# ---- Writing ----


def _write_nifti(volume: Volume, path: Path) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(volume.data[0], volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    if not np.allclose(image.get_qform(), volume.affine, atol=1e-3):
        image.set_qform(None, code=0)  # a slight shear has no quaternion; better one answer than two
    nib.save(image, path)


def _write_itk(volume: Volume, path: Path) -> None:
    import SimpleITK as sitk

    from scorefusion.imaging.itk import image_from_array

    sitk.WriteImage(image_from_array(volume.data[0], volume.grid), str(path), useCompression=True)


# ---- Words ----


def _suffix(path: Path, known: tuple[str, ...]) -> str | None:
    """The suffix of `path` among the known ones, ".nii.gz" before ".gz"; case does not matter."""
    return next((s for s in sorted(known, key=len, reverse=True) if path.name.lower().endswith(s)), None)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A grid knows no file: add the name to what it complains about."""
    try:
        yield
    except VolumeError as error:
        msg = f"'{path}': {error}"
        raise type(error)(msg) from error


def _first_line(error: BaseException) -> str:
    """The telling line of an exception; SimpleITK's come with source paths and stacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
