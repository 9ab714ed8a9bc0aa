"""Seconds and peak memory of a shipped model on this machine's CPU, one process a preset, and whole against tiled.

    python Testing/benchmarks/cpu_benchmark.py --model brain-sr --shape 192 192 152 --presets fast balanced

The volume is filled to its edges with random tissue, so that nothing is cropped away: the worst case of its size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "ScoreFusion"))

FACTOR = 4


def coarse_volume(shape: tuple[int, int, int], seed: int = 0) -> object:
    """A 4 mm slice volume whose target grid has `shape` voxels of 1 mm; tissue-like texture up to every edge."""
    from scorefusion.imaging.volume import Volume

    rng = np.random.default_rng(seed)
    size = (shape[0], shape[1], shape[2] // FACTOR)
    texture = sum(
        np.kron(rng.random([-(-n // step) for n in size]), np.ones((step,) * 3))[: size[0], : size[1], : size[2]]
        for step in (1, 3, 9)
    )
    return Volume((300 + 200 * texture).astype(np.float32)[None], np.diag([1.0, 1.0, FACTOR, 1.0]), source="benchmark")


def run_one(
    model: str, shape: tuple[int, int, int], preset: str, tile: int | None, out: Path | None
) -> dict[str, object]:
    """One run in this process."""
    import resource

    from scorefusion.pipeline import translate

    volume = coarse_volume(shape)
    started = time.monotonic()
    result = translate(volume, model, preset=preset, tile=tile, device="cpu", seed=1)  # type: ignore[arg-type]
    seconds = time.monotonic() - started
    if out is not None:
        np.save(out, result.volume.data)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "preset": preset,
        "seconds": round(seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2),
        "precision": result.provenance["Precision"],
    }


def main() -> None:
    """Print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="brain-sr")
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 192, 152))
    parser.add_argument("--presets", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--tile", type=int, default=64, help="compare whole and tiled with this tile; 0 = do not")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--child-tile", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = tuple(options.shape)
    if options.child:
        write(json.dumps(run_one(options.model, shape, options.child, options.child_tile, options.save)))
        return
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    rows = []
    write(f"volume {' x '.join(map(str, shape))}, model {options.model}, {os.cpu_count()} CPU threads\n")
    write("| preset | seconds | peak memory (GiB) | precision |\n|---|---|---|---|")
    for preset in options.presets:
        row = child(options, preset, None, folder / f"whole-{os.getpid()}.npy" if preset == "fast" else None)
        write(f"| {row['preset']} | {row['seconds']} | {row['peak_gib']} | {row['precision']} |")
        rows.append(row)
    summary: dict[str, object] = {"rows": rows}
    if options.tile and "fast" in options.presets:
        whole, tiled = (folder / f"{name}-{os.getpid()}.npy" for name in ("whole", "tiled"))
        child(options, "fast", options.tile, tiled)
        a, b = np.load(whole), np.load(tiled)
        difference = float(np.abs(a - b).max() / (a.max() - a.min()))
        write(f"\nwhole against tiles of {options.tile}: largest difference {difference:.1e} of the intensity range")
        summary["tiled_difference"] = difference
        whole.unlink()
        tiled.unlink()
    write(json.dumps(summary))


def child(options: argparse.Namespace, preset: str, tile: int | None, save: Path | None) -> dict[str, object]:
    """A run in a process of its own, so that peaks do not mix."""
    command = [
        sys.executable,
        __file__,
        "--model",
        options.model,
        "--shape",
        *map(str, options.shape),
        "--child",
        preset,
    ]
    command += ["--child-tile", str(tile)] if tile else []
    command += ["--save", str(save)] if save else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def write(text: str) -> None:
    """Standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
