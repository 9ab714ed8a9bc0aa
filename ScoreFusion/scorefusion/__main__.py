"""``python -m scorefusion`` and the ``scorefusion`` command."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command line and exit."""
    # Until a command is at work there is nothing to tidy up, and nobody wants to see where an import was interrupted.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from scorefusion.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
