"""JSON lines from the worker, read piece by piece."""

from __future__ import annotations

import json
from typing import Any

Event = dict[str, Any]

_LONGEST_LINE = 1 << 20  # bytes; a longer line is no event of ours, and must not fill the memory


class EventStream:
    """Cuts a byte stream into events.

    A line that is no JSON object (a warning printed by a library, half a line of a killed worker) is not lost and does
    no harm: it becomes `{"event": "log", "message": line}`.

    >>> stream = EventStream()
    >>> stream.feed(b'{"event": "progress", "done": 1')
    []
    >>> stream.feed(b', "total": 4}\\nhello\\n')
    [{'event': 'progress', 'done': 1, 'total': 4}, {'event': 'log', 'message': 'hello'}]
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events completed by `data`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        return [event for line in lines if (event := _event_from_line(line)) is not None]

    def close(self) -> list[Event]:
        """Return what a last line without a line end holds."""
        return self.feed(b"\n")


def _event_from_line(line: bytes) -> Event | None:
    text = line.decode("utf-8", errors="replace").strip()
    if not text:
        return None
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        event = None
    if isinstance(event, dict) and isinstance(event.get("event"), str):
        return event
    return {"event": "log", "message": text[:2000]}
