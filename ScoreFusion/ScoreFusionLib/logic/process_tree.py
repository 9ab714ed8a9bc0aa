"""Start a process so that it and all its children can be ended together, without psutil (Slicer does not bring it).

`PythonSlicer` is a launcher: killing it alone would leave the Python below it at work. On POSIX the worker gets a
session, hence a process group, of its own, and the group is signalled. On Windows it is put into a job object which
ends with its last handle, thus also when Slicer itself crashes; `taskkill /T` is the second string.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import IO, Any

IS_WINDOWS = os.name == "nt"
_HIDDEN = 0x08000000  # CREATE_NO_WINDOW
_LOW_PRIORITY = 0x00004000  # BELOW_NORMAL_PRIORITY_CLASS


class ProcessTree:
    """A child process with all its descendants."""

    def __init__(
        self, args: list[str], *, env: dict[str, str], cwd: Path, stdout: IO[bytes], stderr: IO[bytes]
    ) -> None:
        options: dict[str, Any] = {"start_new_session": True}
        if IS_WINDOWS:
            options = {"creationflags": _HIDDEN | _LOW_PRIORITY}
        # The pipe is never written to. It closes when Slicer ends, however it ends, and the worker stops by itself
        # then. Not on Windows: whether the launcher hands it on there is uncertain, and the job object does the same.
        stdin = subprocess.DEVNULL if IS_WINDOWS else subprocess.PIPE
        self._process = subprocess.Popen(
            args, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=str(cwd), close_fds=True, **options
        )
        self._job = _job_object_for(self._process) if IS_WINDOWS else None
        if not IS_WINDOWS:
            with contextlib.suppress(OSError):  # the worker takes all cores; Slicer's window comes first
                os.setpriority(os.PRIO_PROCESS, self._process.pid, 5)

    @property
    def pid(self) -> int:
        """Process id of the launcher, which on POSIX is the process group's id too."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code of the launcher, None while it runs. Never waits."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask all to stop: standard input closes, and on POSIX SIGTERM goes to the group."""
        self._close_stdin()
        if not IS_WINDOWS:
            self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """End all at once. Also called after a normal end, to sweep up what a crash left behind."""
        self._close_stdin()
        if not IS_WINDOWS:
            self._signal_group(signal.SIGKILL)
            return
        if self._job is not None:
            self._job.terminate()
        elif self._process.poll() is None:
            subprocess.Popen(
                ["taskkill", "/PID", str(self.pid), "/T", "/F"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                creationflags=_HIDDEN,
            )

    def wait(self, seconds: float) -> int | None:
        """Wait for the launcher, at most `seconds`; None if it still runs."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody left in the group (macOS: EPERM)
            os.killpg(self.pid, number)

    def _close_stdin(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


def _job_object_for(process: subprocess.Popen[bytes]) -> Any | None:
    """Put `process` into a Windows job object; None when the system refuses, so that taskkill does the work."""
    from ScoreFusionLib.logic.windows_job import JobObject

    try:
        return JobObject(int(process._handle))  # type: ignore[attr-defined]  # Popen's handle, Windows only
    except OSError:
        return None
