"""``python -m corpus [PART OF A NAME]``: run the cases and print the counts; exit code 1 if any is wrong."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from corpus.framework import Outcome, judge, load_cases, make_models, summary


def main(part: str = "") -> int:
    """Run all cases whose name contains `part`, slow ones too."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    verdicts = {}
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        for name, case in load_cases().items():
            if part in name:
                verdict = verdicts[name] = judge(case, models)
                if part or verdict.outcome is Outcome.WRONG:
                    sys.stdout.write(f"{verdict.outcome.value:12} {verdict.seconds:5.2f} s  {name}  {verdict.why}\n")
                    sys.stdout.flush()
    sys.stdout.write(summary(verdicts) + "\n")
    return int(any(verdict.outcome is Outcome.WRONG for verdict in verdicts.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
