"""Volumes from files and to files.

NIfTI goes through nibabel, NRRD and MetaImage through SimpleITK. What cannot be used is refused here, in words that
name the file and the way out, so that the rest of the engine may trust a `Volume`: finite, three-dimensional, not
constant, with a sound affine. Writing is atomic: a file with the final name is complete, whatever happens.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np

from scorefusion.errors import GeometryError, VolumeError
from scorefusion.imaging.atomic import hidden_folder
from scorefusion.imaging.grid import Grid
from scorefusion.imaging.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nibabel.nifti1 import Nifti1Image
    from numpy.typing import NDArray

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
READABLE_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
WRITABLE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha")
"""Formats of one file each: a header with a separate data file could not be replaced atomically."""

TO_MM = {"meter": 1000.0, "micron": 0.001}
"""NIfTI's other units of length."""

CONVERT_HINT = "Convert it first, for example by loading it in 3D Slicer and saving it as .nii.gz or .nrrd."
DICOM_HINT = "Convert DICOM with `dcm2niix`, or load it in 3D Slicer and save the volume as .nii.gz or .nrrd."


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
    suffix = _check_readable(path)
    data, affine, header_axis = (_read_nifti if suffix in NIFTI_SUFFIXES else _read_itk)(path, frame)
    with _naming(path):
        grid = Grid(data.shape, affine)
    thickness, sidecar_axis = _read_sidecar(sidecar_path(path))
    axis = sidecar_axis if sidecar_axis is not None else _slice_axis(grid, header_axis)
    volume = Volume(data[None], grid.affine, slice_thickness=thickness, slice_axis=axis, source=str(path))
    volume.check_voxels()
    return volume


def read_grid(path: str | os.PathLike[str], frame: int | None = None) -> Grid:
    """Where the voxels of a file lie, from its header alone: cheap, and blind to a damaged rest.

    Args:
        path: as for `read_volume`.
        frame: as for `read_volume`.

    Raises:
        VolumeError: the file is missing, or its header is not that of a usable volume.
        GeometryError: its place in space is not usable.
    """
    path = expanded(path)
    if _check_readable(path) in NIFTI_SUFFIXES:
        image, _ = _open_nifti(path, frame)
        with _naming(path):
            i, j, k = image.shape[:3]
            return Grid((i, j, k), _nifti_affine(path, image))
    import SimpleITK as sitk

    from scorefusion.imaging.itk import get_grid

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except Exception as error:
        _refuse_what_itk_refuses(path, error)
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:  # rare, and its header is not simple
        data, affine, _ = _read_itk(path, frame)
        return Grid(data.shape, affine)
    _select_frame(path, reader.GetSize(), frame)
    if path.suffix.lower() in {".nrrd", ".nhdr"} and not reader.HasMetaDataKey("NRRD_space"):
        _refuse_unplaced(path, "the field 'space' is missing")
    with _naming(path):
        return get_grid(reader)


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
            _refuse(path, what, "Add a file name, for example 'result.nii.gz'.")
        suffix = _suffix(path, WRITABLE_SUFFIXES)
        if suffix is None:
            fix = f"End the name in one of: {', '.join(WRITABLE_SUFFIXES)}."
            _refuse(path, "has no suffix that can be written", fix)
        if suffix not in NIFTI_SUFFIXES:
            os.fspath(path).encode()  # ITK ends the process at other names
        if not path.parent.is_dir():
            _refuse(
                path, f"cannot be written: the folder '{path.parent}' does not exist", "Create it, or choose another."
            )
        if not os.access(path.parent, os.W_OK):
            _refuse(path, f"cannot be written: no right to write in '{path.parent}'", "Choose another folder.")
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(path.stat().st_mode):
                _refuse(path, "is no ordinary file, but a device, a pipe or a socket", another)
            if not os.access(path, os.W_OK):
                _refuse(path, "exists and is write-protected", "Choose another name, or lift the protection.")
    except UnicodeEncodeError:
        _refuse(path, "has a name that is not UTF-8, which this format cannot have", f"{another} Or end it in .nii.gz.")
    except OSError as error:  # a circle of links, a name too long, a folder that may not be entered
        shown = path if len(str(path)) < 300 else Path(f"{str(path)[:100]}...")
        _refuse(shown, f"cannot be written: {error.strerror}", another)
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
    return volume.with_name(volume.name[: len(volume.name) - len(suffix)] + ".json")


# ---- Reading ----


def _check_readable(path: Path) -> str:
    """The suffix of a file that looks like a volume; refuses everything else."""
    if path.is_dir():
        _refuse(path, "is a folder, but a volume file was expected", DICOM_HINT)
    if not path.exists():
        _refuse(path, "does not exist", "Check the spelling and the folder.")
    if not os.access(path, os.R_OK):
        _refuse(path, "may not be read by you", "Ask its owner for the right, or copy it.")
    suffix = _suffix(path, READABLE_SUFFIXES)
    if suffix is None:
        fix = DICOM_HINT if path.suffix.lower() in {".dcm", ".ima", ""} else CONVERT_HINT
        _refuse(path, f"has an unknown suffix; these can be read: {', '.join(READABLE_SUFFIXES)}", fix)
    return suffix


def _read_nifti(path: Path, frame: int | None) -> tuple[NDArray[np.float32], NDArray[np.float64], int | None]:
    """`(I, J, K)` data, affine, and the slice axis if the header names one."""
    image, index = _open_nifti(path, frame)
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
            # Reads this frame only, and applies slope and intercept.
            data = np.ascontiguousarray(image.dataobj[index], dtype=np.float32)
    except MemoryError:
        raise
    except Exception as error:
        _refuse_corrupt(path, error)
    _, _, slice_axis = image.header.get_dim_info()
    return data, _nifti_affine(path, image), slice_axis


def _open_nifti(path: Path, frame: int | None) -> tuple[Nifti1Image, tuple[slice | int, ...]]:
    """The image, its voxels not yet read, and the index of the one volume that is wanted."""
    import nibabel as nib

    try:
        image = nib.load(path)
    except Exception as error:  # nibabel, gzip and numpy each have their own
        _refuse_corrupt(path, error)
    if not isinstance(image, (nib.Nifti1Image, nib.Nifti2Image)):
        _refuse(path, "is not a NIfTI file in spite of its name", CONVERT_HINT)
    shape, dtype = image.shape, image.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "biuf":
        _refuse(
            path,
            "holds colours or complex numbers, but one intensity for each voxel was expected",
            "Save the scalar volume, not a colour rendering or a raw reconstruction.",
        )
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    selected = _select_frame(path, shape, frame)
    return image, (slice(None),) * 3 + selected + (0,) * (len(image.shape) - 3 - len(selected))


def _nifti_affine(path: Path, image: Nifti1Image) -> NDArray[np.float64]:
    """The sform if it is set and sound, else the qform; never a guess."""
    from nibabel.spatialimages import HeaderDataError

    with image.file_map["image"].get_prepare_fileobj("rb") as stream:
        # As it is on disk: nibabel's own copy has been mended, with a spacing of 1 where there was 0.
        header = type(image.header).from_fileobj(stream, check=False)
    scale = np.diag([*(TO_MM.get(image.header.get_xyzt_units()[0], 1.0),) * 3, 1.0])
    affines = []
    for form in (header.get_sform, header.get_qform):
        try:
            affine, code = form(coded=True)
        except (ValueError, HeaderDataError):  # a quaternion that is no rotation
            continue
        if code > 0:
            affines.append(scale @ affine)
    for affine in affines:
        try:
            Grid((1, 1, 1), affine)
        except GeometryError:
            continue
        return affine
    if affines:
        return affines[0]  # the caller refuses it, in the words of Grid
    _refuse_unplaced(path, "neither sform nor qform is set")


def _read_itk(path: Path, frame: int | None) -> tuple[NDArray[np.float32], NDArray[np.float64], int | None]:
    """`(I, J, K)` data, affine, and None: these headers name no slice axis."""
    import SimpleITK as sitk

    from scorefusion.imaging.itk import array_from_image, get_grid

    try:
        image = sitk.ReadImage(str(path))
    except Exception as error:
        _refuse_what_itk_refuses(path, error)
    size = image.GetSize()
    values = image.GetNumberOfComponentsPerPixel()
    if image.GetPixelIDValue() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        _refuse(path, "holds complex numbers", "Save the magnitude as a volume of its own.")
    selected = _select_frame(
        path, size if values == 1 else (*size, values), frame, "volumes" if values == 1 else "values"
    )
    # ITK itself writes no space for 4D files, so there its absence tells nothing.
    if path.suffix.lower() in {".nrrd", ".nhdr"} and len(size) == 3 and not image.HasMetaDataKey("NRRD_space"):
        _refuse_unplaced(path, "the field 'space' is missing")
    if len(size) == 4:
        image = sitk.Extract(image, [*size[:3], 0], [0, 0, 0, *(selected or (0,))])
    elif values > 1:
        image = sitk.VectorIndexSelectionCast(image, selected[0])
    with _naming(path):
        affine = get_grid(image).affine
    return array_from_image(image), affine, None


def _select_frame(
    path: Path, shape: tuple[int, ...], frame: int | None, what: Literal["volumes", "values"] = "volumes"
) -> tuple[int, ...]:
    """The index behind the three spatial axes: `()` for a 3D file, `(frame,)` for a 4D one. Refuses all others."""
    size = " x ".join(str(n) for n in shape)
    if len(shape) < 3 or min(shape[:3]) < 2:
        _refuse(
            path,
            f"is a single slice ({size} voxels), but a 3D volume was expected",
            "Join the slices of the series into one volume, for example with `dcm2niix` or in 3D Slicer.",
        )
    if len(shape) == 3:
        if frame not in (None, 0):
            _refuse(path, f"holds one volume, so there is no frame {frame}", "Leave the frame out.")
        return ()
    if len(shape) > 4:
        _refuse(path, f"has {len(shape)} dimensions ({size})", "Save the 3D volume you need as a file of its own.")
    last = shape[3] - 1
    if frame is None:
        _refuse(
            path,
            f"is 4D ({size}): it holds {shape[3]} volumes, but one was expected"
            if what == "volumes"
            else f"holds {shape[3]} values for each voxel (colours, vectors or frames), but one was expected",
            f"Choose one from 0 to {last}: `--frame 0` on the command line, `frame=0` in Python.",
        )
    if not 0 <= frame <= last:
        _refuse(path, f"has no frame {frame}", f"Choose one from 0 to {last}.")
    return (frame,)


def _read_sidecar(sidecar: Path) -> tuple[float | None, int | None]:
    """Slice thickness (mm) and slice axis from the BIDS sidecar, None where it says nothing."""
    if not sidecar.is_file():
        return None, None
    try:
        fields = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        _refuse(
            sidecar, f"is no readable JSON ({_first_line(error)}), but lies beside the volume", "Mend or remove it."
        )
    if not isinstance(fields, dict):
        return None, None  # some other file that happens to have this name
    thickness = fields.get("SliceThickness")
    if thickness is not None:
        is_number = isinstance(thickness, (int, float)) and not isinstance(thickness, bool)
        if not (is_number and 0 < thickness < np.inf):
            _refuse(sidecar, f"has SliceThickness {thickness!r}, not millimetres above zero", "Correct or remove it.")
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
    except GeometryError as error:
        msg = f"'{path}': {error}"
        raise GeometryError(msg) from error


def _refuse(path: Path, what: str, fix: str, kind: type[VolumeError] = VolumeError) -> NoReturn:
    msg = f"'{path}' {what}. {fix}"
    raise kind(msg)


def _refuse_unplaced(path: Path, why: str) -> NoReturn:
    what = f"does not say how it lies in space ({why}), so left and right are unknown"
    _refuse(path, what, "Load it in 3D Slicer, check left and right, and save it again.")


def _refuse_what_itk_refuses(path: Path, error: Exception) -> NoReturn:
    # ITK checks these itself while it reads, in words for programmers.
    if "Refusing to change" in str(error):
        what = "has a header with zero spacing or with axes that lie in one plane"
        _refuse(path, what, "Correct the header, or export the file again.", GeometryError)
    _refuse_corrupt(path, error)


def _refuse_corrupt(path: Path, error: Exception) -> NoReturn:
    # What the library said is kept as the cause; it would not help the reader of this message.
    msg = f"'{path}' cannot be read: it is truncated, damaged or of another format. Copy or export it again."
    raise VolumeError(msg) from error


def _first_line(error: BaseException) -> str:
    """The telling line of an exception; SimpleITK's come with source paths and stacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
