"""``python -m scorefusion`` and the ``scorefusion`` command."""

from __future__ import annotations

from scorefusion.cli.app import main

if __name__ == "__main__":
    main()
