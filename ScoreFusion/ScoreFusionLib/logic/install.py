"""Installs the Python packages of the worker after one question, or installs them again.

Slicer 5.12 brings `slicer.packaging`; before, there is `slicer.util.pip_install`. PyTorch comes from the extension of
that name, which picks the build that fits the graphics card; it is never installed by pip from here. Nothing of this
happens at import or in a thread: all of it lets the event loop run while it waits, so that the user can go on clicking.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slicer

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic import install_failure, packages
from ScoreFusionLib.logic.errors import RunError

Ask = Callable[[str], bool]  # shows a text with OK and Cancel, returns the answer
Tell = Callable[[str], object]  # is given each line that is printed, none of them empty
_under_way = False


def ensure_installed(ask: Ask, tell: Tell = str) -> None:
    """Install what is missing, after one question.

    Raises:
        RunError: The user said no, or the installation failed; the message says what to do.
    """
    missing = packages.find_missing()
    if not missing:
        return
    _check_that_it_can_be(missing, ask)
    if not ask(_question(_("ScoreFusion computes in a Python process of its own, and that needs:"), missing)):
        msg = _("ScoreFusion cannot run without these packages. Press Apply again whenever you wish to install them.")
        raise RunError(msg)
    with _installing(tell):
        if missing.packages:
            _pip_install(list(missing.packages))
        if missing.torch:
            _install_torch()
    _check_that_all_is_there()


def reinstall(ask: Ask, tell: Tell = str) -> None:
    """Repeat the whole installation after one question; a user who says no is left alone.

    Raises:
        RunError: It cannot be done now, or it failed; the message says what to do.
    """
    needed = packages.everything()
    _check_that_it_can_be(needed, ask)
    if "torch" in sys.modules:
        msg = _(
            "PyTorch is in use by this session of Slicer, so its files cannot be replaced. Restart Slicer, and press "
            "Reinstall before anything else uses it."
        )
        raise RunError(msg)
    if not ask(_question(_("These packages are removed, downloaded and installed again:"), needed)):
        return
    with _installing(tell):
        # First the packages themselves and nothing of Slicer's own, then whatever they in turn lack.
        _pip_install(["--force-reinstall", "--no-deps", *needed.packages])
        _pip_install(list(needed.packages))
        _pytorch_logic().uninstallTorch()
        _install_torch()
    _check_that_all_is_there()


def _question(reason: str, what: packages.Missing) -> str:
    return "\n".join(
        [reason, "", *what.sizes(), "", _("They are downloaded once, into Slicer's own Python. Install now?")]
    )


def _check_that_it_can_be(what: packages.Missing, ask: Ask) -> None:
    """Raise RunError where nothing can be installed; offers the extension that brings PyTorch."""
    if _under_way:
        msg = _("Packages are already being installed. Wait until that has ended.")
        raise RunError(msg)
    if slicer.app.testingEnabled():
        msg = _("Nothing is installed while Slicer runs tests, which say yes to every question. Missing: {names}.")
        raise RunError(msg.format(names=what.names()))
    if what.torch:
        problem = packages.no_torch_for_this_computer()
        if problem:
            raise RunError(problem)
        if not _has_pytorch_extension():
            _install_pytorch_extension(ask)


def _check_that_all_is_there() -> None:
    left = packages.find_missing()
    if left:
        msg = _(
            "Slicer's Python still lacks {names} after the installation. Restart Slicer and press Apply again; if it "
            "recurs, the log of the Python console tells why."
        ).format(names=left.names())
        raise RunError(msg)


@contextlib.contextmanager
def _installing(tell: Tell) -> Iterator[None]:
    """Allow one installation at a time, hand its printed lines to `tell`, and explain its failure by them.

    Neither Slicer says in its error what pip said: 5.10 gives a stream that it has read to the end, 5.12 nothing.
    """
    global _under_way
    _under_way = True
    heard = _Tee(sys.stdout, tell)
    tell(_("Starting the installation"))
    try:
        with contextlib.redirect_stdout(heard):
            yield
    except RunError:
        raise
    except Exception as error:  # pip, network, permissions: all end in the same place
        log = "\n".join([*heard.lines, str(error)])
        raise RunError(install_failure.explain(log), log) from error
    finally:
        _under_way = False
        importlib.invalidate_caches()


class _Tee(io.TextIOBase):
    """Writes on to a stream, and hands each whole line to a listener. `lines` keeps them."""

    def __init__(self, stream: Any, tell: Tell) -> None:
        self.lines: list[str] = []
        self._stream, self._tell, self._rest = stream, tell, ""

    def write(self, text: str) -> int:
        """Pass on a text."""
        self._stream.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(None, map(str.strip, lines)):
            self.lines.append(line)
            self._tell(line)
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind."""
        self._stream.flush()


def _pip_install(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="ScoreFusion-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(packages.constraints()), encoding="utf-8")
        try:  # Slicer 5.12 and newer: a progress dialog with a log
            from slicer.packaging import pip_install
        except ImportError:
            slicer.util.pip_install(["--constraint", str(constraints), *arguments])
        else:
            pip_install(arguments, constraints=str(constraints), requester="ScoreFusion")


def _has_pytorch_extension() -> bool:
    try:
        import PyTorchUtils  # noqa: F401  (the extension's module; it does not import torch)
    except ImportError:
        return False
    return True


def _pytorch_logic() -> Any:
    import PyTorchUtils

    return PyTorchUtils.PyTorchUtilsLogic()


def _install_torch() -> None:
    if _pytorch_logic().installTorch(askConfirmation=False, torchVersionRequirement=packages.TORCH) is None:
        msg = _("PyTorch was not installed. Open the module 'PyTorch Utils', install it there, then press Apply again.")
        raise RunError(msg)


def _install_pytorch_extension(ask: Ask) -> None:
    """Offer the extension that brings PyTorch; it is there only after a restart, so this never returns."""
    question = _(
        "ScoreFusion needs the extension 'PyTorch' (less than 1 MB). Install it now? Slicer must be restarted then."
    )
    manager = slicer.app.extensionsManagerModel() if hasattr(slicer.app, "extensionsManagerModel") else None
    if manager is None or not ask(question):
        msg = _("Install the extension 'PyTorch' with the Extensions Manager, restart Slicer and press Apply again.")
        raise RunError(msg)
    is_interactive, manager.interactive = manager.interactive, False  # it would ask the same again
    try:
        is_installed = manager.installExtensionFromServer("PyTorch", False)
    finally:
        manager.interactive = is_interactive
    if not is_installed:
        msg = _(
            "The extension 'PyTorch' could not be installed. Check the network, install it with the Extensions "
            "Manager, restart Slicer and press Apply again."
        )
        raise RunError(msg)
    if ask(_("The extension 'PyTorch' is installed. Restart Slicer now? Anything unsaved in the scene is lost.")):
        slicer.util.restart()
    msg = _("The extension 'PyTorch' is installed. Restart Slicer, then press Apply again.")
    raise RunError(msg)
