"""Stands in for `python -m scorefusion`: the same command line and the same JSON lines, with repeated voxels for a
model.

`FAKE_WORKER` in the environment chooses how it behaves: `ok`, `slow`, `junk`, `error`, `crash`, `silent`, `no_torch`,
or `stubborn` (ignores SIGTERM and a closed input, with a child that does so too).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np

BRIGHTER = 7.0  # for each further scan


def emit(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> int:
    options = read_options()
    behaviour = os.environ.get("FAKE_WORKER", "ok")
    if behaviour == "no_torch":
        sys.stderr.write("Traceback (most recent call last):\nModuleNotFoundError: No module named 'torch'\n")
        return 1
    if behaviour == "stubborn":
        become_stubborn(options)
    elif options.stop_on_stdin_close:
        threading.Thread(target=exit_when_input_closes, daemon=True).start()
    if behaviour == "junk":
        sys.stdout.write("a warning of some library\n{not json\n[1, 2]\n")
        sys.stderr.write("Grüße aus der Bibliothek\n")
    emit(event="log", message=f"fake worker, {os.getpid()}")
    if behaviour == "error":
        # Like the engine, it knows a volume by the path of its file alone.
        message = f"'{options.base}' is constant: every voxel is 0. Choose another volume."
        emit(event="error", kind="VolumeError", message=message)
        return 2
    work(10 if behaviour != "slow" else 400, 0.02)
    if behaviour == "crash":
        sys.stderr.write("last words\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    if behaviour == "silent":
        return 0
    write_result(options)
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["translate"])
    parser.add_argument("base", type=Path)
    parser.add_argument("--input", action="append", default=[])
    parser.add_argument("--stack", action="append", type=Path, default=[])
    parser.add_argument("--no-register", action="store_true")
    parser.add_argument("--skip-unregistered", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--uncertainty", type=Path)
    for name in ("--model", "--preset", "--device", "--axis"):
        parser.add_argument(name)
    for name in ("--seed", "--steps", "--samples"):
        parser.add_argument(name, type=int)
    for name in ("--spacing", "--thickness"):
        parser.add_argument(name, type=float)
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--stop-on-stdin-close", action="store_true")
    return parser.parse_args()


def work(steps: int, seconds: float) -> None:
    for step in range(steps):
        emit(event="progress", done=step, total=steps, stage="sampling", eta_s=(steps - step) * seconds)
        time.sleep(seconds)


def write_result(options: argparse.Namespace) -> None:
    image = nib.load(options.base)
    data = np.asanyarray(image.dataobj).astype(np.float32)
    affine = image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axis = int(np.argmax(spacing))
    factor = max(1, round(float(spacing[axis] / spacing.min())))
    fine = affine.copy()
    fine[:3, axis] /= factor
    # The outer corner of the first voxel stays where it was.
    fine[:3, 3] += (affine[:3, axis] / 2) * (1 / factor - 1)
    # Each further scan makes the result a little brighter, so that one with guides differs from one without.
    result = np.repeat(data, factor, axis=axis) + BRIGHTER * (len(options.input) + len(options.stack))
    save(result, fine, options.output)
    if options.uncertainty is not None:
        save(np.abs(np.gradient(result, axis=axis)), fine, options.uncertainty)
    sidecar = options.output.with_suffix(".json")
    warning = {"code": "fake", "message": f"'{options.base}' went through the fake worker ({options.base.name})."}
    record = {
        "Model": {"Id": options.model, "Sha256": "0" * 64},
        "Seed": options.seed,
        "Registration": [moved(scan, affine, registered=not options.no_register) for scan in options.input],
        "Sources": {"first": {"Name": options.base.name}},
        "Warnings": [warning],
    }
    sidecar.write_text(json.dumps(record))
    emit(event="warning", **warning)
    emit(
        event="result",
        output=str(options.output),
        uncertainty=str(options.uncertainty) if options.uncertainty else None,
        provenance=str(sidecar),
        quality={"measurement_residual_max": 0.001, "mean_uncertainty": 2.5},
        seconds=0.2,
    )


def moved(scan: str, base: np.ndarray, *, registered: bool) -> dict[str, object]:
    """The record of a guide: how far its first voxel lies from the base's, in place of a registration."""
    name, path = scan.split("=", 1)
    distance = float(np.linalg.norm(nib.load(path).affine[:3, 3] - base[:3, 3]))
    facts = {"Input": name, "Name": Path(path).name, "Registered": registered, "Used": True}
    if not registered:
        return {**facts, "MovedMm": 0.0, "TurnedDegrees": 0.0, "MetricBefore": None, "MetricAfter": None}
    return {**facts, "MovedMm": distance, "TurnedDegrees": 1.1, "MetricBefore": 0.1, "MetricAfter": 0.3}


def save(data: np.ndarray, affine: np.ndarray, path: Path) -> None:
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)


def become_stubborn(options: argparse.Namespace) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    emit(event="progress", done=0, total=10, stage="sampling")
    emit(event="log", message=f"child {child.pid}")
    time.sleep(60)


def exit_when_input_closes() -> None:
    os.read(0, 1)
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
