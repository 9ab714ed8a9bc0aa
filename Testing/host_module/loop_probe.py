"""How long the GUI's thread was kept from its event loop, in wall time and in processor time of its own."""

from __future__ import annotations

import time
from typing import Any


class LoopProbe:
    """A timer that ticks every 10 ms and notes the longest pause between two ticks.

    On a machine that is busy with other programs the wall time also counts their turns; `busy` counts only what this
    thread did itself, thus what would have blocked the window on a quiet machine.
    """

    def __init__(self) -> None:
        import qt

        self.wall = 0.0  # seconds
        self.busy = 0.0  # seconds of this thread's processor time
        self._last: tuple[float, float] | None = None
        self._timer: Any = qt.QTimer()
        self._timer.setInterval(10)
        self._timer.connect("timeout()", self._tick)
        self._timer.start()

    def stop(self) -> None:
        """End the measurement."""
        self._timer.stop()

    def _tick(self) -> None:
        now = (time.perf_counter(), time.thread_time())
        if self._last is not None:
            self.wall = max(self.wall, now[0] - self._last[0])
            self.busy = max(self.busy, now[1] - self._last[1])
        self._last = now
