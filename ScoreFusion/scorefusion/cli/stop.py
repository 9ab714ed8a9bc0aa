"""End the work within two seconds of being asked, wherever it is, and leave no temporary file behind.

Python runs signal handlers between two of its own instructions only, and one convolution may take longer than that.
So a signal also wakes a thread, which ends the process by itself when the main thread has not noticed in time.
"""

from __future__ import annotations

import _thread
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from scorefusion.errors import Cancelled

GRACE_SECONDS = 1.5
EXIT_CANCELLED = 130
NOTHING_WRITTEN = "The run was cancelled. No output was written."

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


class Stop:
    """A wish to stop, from a signal or a closed standard input.

    Use as a context manager in the main thread: signal handlers are installed on entry and put back at the end.

    Args:
        on_stdin_close: also stop when standard input ends: the parent process has gone away or closed the pipe.
        grace_seconds: how long the main thread may take to notice, before the process is ended.
        message: for the user, of the error that ends the work.
    """

    def __init__(
        self, on_stdin_close: bool = False, grace_seconds: float = GRACE_SECONDS, message: str = NOTHING_WRITTEN
    ) -> None:
        self._on_stdin_close = on_stdin_close
        self._message = message
        self._grace_seconds = grace_seconds
        self._requested = threading.Event()
        self._finished = threading.Event()
        self._saving = threading.Lock()
        self._temporary: set[Path] = set()
        self._found_handlers: dict[int, Any] = {}
        self._shielded = False
        self._raised = False

    def requested(self) -> bool:
        """Whether somebody asked for the work to end."""
        return self._requested.is_set()

    @contextmanager
    def shield(self) -> Iterator[None]:
        """A short stretch that is not interrupted: the files of a result appear together or not at all."""
        with self._saving:
            self._shielded = True
            try:
                if self.requested():
                    self._raised = True
                    raise Cancelled(self._message)
                yield
            finally:
                self._shielded = False

    @contextmanager
    def temporary(self, folder: Path) -> Iterator[Path]:
        """Create a folder that is removed at the end, even if the process has to be ended."""
        self._temporary.add(folder)
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._temporary.discard(folder)

    def __enter__(self) -> Stop:
        for number in _SIGNALS:
            # nohup and background jobs ignore some on purpose; None is a handler that Python did not install.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._found_handlers[number] = signal.signal(number, self._on_signal)
        self._awake, wake = socket.socketpair()
        wake.setblocking(False)
        self._wake = wake
        self._found_wakeup = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch_signals, name="stop-on-signal", daemon=True).start()
        if self._on_stdin_close:
            threading.Thread(target=self._watch_stdin, name="stop-on-stdin-close", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._raised = True  # too late for an interruption
        self._finished.set()
        signal.set_wakeup_fd(self._found_wakeup)
        for number, handler in self._found_handlers.items():
            signal.signal(number, handler)
        self._wake.close()  # ends the watching thread, which then closes its own end

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Runs in the main thread: interrupts it once, and leaves the unwinding alone."""
        self._requested.set()
        if not (self._shielded or self._raised):
            self._raised = True
            raise Cancelled(self._message)

    def _watch_signals(self) -> None:
        with self._awake:
            while received := self._awake.recv(64):
                if any(number in self._found_handlers for number in received):
                    self._requested.set()
                    self._end_after_grace()
                    return

    def _watch_stdin(self) -> None:
        try:
            # Not sys.stdin: its lock, held by this thread, would block the interpreter's exit.
            while os.read(0, 4096):
                pass
        except OSError:
            pass  # closed from the start: nobody is there
        if not self._finished.is_set():
            self._requested.set()
            _thread.interrupt_main()
            self._end_after_grace()

    def _end_after_grace(self) -> None:
        if self._finished.wait(self._grace_seconds):
            return
        self._saving.acquire(timeout=0.3)  # files are being put in place: a moment longer, and the result is whole
        for folder in list(self._temporary):
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(EXIT_CANCELLED)
