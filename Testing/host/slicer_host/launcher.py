"""Slicer's launcher as `PythonSlicer` uses it: starts a child with the same streams, and ends as the child does.

Run as a script, with the child's arguments. A child that dies of a signal gives exit code 1 and one line on standard
error, whatever the signal: the launcher knows only that the child did not exit by itself (ctkAppLauncher.cpp,
`applicationFinished`). The launcher itself handles no signals.
"""

import signal
import subprocess
import sys


def main() -> int:
    """Run this Python with the arguments given; return its exit code."""
    child = subprocess.Popen([sys.executable, *sys.argv[1:]])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = child.wait()
    if code >= 0:
        return code
    sys.stderr.write(f"error: [{sys.executable}] exit abnormally - Report the problem.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
