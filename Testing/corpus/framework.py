"""What a case is, how it is run, and who judges it.

Each case runs the whole command line, ``scorefusion translate``, with a tiny model in a forked child: a crash, a hang
or a closed stream of one case does not touch the next, and nothing is imported twice.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

CASE_FILES = (
    "cases_nifti",
    "cases_itk",
    "cases_damage",
    "cases_numbers",
    "cases_places",
    "cases_outputs",
    "cases_bundles",
)
USER_ERROR = 2
TIMEOUT = 60.0  # seconds; the slowest case takes two on an idle core
LONGEST_MESSAGE = 700  # characters: what a person reads


class Outcome(Enum):
    """How a run ended."""

    RIGHT = "right"
    ERROR = "clear error"
    WARNED = "warned"
    WRONG = "wrong"


@dataclass(frozen=True)
class Truth:
    """What the input shows, known without reading it.

    Attributes:
        data: `(I, J, K)` in the units of the file.
        affine: `(4, 4)`, voxel index to RAS millimetres.
    """

    data: Any
    affine: Any


@dataclass(frozen=True)
class Given:
    """What a case gives to the command line.

    Attributes:
        scan: the input volume.
        truth: what it shows; None = it must be refused, or only the result's soundness is checked.
        options: further arguments.
        model: "sr" (one input) or "translation" (t1, and optionally t2).
        output: name of the result.
        names: what a message must name; None = the scan's name.
        measured: the result, averaged over each input voxel, must equal the input (not so if the thickness differs).
        environment: variables of the run.
        may_change: files that others change meanwhile.
        changes_early: the scan may be another already when it is opened, so nobody knows the hash of what is read.
        inside: called in the run's own process before anything else; not with `fresh`.
        fresh: an interpreter of its own, for what is decided as Python starts. Seconds instead of milliseconds.
    """

    scan: Path
    truth: Truth | None = None
    options: Sequence[str] = ()
    model: str = "sr"
    output: str = "out.nii.gz"
    names: str | None = None
    measured: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    may_change: Sequence[str] = ()
    changes_early: bool = False
    inside: Callable[[], None] | None = None
    fresh: bool = False


Make = Callable[[Path], Given | Path]


@dataclass(frozen=True)
class Case:
    """A name, what makes the input, the outcomes that are right, and words of the message (a piece of it, any case)."""

    name: str
    make: Make
    expect: frozenset[Outcome]
    says: str = ""
    slow: bool = False


CASES: dict[str, Case] = {}


def _add(name: str, make: Make, expect: set[Outcome], says: str = "", slow: bool = False) -> None:
    assert name not in CASES, f"two cases are named {name!r}"
    CASES[name] = Case(name, make, frozenset(expect), says, slow)


def right(name: str, make: Make, slow: bool = False) -> None:
    """A case that must give the right result."""
    _add(name, make, {Outcome.RIGHT}, slow=slow)


def refused(name: str, make: Make, says: str = "", slow: bool = False) -> None:
    """A case that must end in a clear error whose message holds `says`."""
    _add(name, make, {Outcome.ERROR}, says, slow)


def warned(name: str, make: Make, says: str, slow: bool = False) -> None:
    """A case that must give the right result and a warning that holds `says`."""
    _add(name, make, {Outcome.WARNED}, says, slow)


def right_or_refused(name: str, make: Make, slow: bool = False) -> None:
    """A case where both are in order, such as a flipped bit of which nobody knows what it hits."""
    _add(name, make, {Outcome.RIGHT, Outcome.ERROR}, slow=slow)


def load_cases() -> dict[str, Case]:
    """All cases of all files."""
    for name in CASE_FILES:
        importlib.import_module(f"corpus.{name}")
    return CASES


# ---- Running ----


@dataclass(frozen=True)
class Verdict:
    """Of one case: how it ended, why that is wrong (empty if it is not), and how far the landmarks are off (mm)."""

    outcome: Outcome
    why: str = ""
    landmark_mm: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Run:
    """What one run of the command line left: exit code (negative: the signal), streams, files before and after."""

    code: int | None
    out: str
    err: str
    before: Mapping[str, str]
    after: Mapping[str, str]

    @property
    def changed(self) -> list[str]:
        """Files that are new, gone or different."""
        return sorted(name for name in {*self.before, *self.after} if self.before.get(name) != self.after.get(name))


def make_models(folder: Path) -> dict[str, Path]:
    """The tiny bundles that the cases run with, by name."""
    import torch
    from tiny_models import PRESETS, tiny_ensemble, write_tiny_bundle

    from scorefusion.fusion.inputs import InputLayout
    from scorefusion.fusion.rules import PlaneAverage

    presets = {"fast": PRESETS["fast"]}
    restorer = PlaneAverage(tiny_ensemble(InputLayout(slab_radius=1, plane_context=True, residual_gain=4.0)))
    write_tiny_bundle(folder / "sr", restorer, base="cubic", presets=presets)
    translator = PlaneAverage(tiny_ensemble(InputLayout(slab_radius=1), groups=((0,), (0, 1))))
    write_tiny_bundle(folder / "translation", translator, ("t1", "t2"), "translation", presets=presets)
    torch.set_num_threads(1)
    _warm_up(folder / "sr", folder)
    return {"sr": folder / "sr", "translation": folder / "translation"}


def _warm_up(model: Path, folder: Path) -> None:
    """One run in this very process: what it imports, no fork has to import again."""
    from typer.testing import CliRunner

    from corpus.makers import write
    from scorefusion.cli.app import app

    scan, output = write(folder / "scan.nii.gz"), folder / "out.nii.gz"
    arguments = ["translate", str(scan), "-o", str(output), "--model", str(model), "--device", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output


def judge(case: Case, models: Mapping[str, Path]) -> Verdict:
    """Run a case in a folder of its own and say how it ended."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="corpus-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve() / "here"
        folder.mkdir()
        given = case.make(folder)
        if isinstance(given, Path):
            given = Given(given)
        done = _run(given, models[given.model], folder)
        verdict = _verdict(case, given, done, folder)
    seconds = time.monotonic() - begin
    if verdict.outcome is not Outcome.WRONG and verdict.outcome not in case.expect:
        wanted = " or ".join(sorted(outcome.value for outcome in case.expect))
        why = f"ended with '{verdict.outcome.value}', not with '{wanted}'; {verdict.why or done.err.strip()[-300:]}"
        return Verdict(Outcome.WRONG, why, verdict.landmark_mm, seconds)
    return Verdict(verdict.outcome, verdict.why, verdict.landmark_mm, seconds)


def _run(given: Given, model: Path, folder: Path) -> Run:
    arguments = ["translate", os.fspath(given.scan), "-o", given.output, "--model", str(model), "--device", "cpu"]
    arguments += given.options
    before = _contents(folder)
    streams = [folder.parent / "stdout", folder.parent / "stderr"]
    with streams[0].open("wb") as out, streams[1].open("wb") as err:
        if given.fresh:
            command = [sys.executable, "-m", "scorefusion", *arguments]
            environment = {**os.environ, **given.environment}
            process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=err, start_new_session=True)  # fmt: skip
            pid = process.pid
        else:
            pid = os.fork()
            if pid == 0:
                _child(given, arguments, folder, out.fileno(), err.fileno())
    code = _wait(pid)
    texts = [stream.read_bytes().decode("utf-8", "backslashreplace") for stream in streams]
    return Run(code, *texts, before, _contents(folder))


def _child(given: Given, arguments: list[str], folder: Path, out: int, err: int) -> None:
    """Become a fresh command line; never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115, PTH123
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115, PTH123
        os.environ.update(given.environment)
        if given.inside is not None:
            given.inside()
        from scorefusion.cli import app as cli

        cli.main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(code)


def _wait(pid: int) -> int | None:
    """The exit code, or the negative signal; None after `TIMEOUT`, when the child is ended."""
    end = time.monotonic() + TIMEOUT
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.005)


def _contents(folder: Path) -> dict[str, str]:
    """Every file below `folder` with the hash of its content; folders and pipes by their kind."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            is_file = path.is_file() and not path.is_symlink()
            found[os.path.relpath(path, folder)] = sha256(path) if is_file else "no file"
    return found


def sha256(path: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- Judging ----


def _verdict(case: Case, given: Given, done: Run, folder: Path) -> Verdict:
    told = done.err + done.out
    if done.code is None:
        return Verdict(Outcome.WRONG, f"hangs: did not end in {TIMEOUT:g} s")
    if done.code < 0:
        return Verdict(Outcome.WRONG, f"crashed: {signal.Signals(-done.code).name}")
    if "Traceback (most recent call last)" in told:
        return Verdict(Outcome.WRONG, f"a traceback: {told.strip()[-400:]}")
    if done.code == USER_ERROR:
        return _refusal(case, given, done)
    if done.code != 0:
        return Verdict(Outcome.WRONG, f"exit code {done.code}: {told.strip()[-400:]}")
    why, landmark = _result(given, done, folder)
    if why:
        return Verdict(Outcome.WRONG, f"exit code 0, but {why}", landmark)
    if Outcome.WARNED in case.expect:
        warnings = [line for line in told.splitlines() if line.startswith("Warning: ")]
        if any(case.says.lower() in line.lower() for line in warnings):
            return Verdict(Outcome.WARNED, "", landmark)
    return Verdict(Outcome.RIGHT, "", landmark)


def _refusal(case: Case, given: Given, done: Run) -> Verdict:
    """A clear error is one line that names the input and says what is asked for; and no file changes."""
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    name = given.scan.name if given.names is None else given.names
    if len(errors) != 1:
        return Verdict(Outcome.WRONG, f"{len(errors)} lines of error: {done.err.strip()[-400:]}")
    message = errors[0]
    if name.encode("utf-8", "backslashreplace").decode() not in message:
        return Verdict(Outcome.WRONG, f"the message does not name {name!r}: {message}")
    if case.says.lower() not in message.lower():
        return Verdict(Outcome.WRONG, f"the message does not say {case.says!r}: {message}")
    if len(message) > LONGEST_MESSAGE:
        return Verdict(Outcome.WRONG, f"a message of {len(message)} characters: {message[:300]}")
    if set(done.changed) - set(given.may_change):
        return Verdict(Outcome.WRONG, f"an error, but files changed: {done.changed}")
    return Verdict(Outcome.ERROR, message)


def _result(given: Given, done: Run, folder: Path) -> tuple[str, float | None]:
    """What is wrong with the files of a result (empty if nothing), and how far its landmarks are off (mm)."""
    output = folder / given.output
    record = output.with_name(output.name.removesuffix(".gz").rpartition(".")[0] + ".json")
    if not (output.is_file() and record.is_file()):
        return f"{output.name} or {record.name} is missing; files: {sorted(done.after)}", None
    if set(done.changed) - {output.name, record.name, *given.may_change}:
        return f"other files changed, too: {done.changed}", None
    data, affine = read_independently(output)
    if not np.isfinite(data).all() or data.min() == data.max():
        return f"the result is not finite, or constant ({data.min()} to {data.max()})", None
    sources = json.loads(record.read_text(encoding="utf-8"))["Sources"]
    scan = Path(os.path.relpath(given.scan, folder)) if given.scan.is_absolute() else given.scan
    known = None if given.changes_early else done.before.get(os.fspath(scan))
    if known is not None and next(iter(sources.values()))["Sha256"] != known:
        return "the record's hash is not that of the input", None
    if given.truth is None:
        return "", None
    truth = np.asarray(given.truth.data, np.float64)
    moved = float(
        np.linalg.norm(_corners(truth.shape, given.truth.affine) - _corners(data.shape, affine), axis=-1).max()
    )
    allowed = 1e-3 + 1e-6 * float(np.abs(np.asarray(given.truth.affine)).max())  # NIfTI keeps float32
    if moved > allowed:
        return f"a corner of the volume is {moved:g} mm off", moved
    factors = [new / old for new, old in zip(data.shape, truth.shape, strict=True)]
    if given.model == "sr" and given.measured and all(factor == int(factor) for factor in factors):
        (a, b, c), (i, j, k) = (int(factor) for factor in factors), truth.shape
        again = data.reshape(i, a, j, b, k, c).mean(axis=(1, 3, 5))
        worst = float(np.abs(again - truth).max() / (truth.max() - truth.min()))
        if worst > 1e-3:
            return f"the result, seen at the input's voxels, is not the input (off by {worst:.3g} of its range)", moved
    return "", moved


def read_independently(path: Path) -> tuple[Any, Any]:
    """`(I, J, K)` and the RAS affine of a result, without our own reader."""
    if ".nii" in path.name.lower():
        with tempfile.TemporaryDirectory() as folder:  # nibabel is particular about names
            copy = Path(folder, "copy.nii.gz" if path.name.lower().endswith(".gz") else "copy.nii")
            copy.write_bytes(path.read_bytes())
            image = nibabel.load(copy)
            return np.asarray(image.dataobj, np.float64), image.affine
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.asarray(sitk.GetArrayFromImage(image).T, np.float64), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _corners(shape: Sequence[int], affine: Any) -> Any:
    """`(8, 3)` outer corners of a box of voxels, mm: the same for every subdivision of it."""
    ends = np.stack(np.meshgrid(*([-0.5, n - 0.5] for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
    return ends @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]


# ---- Counting ----


def summary(verdicts: Mapping[str, Verdict]) -> str:
    """The counts, the worst landmark error, and a line for each wrong."""
    count = {outcome: sum(v.outcome is outcome for v in verdicts.values()) for outcome in Outcome}
    landmarks = [v.landmark_mm for v in verdicts.values() if v.landmark_mm is not None]
    lines = [f"wrong: {name}" for name, v in verdicts.items() if v.outcome is Outcome.WRONG]
    lines.append(f"{len(verdicts)} cases: " + ", ".join(f"{n} {outcome.value}" for outcome, n in count.items()))
    if landmarks:
        lines.append(f"worst landmark error {max(landmarks):.2g} mm, in {len(landmarks)} results")
    return "\n".join(lines)
