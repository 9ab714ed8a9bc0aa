"""The two ways in which a run ends without a result."""

from __future__ import annotations


class RunError(RuntimeError):
    """Something the user can act on.

    Args:
        message: What was wrong, what was expected, what to do next. One or two sentences, shown in the panel.
        details: The last lines of the worker's log, or a traceback. Copied by "Copy log".
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class RunCancelled(RuntimeError):  # noqa: N818  (not an error: nobody should report it as one)
    """The user stopped the run; the scene is as it was before."""
