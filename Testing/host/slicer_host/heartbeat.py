"""Measure for how long the event loop stands still."""

from __future__ import annotations

import time

from PySide6 import QtCore

INTERVAL_MS = 10


class Heartbeat:
    """A timer that should fire every 10 ms, and remembers the longest pause (s) between two beats.

    Everything between `reset` and `longest_gap` counts, the test's own work too: a slot that a test calls directly
    blocks the window just as one that the user's click calls.
    """

    def __init__(self) -> None:
        self._timer = QtCore.QTimer()
        self._timer.setTimerType(QtCore.Qt.PreciseTimer)
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self._beat)
        self._timer.start()
        self.reset()

    def _beat(self) -> None:
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def reset(self) -> None:
        """Forget the past."""
        self._longest = 0.0
        self._last = time.monotonic()

    def longest_gap(self) -> float:
        """Return the longest pause in seconds, the one that is going on included."""
        return max(self._longest, time.monotonic() - self._last)

    def stop(self) -> None:
        """End the measurement."""
        self._timer.stop()
