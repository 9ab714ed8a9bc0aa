"""`slicer.packaging`: installs nothing, and records what a module asks for.

As in Slicer under `--testing`, a call succeeds without installing. Tests read `calls`, and set `decline` to play a user
who says no.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

calls: list[dict[str, Any]] = []
decline = False


def reset() -> None:
    """Forget the recorded calls."""
    global decline
    decline = False
    calls.clear()


def load_requirements(path: str | Path) -> list[Requirement]:
    """Read a requirements file; comments and pip's options are left out."""
    requirements = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        text = line.split(" #")[0].strip()
        if text and not text.startswith(("#", "-")):
            requirements.append(Requirement(text))
    return requirements


def load_pyproject_dependencies(path: str | Path) -> list[Requirement]:
    """Read the dependencies of a pyproject.toml."""
    import tomllib

    project = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    return [Requirement(text) for text in project.get("project", {}).get("dependencies", [])]


def _as_requirements(requirements: Any) -> list[Requirement]:
    entries = [requirements] if isinstance(requirements, (str, Requirement)) else list(requirements)
    try:
        return [entry if isinstance(entry, Requirement) else Requirement(entry) for entry in entries]
    except InvalidRequirement as error:
        msg = f"Not a requirement: {error}"
        raise ValueError(msg) from error


def pip_check(requirements: Any) -> bool:
    """Tell whether all requirements are installed; nothing is imported."""
    for requirement in _as_requirements(requirements):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return False
        if not requirement.specifier.contains(version, prereleases=True):
            return False
    return True


def pip_ensure(
    requirements: Any,
    prompt: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    **options: Any,
) -> None:
    """Record what should be installed.

    Raises:
        RuntimeError: the user declined.
    """
    entries = _as_requirements(requirements)
    calls.append(
        {"function": "pip_ensure", "requirements": [str(e) for e in entries], "requester": requester, **options}
    )
    if decline and not pip_check(entries):
        msg = f"User declined installation of {', '.join(str(entry) for entry in entries)}"
        raise RuntimeError(msg)


def pip_install(requirements: Any, **options: Any) -> None:
    """Record what should be installed."""
    calls.append({"function": "pip_install", "requirements": requirements, **options})


def pip_uninstall(requirements: Any, **options: Any) -> None:
    """Record what should be removed."""
    calls.append({"function": "pip_uninstall", "requirements": requirements, **options})


def isPipInstallInProgress() -> bool:
    """Tell whether an install is running."""
    return False
