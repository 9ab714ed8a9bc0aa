"""The tests for a real Slicer, run in the host: what passes here is at least known to be right in itself."""

from __future__ import annotations

import importlib.util
import unittest
from typing import Any

from module_host import MODULE, ROOT


def test_the_suite_for_slicer_passes_in_the_host(host: Any, fake_worker: Any) -> None:
    module = host.load_module(MODULE)
    host.open(module)
    path = ROOT / "Testing" / "in_slicer" / "ScoreFusionSlicerTest.py"
    spec = importlib.util.spec_from_file_location("ScoreFusionSlicerTest", path)
    assert spec is not None
    assert spec.loader is not None
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(tests).run(result)
    assert result.testsRun > 5
    assert not result.failures + result.errors, "\n\n".join(text for _test, text in result.failures + result.errors)
