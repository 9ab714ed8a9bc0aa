"""How a command talks: a progress bar for people, JSON lines for programs; and which exit code it ends with."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from scorefusion.cli.stop import EXIT_CANCELLED
from scorefusion.errors import Cancelled, ScoreFusionError, StreamError
from scorefusion.progress import Event, JsonLines, Sink
from scorefusion.run.memory import is_out_of_memory

EXIT_BUG = 1
EXIT_USER_ERROR = 2

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def prepare_streams() -> None:
    """Make the standard streams such that nothing which is told can end the work: closed ones, any locale.

    A closed stream's number is taken, or the next file that is opened would get it, and with it what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - not a file, and for good
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not in a notebook, nor under a test
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """A line for people on standard output. A reader that has left (`| head`) is no error.

    Raises:
        StreamError: standard output takes nothing more.
    """
    try:
        typer.echo(text)
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        silence(sys.stdout)
        msg = f"Standard output could not be written: {error.strerror}. Send it to another place."
        raise StreamError(msg) from error


def silence(stream: TextIO | None) -> None:
    """Let a stream that takes nothing more lead nowhere, or Python would try and fail once again at its end."""
    with suppress(OSError, AttributeError, ValueError):  # closed from the start, or no file
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, stream.fileno())  # type: ignore[union-attr]
        os.close(number)


@contextmanager
def listening(json_lines: bool, quiet: bool = False) -> Iterator[Sink]:
    """The sink for a command's events, with errors turned into messages and exit codes.

    Args:
        json_lines: events go to standard output, one JSON object a line, and nothing else does.
        quiet: no bar and no log; warnings and errors are still shown.
    """
    if json_lines:
        sink: Sink = JsonLines()
        with _exit_codes(sink):
            yield sink
        return
    bar = _Bar(quiet)
    with _exit_codes(bar.show):
        try:
            yield bar.show
        finally:
            bar.close()


@contextmanager
def _exit_codes(sink: Sink) -> Iterator[None]:
    """User errors end with 2 and one paragraph, a cancelled run with 130, a bug with 1 and a traceback."""
    try:
        yield
    except ScoreFusionError as error:
        _end(sink, type(error).__name__, str(error), EXIT_USER_ERROR)
    except (Cancelled, KeyboardInterrupt) as error:
        _end(sink, "Cancelled", str(error) or "The run was cancelled.", EXIT_CANCELLED)
    except typer.Exit:
        raise
    except Exception as error:
        if problem := _of_the_machine(error):
            _end(sink, type(error).__name__, problem, EXIT_USER_ERROR)
        with suppress(OSError):
            traceback.print_exc(file=sys.stderr)
        message = (
            f"This is a bug in ScoreFusion, please report it with the lines above. {type(error).__name__}: {error}"
        )
        _end(sink, type(error).__name__, message, EXIT_BUG)


def _of_the_machine(error: BaseException) -> str | None:
    """What to say of an error that is no bug of ours: memory or disk ran out in the midst of something."""
    if is_out_of_memory(error):
        return "Out of memory. Close other programs, crop the volume around the head, or lift the limit (ulimit -v)."
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f" ({error.filename!r})" if error.filename else ""
        return f"{error.strerror}{where}. Make room on the disk or lift the limit, then run the command again."
    return None


def _end(sink: Sink, kind: str, message: str, code: int) -> NoReturn:
    with suppress(Cancelled):  # nobody is listening any more
        try:
            sink({"event": "error", "kind": kind, "message": message})
        except StreamError:
            _Bar(quiet=True).show({"event": "error", "message": message})
    raise typer.Exit(code)


class _Bar:
    """Draws events on standard error: a bar with the time left on a terminal, a line a stage elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._stage: str | None = None

    def show(self, event: Event) -> None:
        kind = event.get("event")
        if kind == "progress" and not self._quiet:
            self._show_progress(event)
        elif kind == "log" and not self._quiet:
            self._print(event["message"], "dim")
        elif kind == "warning":
            self._print(f"Warning: {event['message']}", "yellow")
        elif kind == "error":
            self.close()
            self._print(f"Error: {event['message']}", "red")

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show_progress(self, event: Event) -> None:
        stage = str(event["stage"])
        if not self._console.is_terminal:
            if stage != self._stage:
                self._print(f"{stage} ...", "")
            self._stage = stage
            return
        if self._progress is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._progress.start()
            self._task = self._progress.add_task(stage, left="")
        left = "" if event.get("eta_s") is None else f"{_duration(event['eta_s'])} left"
        assert self._task is not None
        self._progress.update(
            self._task, description=stage, completed=event["done"], total=max(event["total"], 1), left=left
        )

    def _print(self, text: str, style: str) -> None:
        console = self._progress.console if self._progress is not None else self._console
        with suppress(OSError):  # words that nobody can read are no reason to stop
            # As it is: brackets in paths are no markup, and a wrapped path cannot be copied.
            console.print(text, style=style, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    """Seconds in words: ``75`` is ``"1 min 15 s"``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
