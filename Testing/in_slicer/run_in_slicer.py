"""Run the tests inside Slicer and leave with their result: `Slicer --testing --python-script run_in_slicer.py`."""

import sys
import unittest
from pathlib import Path

import slicer.util


def main():
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    suite = unittest.defaultTestLoader.loadTestsFromName("ScoreFusionSlicerTest")
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    failed = len(result.failures) + len(result.errors)
    skipped = len(result.skipped)
    sys.stdout.write(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped\n")
    slicer.util.exit(0 if result.wasSuccessful() and result.testsRun else 1)


if __name__ == "__main__":
    main()
