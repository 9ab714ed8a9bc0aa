"""ScoreFusion: sharper and translated brain MRI by fusing 2D diffusion models in 3D.

The few names most people need; everything else is imported from its own module::

    import scorefusion

    result = scorefusion.translate("t1_5mm.nii.gz", model="brain-sr", thickness=5.0, axis=2)
    scorefusion.write_volume(result.volume, "t1_1mm.nii.gz")

Importing this package is cheap: torch and the file formats are loaded on first use only, so that the Slicer panel can
list models in a Slicer that has no torch yet.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scorefusion.bundle import Bundle, find_bundle, list_bundles
    from scorefusion.pipeline import Result, translate
    from scorefusion.volume import Volume, read_volume, write_volume

__version__ = "0.1.0"

_HOME_OF = {
    "Bundle": "scorefusion.bundle",
    "find_bundle": "scorefusion.bundle",
    "list_bundles": "scorefusion.bundle",
    "Result": "scorefusion.pipeline",
    "translate": "scorefusion.pipeline",
    "Volume": "scorefusion.volume",
    "read_volume": "scorefusion.volume",
    "write_volume": "scorefusion.volume",
}

__all__ = [
    "Bundle",
    "Result",
    "Volume",
    "__version__",
    "find_bundle",
    "list_bundles",
    "read_volume",
    "translate",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOME_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
