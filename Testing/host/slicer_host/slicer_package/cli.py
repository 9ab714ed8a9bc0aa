"""Command-line modules, as functions: `slicer.modules.<name>` must be a `PythonCLIModule`.

The wheel has no executables and no way to describe a module, so the "executable" is a Python function of the
parameters. It runs at once, whatever `wait_for_completion` says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import slicer


class PythonCLIModule:
    """A stand-in for a command-line module."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function


def createNode(cliModule: PythonCLIModule, parameters: dict[str, Any] | None = None) -> Any:  # noqa: N802, N803
    """Create the node of a run."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCommandLineModuleNode", cliModule.name)
    for name, value in (parameters or {}).items():
        text = value.GetID() if hasattr(value, "GetID") else str(value)
        node.SetAttribute(f"host.{name}", text)
    return node


def run(
    module: PythonCLIModule,
    node: Any = None,
    parameters: dict[str, Any] | None = None,
    wait_for_completion: bool = False,
    delete_temporary_files: bool = True,
    update_display: bool = True,
) -> Any:
    """Run a module and return its node, whose status tells how it went."""
    node = node or createNode(module, parameters)
    node.SetStatus(node.Running)
    try:
        module.function(**(parameters or {}))
    except Exception:
        logging.exception("%s failed", module.name)
        node.SetStatus(node.CompletedWithErrors)
    else:
        node.SetStatus(node.Completed)
    return node


def runSync(module: PythonCLIModule, node: Any = None, parameters: dict[str, Any] | None = None) -> Any:  # noqa: N802
    """Run a module and wait for it."""
    return run(module, node, parameters, wait_for_completion=True)
