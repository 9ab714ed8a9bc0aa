"""Pieces of the work: the peak foretold, smaller pieces where memory is short or runs out, and what is said of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_ensemble, tiny_fusion, tiny_volume

from scorefusion.errors import OutOfMemory
from scorefusion.fusion.inputs import InputLayout, ModelInputs
from scorefusion.fusion.rules import FusionRule, PlaneAverage
from scorefusion.progress import Event, Reporter
from scorefusion.run import pieces
from scorefusion.run.pieces import choose_pieces, patient, pieces_of, predict_peak

LEVEL = torch.tensor([0.3])
CPU = torch.device("cpu")
MEASURE = """
import json, pathlib, sys, torch
from scorefusion.bundle.load import load_model
from scorefusion.bundle.store import find_bundle
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.run.pieces import predict_peak
shape, rule, pixels = json.loads(sys.argv[1])
model = load_model(find_bundle("brain-sr"))
rule = model.choose_rule(rule)
rule.ensemble.slice_pixels = pixels
def inputs(shape):
    return ModelInputs(torch.zeros(1, 1, *shape), torch.full((1, 6), 2.0))
def peak():  # ru_maxrss is at least that of the process that started this one
    (line,) = (x for x in pathlib.Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
with torch.inference_mode():
    rule(torch.zeros(1, 1, 8, 8, 8), inputs((8, 8, 8)), torch.zeros(1))
    foretold = predict_peak(rule, inputs(shape))
    before = peak()
    rule(torch.zeros(1, 1, *shape), inputs(shape), torch.zeros(1))
print(json.dumps({"foretold": foretold.total, "measured": peak() - before}))
"""


def _inputs(shape: tuple[int, int, int] = (12, 14, 170)) -> tuple[torch.Tensor, ModelInputs]:
    generator = torch.Generator().manual_seed(1)
    x_t, known = (torch.randn(1, 1, *shape, generator=generator) for _ in range(2))
    return x_t, ModelInputs(known, torch.rand(1, 6, generator=generator))


def _reporter() -> tuple[Reporter, list[Event]]:
    events: list[Event] = []
    return Reporter(events.append), events


class TestForetold:
    @pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
    @pytest.mark.parametrize(
        ("shape", "rule", "pixels"),
        [
            ((64, 80, 64), None, 2**20),
            ((64, 80, 64), None, 2**17),
            ((96, 96, 48), "average", 2**20),
        ],
    )
    def test_the_peak_is_within_a_factor_of_two_of_the_measured(
        self, repository: Path, shape: tuple[int, int, int], rule: str | None, pixels: int
    ) -> None:
        environment = os.environ | {"PYTHONPATH": str(repository / "ScoreFusion"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", MEASURE, json.dumps([shape, rule, pixels])]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        result = json.loads(done.stdout)
        assert 0.5 < result["foretold"] / result["measured"] < 2.0, result

    def test_smaller_chunks_and_tiles_need_less(self) -> None:
        rule = tiny_fusion(tiny_ensemble())
        _, inputs = _inputs((64, 64, 400))
        whole = predict_peak(rule, inputs)
        rule.ensemble.slice_pixels //= 8
        rule.tile = (64, 64, 64)
        cut = predict_peak(rule, inputs)
        assert cut.whole == whole.whole
        assert cut.planes < 0.5 * whole.planes
        assert cut.volume < 0.8 * whole.volume


class TestChosen:
    def _choose(
        self, monkeypatch: pytest.MonkeyPatch, share: float, **settings: Any
    ) -> tuple[FusionRule, list[Event], float]:
        """The rule where so much is free (1 = for the whole, 0 = less than for exact tiles), what was said,
        and the change of the result."""
        rule = tiny_volume(InputLayout(slab_radius=0), **settings)
        x_t, inputs = _inputs((12, 14, 900))
        whole = rule(x_t, inputs, LEVEL)
        at_once = predict_peak(rule, inputs).total
        rule.tile = (12, 14, 4)
        in_tiles = predict_peak(rule, inputs).total
        rule.tile = None
        free = in_tiles + share * (at_once - in_tiles)
        monkeypatch.setattr(pieces, "available_memory", lambda _: free / pieces.SHARE + 1)
        reporter, events = _reporter()
        choose_pieces(rule, inputs, CPU, None, reporter)
        return rule, events, float((rule(x_t, inputs, LEVEL) - whole).abs().max() / whole.abs().max())

    @torch.inference_mode()
    def test_what_fits_is_not_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rule, events, change = self._choose(monkeypatch, 1.0)
        assert pieces_of(rule) == {"SlicePixels": 2**20, "Tile": None, "Halo": None, "SameAsWhole": True}
        assert not events
        assert change == 0

    @torch.inference_mode()
    def test_tiles_are_exact_where_memory_allows_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rule, events, change = self._choose(monkeypatch, 0.5)
        assert pieces_of(rule)["SameAsWhole"]
        assert pieces_of(rule)["Halo"] == 58
        assert "the same image as from the whole" in str(events[0])
        assert change < 1e-5

    @torch.inference_mode()
    def test_where_it_does_not_they_are_blended_and_said_to_differ(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rule, events, change = self._choose(monkeypatch, 0.0)
        assert not pieces_of(rule)["SameAsWhole"]
        assert pieces_of(rule)["Halo"] < 58
        assert "near to the image from the whole, not the same" in str(events[0])
        assert 0 < change < 0.05

    @torch.inference_mode()
    def test_a_network_that_needs_the_whole_volume_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(OutOfMemory, match="looks at the whole volume.*average"):
            self._choose(monkeypatch, 0.7, normalisation="group")


class TestRunsOut:
    """A stand-in for short memory: a network refuses more voxels at once than it has room for."""

    def _short(self, monkeypatch: pytest.MonkeyPatch, network: torch.nn.Module, voxels: int) -> list[int]:
        real, asked = network.forward, []

        def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            asked.append(x[:, 0].numel())
            if asked[-1] > voxels:
                msg = "CUDA out of memory. Tried to allocate 20.00 MiB"
                raise torch.cuda.OutOfMemoryError(msg)
            return real(x, *arguments, **options)

        monkeypatch.setattr(network, "forward", forward)
        return asked

    @torch.inference_mode()
    def test_the_planes_go_on_with_fewer_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rule = PlaneAverage(tiny_ensemble())
        rule.ensemble.slice_pixels = 2**19
        x_t, inputs = _inputs((64, 64, 128))
        whole = rule(x_t, inputs, LEVEL)
        self._short(monkeypatch, rule.ensemble.plane_networks[0], 2**17)
        reporter, events = _reporter()
        result = patient(rule, reporter)(x_t, inputs, LEVEL, 0)
        assert (result - whole).abs().max() < 1e-5 * whole.abs().max()
        assert rule.ensemble.slice_pixels == 2**17
        assert [event["code"] for event in reporter.warnings] == ["memory", "memory"]
        assert len(events) == 2

    @torch.inference_mode()
    def test_the_3d_network_goes_on_in_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rule = tiny_volume(InputLayout(slab_radius=0))
        x_t, inputs = _inputs((8, 8, 400))
        whole = rule(x_t, inputs, LEVEL)
        self._short(monkeypatch, rule.network, 8 * 8 * 300)
        reporter, _ = _reporter()
        result = patient(rule, reporter)(x_t, inputs, LEVEL, 0)
        assert (result - whole).abs().max() < 1e-5 * whole.abs().max()
        assert rule.tile == (8, 8, 200)
        assert "Memory ran out: the 3D network works in tiles of 8 x 8 x 200" in reporter.warnings[0]["message"]

    @torch.inference_mode()
    def test_it_ends_after_a_bounded_number_of_tries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rule = tiny_fusion(tiny_ensemble())
        x_t, inputs = _inputs((16, 16, 160))
        self._short(monkeypatch, rule.network, 0)
        reporter, _ = _reporter()
        with pytest.raises(torch.cuda.OutOfMemoryError):
            patient(rule, reporter)(x_t, inputs, LEVEL, 0)
        assert 1 < len(reporter.warnings) <= pieces.HALVINGS

    @torch.inference_mode()
    def test_other_errors_are_not_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rule = tiny_fusion(tiny_ensemble())
        x_t, inputs = _inputs((8, 8, 16))
        monkeypatch.setattr(rule.network, "forward", lambda *_, **__: torch.zeros(2) @ torch.zeros(3))
        reporter, _ = _reporter()
        with pytest.raises(RuntimeError, match="size"):
            patient(rule, reporter)(x_t, inputs, LEVEL, 0)
        assert not reporter.warnings
