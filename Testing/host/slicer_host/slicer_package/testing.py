"""Run a unit test inside the application."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

EXIT_SUCCESS = 0
EXIT_FAILURE = 1


def exitSuccess() -> None:  # noqa: N802
    """End the application with success."""
    raise SystemExit(EXIT_SUCCESS)


def exitFailure(message: str = "") -> None:  # noqa: N802
    """End the application with failure."""
    if message:
        sys.stderr.write(message + "\n")
    raise SystemExit(EXIT_FAILURE)


def runUnitTest(path: str | Path | list[str], testname: str) -> None:  # noqa: N802
    """Run the tests of the Python module `testname`, found in `path`.

    Raises:
        RuntimeError: a test failed.
    """
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    sys.path.extend(str(entry) for entry in paths if str(entry) not in sys.path)
    suite = unittest.defaultTestLoader.loadTestsFromName(testname)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    if not result.wasSuccessful():
        msg = f"Test failed: {testname}"
        raise RuntimeError(msg)
