"""One worker process: started, listened to, ended. Never waits, so the GUI's timer can drive it.

The worker writes its events and its log to two files that are read on by `poll`. Pipes would need a reader thread, and
Python threads get no time in Slicer while the event loop sits in C++; a non-blocking pipe behaves differently on
Windows. A growing file behaves the same everywhere and never makes the worker wait for us.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import IO

from ScoreFusionLib.logic.events import Event, EventStream
from ScoreFusionLib.logic.process_tree import ProcessTree

GRACE_SECONDS = 2.0  # between "please stop" and the kill; with the sweep it stays below the promised 3 s
_PIECE = 1 << 16  # bytes read in one poll


class Worker:
    """A process that speaks JSON lines on standard output.

    Args:
        args: Command line.
        env: Environment of the process.
        folder: An existing folder, which receives `events.jsonl` and `worker.log`.

    >>> worker = Worker(["python", "-c", "print(1)"], env={}, folder=Path("/tmp"))  # doctest: +SKIP
    >>> worker.start(); worker.poll()                                               # doctest: +SKIP
    """

    def __init__(self, args: list[str], *, env: dict[str, str], folder: Path) -> None:
        self.args = args
        self.returncode: int | None = None
        self.cancel_requested = False
        self._env = env
        self._folder = folder
        self._tree: ProcessTree | None = None
        self._readers: list[IO[bytes]] = []
        self._events = EventStream()
        self._log = EventStream()
        self._tail: deque[str] = deque(maxlen=200)
        self._kill_at = float("inf")

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return self._tree.pid if self._tree else None

    @property
    def is_running(self) -> bool:
        """True from `start` until `poll` has seen the end."""
        return self._tree is not None and self.returncode is None

    @property
    def tail(self) -> str:
        """The last lines that the worker printed and that were no events."""
        return "\n".join(self._tail)

    def start(self) -> None:
        """Start the process. Raises OSError when the executable cannot be run."""
        events, log = self._folder / "events.jsonl", self._folder / "worker.log"
        with events.open("wb") as stdout, log.open("wb") as stderr:
            self._tree = ProcessTree(self.args, env=self._env, cwd=self._folder, stdout=stdout, stderr=stderr)
        self._readers = [events.open("rb"), log.open("rb")]

    def poll(self) -> list[Event]:
        """Return the events since the last call; after the last of them `is_running` is False."""
        if not self.is_running or self._tree is None:
            return []
        if time.monotonic() > self._kill_at:
            self._tree.kill()
        returncode = self._tree.poll()  # before reading: what was written before the end is then sure to be read
        events = self._read(_PIECE)
        if returncode is not None:
            events += self._read(-1)
            events += self._events.close() + self._as_log(self._log.close())
            self.returncode = returncode
            self._close()
        return events

    def cancel(self) -> None:
        """Ask the worker to stop; `poll` kills the whole tree if it has not within `GRACE_SECONDS`."""
        self.cancel_requested = True
        if self.is_running and self._tree is not None and self._kill_at == float("inf"):
            self._tree.terminate()
            self._kill_at = time.monotonic() + GRACE_SECONDS

    def kill(self) -> None:
        """End the whole tree now. For a closing scene or application; waits half a second at most."""
        self.cancel_requested = True
        if self.is_running and self._tree is not None:
            self._tree.kill()
            self.returncode = self._tree.wait(0.5) or -9
            self._close()

    def _close(self) -> None:
        if self._tree is not None:
            self._tree.kill()  # sweeps children that outlived their parent
        for reader in self._readers:
            reader.close()
        self._readers = []

    def _read(self, size: int) -> list[Event]:
        stdout, stderr = self._readers
        events = self._events.feed(stdout.read(size))
        self._tail.extend(str(event.get("message", "")) for event in events if event["event"] == "log")
        return events + self._as_log(self._log.feed(stderr.read(size)))

    def _as_log(self, events: list[Event]) -> list[Event]:
        """Whatever arrives on standard error is text for the log, even if it looks like an event."""
        lines = [str(event.get("message", event)) for event in events]
        self._tail.extend(lines)
        return [{"event": "log", "message": line} for line in lines]
