"""Events, time left and cancellation, without dependencies.

The Slicer panel, the command line and a batch scheduler all read the same events. An event is a plain dict with an
``event`` key: ``progress``, ``log``, ``warning``, ``result`` or ``error``. `Reporter` makes the events of one run; a
*sink* is any callable that takes one. `JsonLines` is the sink for another process.

The worker calls `Reporter.progress` often. Every such call is also a place where the run can be cancelled.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from scorefusion.errors import Cancelled, StreamError

Event = dict[str, Any]
Sink = Callable[[Event], None]


class Reporter:
    """Tells one listener how far the work is, and remembers what the provenance must mention.

    Args:
        sink: receives each event. None keeps silent; warnings are still remembered.
        cancelled: asked at every report; True ends the work with `Cancelled`.
        clock: seconds, only differences matter. Tests pass their own.
    """

    def __init__(
        self,
        sink: Sink | None = None,
        cancelled: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._cancelled = cancelled
        self._time_left = TimeLeft(clock)
        self._warnings: list[Event] = []
        self._run = (0, 1)

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """Warnings so far, oldest first, as ``{"code": ..., "message": ...}`` and their further facts."""
        return [{key: value for key, value in event.items() if key != "event"} for event in self._warnings]

    def progress(self, stage: str, done: float, total: float) -> None:
        """Report that ``done`` of ``total`` steps of a stage are finished. Raises `Cancelled` when asked to stop."""
        self.check_cancelled()
        number, runs = self._run
        done, total = done + number * total, total * runs
        eta = self._time_left.update(stage, done, total)
        self.emit({"event": "progress", "done": done, "total": total, "stage": stage, "eta_s": eta})

    def begin_run(self, number: int, runs: int) -> None:
        """From now on progress is that of one run of several as long as each other: it counts up once, over them all.

        Args:
            number: of the run, from 0.
            runs: how many there are.
        """
        self._run = (number, runs)

    def log(self, message: str) -> None:
        """Report a line for the curious."""
        self.emit({"event": "log", "message": message})

    def warning(self, code: str, message: str, **facts: Any) -> None:
        """Report, once per code and message, something that changes the result or how far it can be trusted.

        Args:
            code: short and stable, such as ``"cpu-fallback"``; programs read it.
            message: one sentence for the user.
            facts: further JSON values for the provenance.
        """
        event = {"event": "warning", "code": code, "message": message, **facts}
        if event not in self._warnings:
            self._warnings.append(event)
            self.emit(event)

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the work should end. Cheap: call it as often as you like."""
        if self._cancelled is not None and self._cancelled():
            msg = "The run was cancelled."
            raise Cancelled(msg)

    def emit(self, event: Event) -> None:
        """Hand an event to the sink as it is."""
        if self._sink is not None:
            self._sink(event)


class TimeLeft:
    """Estimates the seconds until a stage ends, from the pace since the stage began.

    The first step is often slow (memory is allocated, kernels are chosen): it stops counting once there are others.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage: str | None = None
        self._marks: list[tuple[float, float]] = []  # (done, seconds): where counting starts, then where it may restart
        self._last_done = -math.inf

    def update(self, stage: str, done: float, total: float) -> float | None:
        """Seconds until ``done`` reaches ``total``, rounded to 0.1; None while there is no pace to go by."""
        now = self._clock()
        if stage != self._stage or done < self._last_done:
            self._stage, self._marks = stage, []
        self._last_done = done
        if len(self._marks) < 2 and (not self._marks or done > self._marks[-1][0]):
            self._marks.append((done, now))
        if done >= total:
            return 0.0
        base_done, base_time = self._marks[0]
        if len(self._marks) == 2 and done > self._marks[1][0]:
            base_done, base_time = self._marks[1]
        if done <= base_done:
            return None
        return round((now - base_time) / (done - base_done) * (total - done), 1)


class JsonLines:
    """A sink that writes one JSON object per line and flushes it, so that the reader sees each event at once.

    The lines are ASCII, so that any terminal, locale and file name will do.

    Raises:
        Cancelled: the reader has gone away, which counts as a wish to stop.
        StreamError: the stream takes nothing more, such as a file on a full disk.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream: TextIO | None = sys.stdout if stream is None else stream  # None: closed from the start
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        line = json.dumps(jsonable(event), allow_nan=False)
        try:
            with self._lock:
                if self._stream is None:
                    raise BrokenPipeError
                self._stream.write(line + "\n")
                self._stream.flush()
        except (BrokenPipeError, ValueError) as error:  # ValueError: the stream was closed on our side
            msg = "Nobody reads the events any more; the run was cancelled."
            raise Cancelled(msg) from error
        except OSError as error:
            msg = f"Standard output could not be written: {error.strerror}. Send it to another place."
            raise StreamError(msg) from error


def jsonable(value: Any) -> Any:
    """Turn paths, tuples and numpy values into what JSON knows. NaN and infinity, which it lacks, become None."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    for convert in ("tolist", "item"):  # numpy arrays and scalars, torch tensors; without importing either
        method = getattr(value, convert, None)
        if callable(method):
            return jsonable(method())
    return str(value)
