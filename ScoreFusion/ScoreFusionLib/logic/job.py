"""One run, from volume nodes to volume nodes, as a state machine that a timer drives.

The whole course of a run is one generator, `_course`, which reads from top to bottom. Each `yield` hands the thread
back, so the GUI stays alive although everything that touches the scene happens in the GUI's thread, as MRML demands.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic import engine, failure
from ScoreFusionLib.logic.dicom import read_series
from ScoreFusionLib.logic.errors import RunCancelled, RunError
from ScoreFusionLib.logic.events import Event
from ScoreFusionLib.logic.geometry import Frame, affine_from_node, plan_frame, world_affine
from ScoreFusionLib.logic.models import ModelInfo
from ScoreFusionLib.logic.naming import Naming
from ScoreFusionLib.logic.node_export import export_steps, voxels_from_node
from ScoreFusionLib.logic.node_import import load_steps
from ScoreFusionLib.logic.request import JobInputs, RunFiles, TranslateRequest, command_arguments
from ScoreFusionLib.logic.results import Image, JobResult, mean_of, place_results, read_record
from ScoreFusionLib.logic.run_state import RunState
from ScoreFusionLib.logic.sequences import frame_nodes
from ScoreFusionLib.logic.signal import Signal
from ScoreFusionLib.logic.worker import Worker

TICK_MS = 30
_BUDGET_SECONDS = 0.012  # of work in one tick; a step is a copy of 2 MB, some milliseconds
_WAIT = "wait"  # yielded when there is nothing to do before the next tick
Steps = Generator[Any, None, None]


@dataclass(frozen=True)
class Progress:
    """How far a run is: share of the stage done in [0, 1], what is being done, seconds left (None = not known yet)."""

    share: float
    stage: str
    seconds_left: float | None = None


@dataclass
class _Collected:
    """What the frames of a run have given so far."""

    results: list[Image] = field(default_factory=list)
    uncertainties: list[Image] = field(default_factory=list)
    errors: list[Image] = field(default_factory=list)
    changes: list[Image] = field(default_factory=list)
    qualities: list[dict[str, Any]] = field(default_factory=list)
    provenances: list[dict[str, Any]] = field(default_factory=list)


class TranslateJob:
    """Runs the engine on nodes. Make it with `start_job`.

    Signals: `state_changed(RunState)`, `progressed(Progress)`, `logged(str)`, `warned(code, message)`, and at the end
    one of `finished(JobResult)`, `failed(RunError)`, `cancelled()`.
    """

    def __init__(self, scene: Any, inputs: JobInputs, request: TranslateRequest, model: ModelInfo) -> None:
        self.state = RunState.IDLE
        self.result: JobResult | None = None
        self.error: RunError | None = None
        self.warnings: dict[str, str] = {}  # message to code
        self.log: list[str] = []
        self.state_changed, self.progressed, self.logged, self.warned = Signal(), Signal(), Signal(), Signal()
        self.finished, self.failed, self.cancelled = Signal(), Signal(), Signal()
        self.scene, self.inputs, self.request, self.model = scene, inputs, request, model
        self.frame: Frame | None = None  # known from the start of the run
        self._folder: Path | None = None
        self._worker: Worker | None = None
        self._timer: Any = None
        self._loop: Any = None
        self._observer: int | None = None
        self._naming = Naming()
        self._steps: Steps = _nothing()
        self._in_poll = False

    # -- for the caller --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin. Returns at once; without an application (no Qt) the caller has to call `poll`."""
        self._steps = self._course()
        self._observer = self.scene.AddObserver(self.scene.StartCloseEvent, lambda *_args: self.abort())
        self._enter(RunState.STARTING)
        self._timer = _start_timer(self.poll)

    def cancel(self) -> None:
        """Ask for an early end: the worker's whole process tree is gone within 3 seconds, the scene stays as it was."""
        if self.state.can_cancel:
            self._enter(RunState.CANCELLING)
            if self._worker is not None:
                self._worker.cancel()

    def abort(self) -> None:
        """End at once, for a closing scene or application."""
        if self.state.is_busy:
            if self._worker is not None:
                self._worker.kill()
            self._end(RunState.IDLE, self.cancelled)

    def wait(self) -> Any:
        """Let the event loop run until the end, and return the result node.

        Raises:
            RunError: The run failed.
            RunCancelled: It was cancelled.
        """
        self._run_event_loop()
        if self.error is not None:
            raise self.error
        if self.result is None:
            msg = _("The run was cancelled; the scene is as it was before.")
            raise RunCancelled(msg)
        return self.result.node

    def poll(self) -> None:
        """Do a little work. Called by the timer."""
        if self._in_poll or not self.state.is_busy:
            return  # a slot that opens a dialog lets the timer tick inside this call
        self._in_poll = True
        deadline = time.monotonic() + _BUDGET_SECONDS
        try:
            while self.state.is_busy and next(self._steps) is not _WAIT and time.monotonic() < deadline:
                pass
        except StopIteration:
            self._end(RunState.IDLE, self.finished, self.result)
        except RunCancelled:
            self._end(RunState.IDLE, self.cancelled)
        except RunError as error:
            self.error = error
            self._end(RunState.FAILED, self.failed, error)
        except Exception as error:  # a bug of ours: say so, keep Slicer alive
            text = _("ScoreFusion met an unexpected problem ({error}). Please send us the log.").format(error=error)
            self.error = RunError(text, traceback.format_exc())
            self._end(RunState.FAILED, self.failed, self.error)
        finally:
            self._in_poll = False

    # -- the course of a run ---------------------------------------------------------------------------------------

    def _course(self) -> Steps:
        started = time.monotonic()
        self.frame = frame = self._plan()
        self._make_folder()
        reference = yield from self._export_reference(frame)
        collected = _Collected()
        frames = self._frames()
        for index, volumes in enumerate(frames):
            files = yield from self._export(volumes, frame)
            event = yield from self._work(self._command(files), f"{index + 1}/{len(frames)}")
            collected.qualities.append(dict(event.get("quality") or {}))
            collected.provenances.append(self._naming(read_record(event.get("provenance"), files.output)))
            if reference is not None or self.inputs.change:
                yield from self._compare(files, reference, collected)
            yield from self._load(files, collected)
        self._enter(RunState.IMPORTING)
        yield
        self.result = yield from place_results(
            self.scene,
            self.inputs,
            self.model,
            frame,
            images=(collected.results, collected.uncertainties, collected.errors, collected.changes),
            quality=mean_of(collected.qualities),
            provenance=self._provenance(collected.provenances[-1], frame),
        )
        self.result.warnings.extend(self.warnings)
        self.result.seconds = time.monotonic() - started

    def _plan(self) -> Frame:
        for node in self.inputs.scans.values():
            voxels_from_node(node)  # refuses what cannot be processed before anything is started
        frame = plan_frame(self.inputs.scans)
        for note in frame.notes:
            self._warn("transform", note)
        return frame

    def _frames(self) -> list[dict[str, Any]]:
        volumes = self.inputs.scans
        if not self.inputs.all_frames:
            return [volumes]
        frames = {name: frame_nodes(node) for name, node in volumes.items()}
        counts = {len(nodes) for nodes in frames.values() if len(nodes) > 1}
        if len(counts) > 1:
            msg = _("The inputs have different numbers of frames: {counts}. Choose sequences of one length.").format(
                counts=", ".join(map(str, sorted(counts)))
            )
            raise RunError(msg)
        count = max(counts, default=1)
        return [{name: nodes[i if len(nodes) > 1 else 0] for name, nodes in frames.items()} for i in range(count)]

    def _export(self, volumes: dict[str, Any], frame: Frame) -> Generator[Any, None, RunFiles]:
        folder = self._require_folder()
        paths = {name: folder / f"input-{name}.nii" for name in volumes}
        files = RunFiles(
            inputs={name: path for name, path in paths.items() if name in self.inputs.volumes},
            output=folder / "output.nii",
            uncertainty=folder / "uncertainty.nii" if self.request.uncertainty else None,
            stacks=tuple(path for name, path in paths.items() if name not in self.inputs.volumes),
        )
        for name, node in volumes.items():
            shown = self.inputs.scans[name]
            self._naming.learn(paths[name], shown.GetName())
            self.progressed.emit(Progress(0.0, _("reading '{volume}'").format(volume=node.GetName())))
            # A frame of a sequence may lie elsewhere than the volume which shows it; the transform is the same.
            affine = frame.affines[name] @ np.linalg.inv(affine_from_node(shown)) @ affine_from_node(node)
            yield from self._unless_cancelled(export_steps(node, affine, paths[name]))
        return files

    def _export_reference(self, frame: Frame) -> Generator[Any, None, Path | None]:
        node = self.inputs.reference
        if node is None:
            return None
        affine = world_affine(node) if frame.transform_id is None else affine_from_node(node)
        if affine is None or (frame.transform_id is not None and node.GetTransformNodeID() != frame.transform_id):
            msg = _("The reference '{volume}' lies under another transform than the input. Harden it first.").format(
                volume=node.GetName()
            )
            raise RunError(msg)
        path = self._require_folder() / "reference.nii"
        self._naming.learn(path, node.GetName())
        yield from self._unless_cancelled(export_steps(node, affine, path))
        return path

    def _command(self, files: RunFiles) -> list[str]:
        return engine.engine_command(command_arguments(self.request, files), stop_with_slicer=True)

    def _work(self, command: list[str], frame_label: str) -> Generator[Any, None, Event]:
        """Run one worker to its end; returns its `result` event."""
        self._worker = Worker(command, env=engine.worker_environment(), folder=self._require_folder())
        result: Event | None = None
        error: Event | None = None
        try:
            self._worker.start()
        except OSError as problem:
            msg = _("The worker could not be started: {problem}").format(problem=problem)
            raise RunError(msg) from problem
        while self._worker.is_running:
            for event in self._worker.poll():
                event = event if event["event"] == "result" else self._naming(event)
                result = event if event["event"] == "result" else result
                error = event if event["event"] == "error" else error
                self._hear(event, frame_label)
            if self._worker.is_running:
                yield _WAIT
        if self.state is RunState.CANCELLING:
            raise RunCancelled
        if result is None or error is not None or self._worker.returncode != 0:
            raise failure.explain(self._worker.returncode or 0, error, self._naming(self._worker.tail))
        return result

    def _compare(self, files: RunFiles, reference: Path | None, collected: _Collected) -> Steps:
        command = engine.quality_command(files.output)
        change_map, error_map = files.output.with_name("change.nii"), files.output.with_name("error.nii")
        if self.inputs.change:
            command += ["--input", str(next(iter(files.inputs.values()))), "--change-map", str(change_map)]
        if reference is not None:
            command += ["--reference", str(reference), "--error-map", str(error_map)]
        event = yield from self._work(command, "")
        if self.inputs.change:
            collected.changes.append((yield from self._read(change_map)))
        if reference is not None:
            collected.qualities[-1]["reference"] = event.get("quality") or {}
            collected.errors.append((yield from self._read(error_map)))

    def _load(self, files: RunFiles, collected: _Collected) -> Steps:
        collected.results.append((yield from self._read(files.output)))
        if files.uncertainty is not None:
            collected.uncertainties.append((yield from self._read(files.uncertainty)))

    def _read(self, path: Path) -> Generator[Any, None, Image]:
        image: Image | None = None
        for step in self._unless_cancelled(load_steps(path)):
            image = step
            yield
        assert image is not None, "load_steps ends with the image"
        return image

    # -- small things ----------------------------------------------------------------------------------------------

    def _hear(self, event: Event, frame_label: str) -> None:
        kind = event["event"]
        if kind == "progress":
            if self.state is RunState.STARTING:
                self._enter(RunState.RUNNING)
            total = float(event.get("total") or 1)
            stage = str(event.get("stage", ""))
            if self.inputs.all_frames:
                stage = _("frame {frame}: {stage}").format(frame=frame_label, stage=stage)
            share = min(1.0, max(0.0, float(event.get("done") or 0) / total))
            self.progressed.emit(Progress(share, stage, event.get("eta_s")))
        elif kind == "warning":
            self._warn(str(event.get("code", "")), str(event.get("message", "")))
        elif kind == "log":
            self._log(str(event.get("message", "")))
        elif kind == "error":
            self._log(f"{event.get('kind', 'error')}: {event.get('message', '')}")

    def _warn(self, code: str, message: str) -> None:
        if message not in self.warnings:
            self.warnings[message] = code
            self._log(f"warning: {message}")
            self.warned.emit(code, message)

    def _log(self, line: str) -> None:
        self.log.append(line)
        self.logged.emit(line)

    def _unless_cancelled(self, steps: Iterator[Any]) -> Steps:
        for step in steps:
            if self.state is RunState.CANCELLING:
                raise RunCancelled
            yield step

    def _provenance(self, engine_record: dict[str, Any], frame: Frame) -> dict[str, Any]:
        names = {name: node.GetName() for name, node in self.inputs.scans.items()}
        space = "world" if frame.transform_id is None else "below the input's transform"
        ours: dict[str, Any] = {"Inputs": names, "Space": space, "Frames": len(self._frames())}
        series = {name: read_series(node).record() for name, node in self.inputs.scans.items()}
        if any(series.values()):
            ours["Dicom"] = series
        return {**engine_record, "Slicer": ours}

    def _make_folder(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ScoreFusion-", dir=_temporary_root()))

    def _require_folder(self) -> Path:
        if self._folder is None:
            msg = "the run has no folder yet"
            raise RuntimeError(msg)
        return self._folder

    def _enter(self, state: RunState) -> None:
        if state is not self.state:
            self.state = state
            self.state_changed.emit(state)

    def _end(self, state: RunState, signal: Signal, *args: object) -> None:
        _stop_timer(self._timer, self.poll)
        self._timer = None
        if self._observer is not None:
            self.scene.RemoveObserver(self._observer)
            self._observer = None
        if not self._in_poll:
            self._steps.close()
        if self._worker is not None:
            self._worker.kill()
        if self._folder is not None and not os.environ.get("SCOREFUSION_KEEP_FILES"):
            shutil.rmtree(self._folder, ignore_errors=True)
        self._enter(state)
        signal.emit(*args)
        if self._loop is not None:
            self._loop.quit()

    def _run_event_loop(self) -> None:
        if self._timer is None:
            while self.state.is_busy:  # no Qt: nobody else calls poll
                self.poll()
                time.sleep(TICK_MS / 1000 / 3)
            return
        import qt

        self._loop = qt.QEventLoop()
        if self.state.is_busy:
            self._loop.exec_()
        self._loop = None


def _nothing() -> Steps:
    yield from ()


def _start_timer(slot: Any) -> Any | None:
    import slicer

    if getattr(slicer, "app", None) is None:  # bare MRML: there is no event loop, `wait` does the polling
        return None
    import qt

    timer = qt.QTimer()
    timer.setInterval(TICK_MS)
    timer.connect("timeout()", slot)
    timer.start()
    return timer


def _stop_timer(timer: Any | None, slot: Any) -> None:
    if timer is not None:
        timer.stop()
        timer.disconnect("timeout()", slot)


def _temporary_root() -> str | None:
    import slicer

    application = getattr(slicer, "app", None)
    path = getattr(application, "temporaryPath", None)
    return path if isinstance(path, str) and Path(path).is_dir() else None
