"""`PyTorchUtils`, the module of the PyTorch extension, in the state that a test chooses.

Its downloads run as pip does (see slicer_package/packaging.py), for minutes in life: lines are printed, and events are
processed, so that the user can go on clicking.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

TITLE = "PyTorch Utils"  # of the module, as users see it
STATES = ("missing", "not installed", "installed")

state = "installed"
install_calls: list[dict[str, Any]] = []
decline_install = False


def check_state(new_state: str) -> None:
    """Raise ValueError for an unknown state."""
    if new_state not in STATES:
        msg = f"Unknown state of PyTorch '{new_state}'; expected one of {STATES}"
        raise ValueError(msg)


def configure(new_state: str) -> None:
    """Choose the state.

    Args:
        new_state: "missing": `import PyTorchUtils` fails; "not installed": the extension is there, torch is not;
            "installed": torch is this Python's own.
    """
    global state, decline_install
    check_state(new_state)
    state, decline_install = new_state, False
    install_calls.clear()
    sys.modules["PyTorchUtils"] = None if new_state == "missing" else sys.modules[__name__]  # type: ignore[assignment]


def _packaging() -> ModuleType:
    """Return the host's pip; a module of that name cannot be imported while Slicer 5.10 is imitated."""
    from slicer_host import older_slicer

    return older_slicer.packaging_module()


class PyTorchUtilsLogic:
    """Finds or installs torch."""

    def torchInstalled(self) -> bool:
        """Tell whether torch is there. Like the real one, this imports torch."""
        if state != "installed":
            return False
        try:
            importlib.import_module("torch")
        except ImportError:
            return False
        return True

    def installTorch(
        self,
        askConfirmation: bool = False,
        forceComputationBackend: str | None = None,
        torchVersionRequirement: str | None = None,
        torchvisionVersionRequirement: str | None = None,
    ) -> ModuleType | None:
        """Record the call; torch then counts as installed, unless the user declines (then None).

        Raises:
            CalledProcessError: pip failed.
        """
        global state
        install_calls.append(
            {
                "askConfirmation": askConfirmation,
                "forceComputationBackend": forceComputationBackend,
                "torchVersionRequirement": torchVersionRequirement,
                "torchvisionVersionRequirement": torchvisionVersionRequirement,
            }
        )
        if decline_install:
            return None
        _packaging().run_pip()
        _packaging().note_installed("torch")
        state = "installed"
        return self.torch

    def uninstallTorch(self, askConfirmation: bool = False, forceComputationBackend: str | None = None) -> None:
        """Record the call; torch then counts as not installed."""
        global state
        _packaging().calls.append({"function": "pip_uninstall", "requirements": "torch torchvision"})
        _packaging().run_pip()
        state = "not installed"

    @property
    def torch(self) -> ModuleType:
        """The torch module; installed first if it is missing."""
        if not self.torchInstalled() and self.installTorch() is None:
            msg = "PyTorch is not installed"
            raise RuntimeError(msg)
        return importlib.import_module("torch")

    @property
    def cuda(self) -> bool:
        """True if torch sees a CUDA device."""
        return self.torch.cuda.is_available()

    def getDevice(self) -> str:
        """Return the device to use."""
        return "cuda" if self.cuda else "cpu"
