"""How a command talks: a progress bar for people, JSON lines for programs; and which exit code it ends with."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from scorefusion.cli.stop import EXIT_CANCELLED
from scorefusion.errors import Cancelled, ScoreFusionError
from scorefusion.progress import Event, JsonLines, Sink

EXIT_BUG = 1
EXIT_USER_ERROR = 2


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
        traceback.print_exc(file=sys.stderr)
        message = (
            f"This is a bug in ScoreFusion, please report it with the lines above. {type(error).__name__}: {error}"
        )
        _end(sink, type(error).__name__, message, EXIT_BUG)


def _end(sink: Sink, kind: str, message: str, code: int) -> NoReturn:
    try:
        sink({"event": "error", "kind": kind, "message": message})
    except Cancelled:
        pass  # nobody is listening any more
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
        # As it is: brackets in paths are no markup, and a wrapped path cannot be copied.
        console.print(text, style=style, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    """Seconds in words: ``75`` is ``"1 min 15 s"``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
