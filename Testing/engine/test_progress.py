"""What the worker says while it works, and how it is stopped."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from scorefusion.errors import Cancelled
from scorefusion.progress import JsonLines, Reporter, TimeLeft, jsonable


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TestReporter:
    def test_progress_event_has_the_agreed_keys(self) -> None:
        events: list[dict] = []
        Reporter(events.append).progress("sampling", 3, 10)
        assert events == [{"event": "progress", "done": 3, "total": 10, "stage": "sampling", "eta_s": None}]

    def test_warnings_are_remembered_for_the_provenance(self) -> None:
        events: list[dict] = []
        reporter = Reporter(events.append)
        reporter.warning("tiled", "Worked in 4 tiles.", tiles=4)
        reporter.log("hello")
        assert reporter.warnings == [{"code": "tiled", "message": "Worked in 4 tiles.", "tiles": 4}]
        assert [event["event"] for event in events] == ["warning", "log"]

    def test_the_same_warning_is_said_once(self) -> None:
        events: list[dict] = []
        reporter = Reporter(events.append)
        for _ in range(3):
            reporter.warning("tiled", "Worked in 4 tiles.")
        assert len(events) == 1

    def test_works_without_a_listener(self) -> None:
        reporter = Reporter()
        reporter.progress("sampling", 1, 2)
        reporter.warning("tiled", "Worked in 4 tiles.")
        assert len(reporter.warnings) == 1

    def test_cancel_is_noticed_at_the_next_progress(self) -> None:
        stop = False
        events: list[dict] = []
        reporter = Reporter(events.append, cancelled=lambda: stop)
        reporter.progress("sampling", 1, 2)
        stop = True
        with pytest.raises(Cancelled):
            reporter.progress("sampling", 2, 2)
        assert len(events) == 1

    def test_cancelled_is_not_mistaken_for_an_error(self) -> None:
        from scorefusion.errors import ScoreFusionError

        assert not issubclass(Cancelled, ScoreFusionError)


class TestTimeLeft:
    def test_steady_pace_is_exact(self) -> None:
        clock = FakeClock()
        left = TimeLeft(clock)
        etas = []
        for done in range(5):
            etas.append(left.update("sampling", done, 4))
            clock.now += 2.0
        assert etas == [None, 6.0, 4.0, 2.0, 0.0]

    def test_slow_first_step_is_forgotten(self) -> None:
        clock = FakeClock()
        left = TimeLeft(clock)
        left.update("sampling", 0, 10)
        clock.now += 60.0  # first step: allocation, kernel choice
        left.update("sampling", 1, 10)
        clock.now += 1.0
        assert left.update("sampling", 2, 10) == 8.0

    def test_a_new_stage_starts_afresh(self) -> None:
        clock = FakeClock()
        left = TimeLeft(clock)
        left.update("reading", 0, 2)
        clock.now += 1.0
        left.update("reading", 1, 2)
        assert left.update("sampling", 0, 5) is None

    def test_a_stage_may_be_repeated(self) -> None:
        clock = FakeClock()
        left = TimeLeft(clock)
        for done in range(3):
            left.update("sampling", done, 2)
            clock.now += 1.0
        assert left.update("sampling", 0, 2) is None
        clock.now += 5.0
        assert left.update("sampling", 1, 2) == 5.0


class TestJsonLines:
    def test_one_object_per_line(self) -> None:
        stream = io.StringIO()
        reporter = Reporter(JsonLines(stream))
        reporter.log("first\nsecond")
        reporter.progress("sampling", 1, 2)
        lines = stream.getvalue().splitlines()
        assert [json.loads(line)["event"] for line in lines] == ["log", "progress"]

    def test_numpy_and_paths_are_written_and_nan_becomes_null(self) -> None:
        event = {"a": np.float32(0.5), "b": np.arange(3), "c": Path("x"), "d": float("nan"), "e": (1, np.int64(2))}
        assert jsonable(event) == {"a": 0.5, "b": [0, 1, 2], "c": "x", "d": None, "e": [1, 2]}

    def test_a_reader_that_left_stops_the_run(self) -> None:
        stream = io.StringIO()
        stream.close()
        with pytest.raises(Cancelled):
            JsonLines(stream)({"event": "log"})
