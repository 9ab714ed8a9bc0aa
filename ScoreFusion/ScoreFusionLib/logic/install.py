"""The Python packages of the worker: found without importing them, installed after one question.

Slicer 5.12 brings `slicer.packaging`; before, there is `slicer.util.pip_install`. PyTorch comes from the extension of
that name, which picks the build that fits the graphics card; it is never installed by pip from here. Nothing of this
happens at import or in a thread.
"""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import slicer

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.engine import MODULE_FOLDER
from ScoreFusionLib.logic.errors import RunError

REQUIREMENTS = MODULE_FOLDER / "Resources" / "requirements.txt"
TORCH = ">=2.1"
_HELD_BACK = ("numpy", "SimpleITK")  # part of Slicer: an install must not replace them below running code
Ask = Callable[[str], bool]


@dataclass(frozen=True)
class Missing:
    """What the worker lacks: requirement lines, and whether PyTorch is among it."""

    packages: tuple[str, ...]
    torch: bool

    def __bool__(self) -> bool:
        return bool(self.packages) or self.torch

    def question(self) -> str:
        """Return what to ask the user: names, reason, size."""
        lines = [_("ScoreFusion computes in a Python process of its own, and that needs:"), ""]
        if self.torch:
            lines.append(
                _(
                    "- PyTorch, to run the networks: about 0.2 GB to download for a computer without NVIDIA "
                    "graphics, up to 3 GB with."
                )
            )
        if self.packages:
            names = ", ".join(re.split(r"[<>=!~\[ ]", line)[0] for line in self.packages)
            lines.append(_("- {names}, to read volumes and models: less than 10 MB.").format(names=names))
        lines += ["", _("They are downloaded once, into Slicer's own Python. Install now?")]
        return "\n".join(lines)


def find_missing(requirements: Path = REQUIREMENTS) -> Missing:
    """Return what is not installed or too old. Reads package metadata only: importing torch would cost seconds."""
    lines = [line.strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    packages = [line for line in lines if line and not line.startswith("#")]
    return Missing(tuple(line for line in packages if not is_satisfied(line)), torch=not is_satisfied("torch" + TORCH))


def is_satisfied(requirement: str) -> bool:
    """True if a `name>=version` requirement is met."""
    name, _sep, minimum = requirement.partition(">=")
    try:
        installed = importlib.metadata.version(name.strip())
    except importlib.metadata.PackageNotFoundError:
        return False
    return not minimum or _numbers(installed) >= _numbers(minimum)


def ensure_installed(ask: Ask, requirements: Path = REQUIREMENTS) -> None:
    """Install what is missing, after one question.

    Args:
        ask: Shows a text with OK and Cancel; returns the answer.
        requirements: Lines of `name>=version`.

    Raises:
        RunError: The user said no, or the installation failed; the message says what to do.
    """
    missing = find_missing(requirements)
    if not missing:
        return
    if missing.torch and not _has_pytorch_extension():
        _install_pytorch_extension(ask)
    if not ask(missing.question()):
        msg = _("ScoreFusion cannot run without these packages. Press Apply again whenever you wish to install them.")
        raise RunError(msg)
    try:
        if missing.packages:
            _install_packages(list(missing.packages))
        if missing.torch:
            _install_torch()
    except RunError:
        raise
    except Exception as error:  # pip, network, permissions: all end in the same place
        raise RunError(explain_failure(f"{error}\n{getattr(error, 'output', '') or ''}"), str(error)) from error
    left = find_missing(requirements)
    if left:
        msg = _(
            "Slicer's Python still lacks {names} after the installation. Restart Slicer and press Apply again; if it "
            "recurs, the log of the Python console tells why."
        ).format(names=", ".join([*left.packages, *(["torch"] if left.torch else [])]))
        raise RunError(msg)


def explain_failure(text: str) -> str:
    """Return what a failed installation means and what to do about it."""
    lower = text.lower()
    if "proxy" in lower:
        return _(
            "The installation failed at the network proxy. Set the environment variable HTTPS_PROXY to your proxy's "
            "address, start Slicer again and press Apply."
        )
    if "certificate" in lower or "ssl" in lower:
        return _(
            "The installation failed at the certificate check: a proxy seems to read along. Ask your administrator for "
            "its certificate and set the environment variable REQUESTS_CA_BUNDLE (and PIP_CERT) to that file."
        )
    if re.search(
        r"name resolution|getaddrinfo|connection|timed out|network is unreachable|no matching distribution", lower
    ):
        return _(
            "The packages could not be downloaded: there seems to be no network. Connect and press Apply again, or "
            "follow 'Installing offline' in the documentation."
        )
    if "no space left" in lower or "errno 28" in lower:
        return _("The disk is full. PyTorch needs up to 8 GB; make room and press Apply again.")
    if "permission denied" in lower or "errno 13" in lower or "access is denied" in lower:
        return _(
            "Slicer's folder cannot be written to. Start Slicer once as an administrator to install, or install Slicer "
            "in your own folder."
        )
    return _("The installation of Python packages failed. Details are in the log and in the Python console.")


def _install_packages(packages: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="ScoreFusion-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(_installed_versions()), encoding="utf-8")
        try:  # Slicer 5.12 and newer: a progress dialog with a log
            from slicer.packaging import pip_install
        except ImportError:
            slicer.util.pip_install(["--constraint", str(constraints), *packages])
        else:
            pip_install(packages, constraints=str(constraints), requester="ScoreFusion")
    importlib.invalidate_caches()


def _installed_versions() -> list[str]:
    pinned = []
    for name in _HELD_BACK:
        try:
            pinned.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return pinned


def _has_pytorch_extension() -> bool:
    try:
        import PyTorchUtils  # noqa: F401  (the extension's module; it does not import torch)
    except ImportError:
        return False
    return True


def _install_torch() -> None:
    import PyTorchUtils

    torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=TORCH)
    if torch is None:
        msg = _("PyTorch was not installed. Open the module 'PyTorch Utils', install it there, then press Apply again.")
        raise RunError(msg)
    importlib.invalidate_caches()


def _install_pytorch_extension(ask: Ask) -> None:
    """Offer the extension that brings PyTorch; it is there only after a restart, so this never returns."""
    question = _(
        "ScoreFusion needs the extension 'PyTorch' (less than 1 MB). Install it now? Slicer must be restarted then."
    )
    manager = slicer.app.extensionsManagerModel() if hasattr(slicer.app, "extensionsManagerModel") else None
    if manager is None or not ask(question):
        msg = _("Install the extension 'PyTorch' with the Extensions Manager, restart Slicer and press Apply again.")
        raise RunError(msg)
    if not manager.installExtensionFromServer("PyTorch", False):
        msg = _(
            "The extension 'PyTorch' could not be installed. Check the network, install it with the Extensions "
            "Manager, restart Slicer and press Apply again."
        )
        raise RunError(msg)
    msg = _("The extension 'PyTorch' is installed. Restart Slicer, then press Apply again.")
    raise RunError(msg)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the release part of a version, e.g. (2, 1, 0) for 2.1.0+cu128."""
    match = re.match(r"\s*(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()
