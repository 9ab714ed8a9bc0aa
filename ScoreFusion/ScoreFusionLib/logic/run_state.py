"""The states of a run. Button, progress bar and text all derive from this one value."""

from __future__ import annotations

import enum


class RunState(enum.Enum):
    """Where a run is.

    IDLE -> STARTING (volumes are handed over, the worker loads) -> RUNNING (the engine computes) -> IMPORTING (the
    result enters the scene) -> IDLE. CANCELLING may follow any busy state; FAILED waits for the user to read why.
    """

    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    IMPORTING = "importing"
    CANCELLING = "cancelling"
    FAILED = "failed"

    @property
    def is_busy(self) -> bool:
        """True while a worker may be alive or nodes are being written."""
        return self not in (RunState.IDLE, RunState.FAILED)

    @property
    def can_cancel(self) -> bool:
        """True while pressing Cancel has an effect."""
        return self in (RunState.STARTING, RunState.RUNNING)
