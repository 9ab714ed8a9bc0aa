"""Packages of the worker: asked once, with reason and size; each Slicer in its own way; failures explained."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from module_host import MODULE, thick_head

slicer = pytest.importorskip("slicer")

VERSIONS = [(5, 10), (5, 12)]


@pytest.fixture
def user_host(models_folder: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A host with a user before it, not a test run: questions are asked, and answered as `dialogs.expect` says.

    Parametrized indirectly by the arguments of `Host`; the newest Slicer, without torch, if by nothing.
    """
    from slicer_host import Host

    options = {"torch": "not installed", **getattr(request, "param", {})}
    with Host(testing=False, main_window=True, **options) as opened:
        yield opened
        errors = list(opened.errors)
    assert not errors, f"Exceptions in slots, timers or observers: {errors}"


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of packages that count as missing until pip or PyTorchUtils has succeeded."""
    from slicer_host import older_slicer

    from ScoreFusionLib.logic import packages

    names = {"nibabel", "torch"}
    real = packages.is_satisfied
    installed = older_slicer.packaging_module().installed
    monkeypatch.setattr(packages, "is_satisfied", lambda line: (name_of(line) not in names - installed) and real(line))
    return names


def name_of(requirement: str) -> str:
    return requirement.split(">=")[0]


class Answers:
    """Records the questions and says yes, or no."""

    def __init__(self, *, yes: bool = True) -> None:
        self.questions: list[str] = []
        self._yes = yes

    def __call__(self, question: str) -> bool:
        self.questions.append(question)
        return self._yes


class TestInstalling:
    def test_nothing_is_asked_when_nothing_is_missing(self, host: Any, fake_worker: Any) -> None:
        from ScoreFusionLib.logic.install import ensure_installed

        ask = Answers()
        ensure_installed(ask)
        assert not ask.questions

    def test_one_question_names_packages_reason_and_size(
        self, user_host: Any, fake_worker: Any, lacking: set[str]
    ) -> None:
        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        ask = Answers(yes=False)
        with pytest.raises(RunError, match="cannot run without these packages"):
            ensure_installed(ask)
        assert len(ask.questions) == 1
        for word in ("PyTorch", "nibabel", "GB", "once"):
            assert word in ask.questions[0]
        assert not user_host.pip_calls

    def test_packages_go_through_slicer_packaging_and_torch_through_its_extension(
        self, user_host: Any, fake_worker: Any, lacking: set[str], monkeypatch: Any
    ) -> None:
        import PyTorchUtils

        from ScoreFusionLib.logic.install import ensure_installed

        constraints: list[str] = []
        real = slicer.packaging.pip_install

        def pip_install(requirements: list[str], **options: Any) -> None:
            constraints.append(Path(options["constraints"]).read_text())
            real(requirements, **options)

        monkeypatch.setattr("slicer.packaging.pip_install", pip_install)
        ensure_installed(Answers())
        [call] = user_host.pip_calls
        assert call["requirements"] == ["nibabel>=5.0"]
        assert "numpy==" in constraints[0]  # an install must not replace what Slicer runs on
        assert call["requester"] == "ScoreFusion"
        [torch_call] = PyTorchUtils.install_calls
        assert torch_call["askConfirmation"] is False  # asked already
        assert torch_call["torchVersionRequirement"] == ">=2.3"

    @pytest.mark.parametrize("user_host", [{"version": (5, 10)}], indirect=True)
    def test_slicer_5_10_has_pip_install_in_slicer_util(
        self, user_host: Any, fake_worker: Any, lacking: set[str]
    ) -> None:
        from ScoreFusionLib.logic.install import ensure_installed

        ensure_installed(Answers())
        [call] = user_host.pip_calls
        assert call["requirements"][0] == "--constraint"
        assert call["requirements"][2:] == ["nibabel>=5.0"]

    def test_nothing_is_installed_where_tests_answer_every_question_with_yes(
        self, host: Any, fake_worker: Any, lacking: set[str]
    ) -> None:
        import PyTorchUtils

        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed, reinstall

        ask = Answers()
        for install in (ensure_installed, reinstall):
            with pytest.raises(RunError, match=r"runs tests.*nibabel.*torch"):
                install(ask)
        assert not ask.questions + host.pip_calls + PyTorchUtils.install_calls
        assert not host.app.extensionsManagerModel().requested

    @pytest.mark.parametrize("user_host", [{"torch": "missing"}], indirect=True)
    def test_the_pytorch_extension_is_asked_for_once_and_a_restart_offered(
        self, user_host: Any, fake_worker: Any, lacking: set[str]
    ) -> None:
        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        manager = user_host.app.extensionsManagerModel()
        ask = Answers()
        with pytest.raises(RunError, match="is installed. Restart Slicer"):
            ensure_installed(ask)
        assert manager.requested == ["PyTorch"]
        assert not user_host.dialogs.shown  # none of the manager's own
        install, restart = ask.questions
        assert "extension 'PyTorch'" in install
        assert "unsaved" in restart
        assert user_host.app.restartRequested
        assert manager.interactive  # as before

    @pytest.mark.parametrize("user_host", [{"torch": "missing"}], indirect=True)
    def test_whoever_declines_the_pytorch_extension_gets_no_restart(
        self, user_host: Any, fake_worker: Any, lacking: set[str]
    ) -> None:
        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        with pytest.raises(RunError, match="Install the extension 'PyTorch' with the Extensions Manager"):
            ensure_installed(Answers(yes=False))
        assert not user_host.app.extensionsManagerModel().requested
        assert not user_host.app.restartRequested

    def test_the_module_that_installs_torch_is_called_as_users_see_it(
        self, user_host: Any, fake_worker: Any, lacking: set[str], monkeypatch: Any
    ) -> None:
        import PyTorchUtils

        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        lacking.discard("nibabel")
        monkeypatch.setattr(PyTorchUtils.PyTorchUtilsLogic, "installTorch", lambda *_args, **_options: None)
        with pytest.raises(RunError, match=f"the module '{PyTorchUtils.TITLE}'"):
            ensure_installed(Answers())

    def test_nothing_installs_torch_by_pip(self) -> None:
        for path in [MODULE, *(MODULE.parent / "ScoreFusionLib").rglob("*.py")]:
            text = path.read_text(encoding="utf-8")
            assert 'pip_install("torch' not in text, path
        assert "torch" not in [
            name_of(line) for line in (MODULE.parent / "Resources" / "requirements.txt").read_text().split("\n")
        ]


class TestFailure:
    @pytest.mark.parametrize("user_host", [{"version": v, "torch": "installed"} for v in VERSIONS], indirect=True)
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("ProxyError('Cannot connect to proxy.')", "HTTPS_PROXY"),
            ("SSLError(SSLCertVerificationError)", "REQUESTS_CA_BUNDLE"),
            ("Temporary failure in name resolution", "no network"),
            ("ERROR: No matching distribution found for nibabel>=5.0", "no build of a package"),
            ("OSError: [Errno 28] No space left on device", "disk is full"),
            ("PermissionError: [Errno 13] Permission denied", "cannot be written"),
            ("something else", "The log below"),
        ],
    )
    def test_what_pip_printed_says_what_to_do(
        self, text: str, expected: str, user_host: Any, fake_worker: Any, lacking: set[str]
    ) -> None:
        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        lacking.discard("torch")
        user_host.pip.lines, user_host.pip.returncode = ("Collecting nibabel", text), 1
        user_host.dialogs.expect(0)  # Slicer 5.12 shows the failure too
        with pytest.raises(RunError, match=expected) as caught:
            ensure_installed(Answers())
        assert text in caught.value.details

    @pytest.mark.parametrize("user_host", [{"version": v} for v in VERSIONS], indirect=True)
    def test_a_failed_download_of_torch_is_explained_too(
        self, user_host: Any, fake_worker: Any, lacking: set[str]
    ) -> None:
        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        lacking.discard("nibabel")
        user_host.pip.lines, user_host.pip.returncode = ("[Errno 28] No space left on device",), 1
        with pytest.raises(RunError, match="disk is full"):
            ensure_installed(Answers())

    def test_a_failure_is_shown_in_the_panel(self, user_host: Any, fake_worker: Any, lacking: set[str]) -> None:
        import qt

        widget = ready_widget(user_host)
        user_host.dialogs.expect(qt.QMessageBox.Cancel)
        widget.ui.applyButton.click()
        assert "cannot run without these packages" in widget.ui.warningsLabel.text
        assert widget.ui.applyButton.text == "Apply"

    def test_the_printed_lines_reach_the_log_of_the_panel_and_still_the_console(
        self, user_host: Any, fake_worker: Any, lacking: set[str], capsys: Any
    ) -> None:

        widget = ready_widget(user_host)
        user_host.pip.lines, user_host.pip.returncode = ("Collecting nibabel", "ERROR: odd"), 1
        user_host.dialogs.expect(press_ok)
        user_host.dialogs.expect(0)
        widget.ui.applyButton.click()
        assert "Collecting nibabel\nERROR: odd" in widget.ui.logText.plainText
        assert "ERROR: odd" in capsys.readouterr().out


class TestWhileInstalling:
    """PyTorchUtils downloads for minutes and lets the user go on clicking."""

    def test_it_is_shown_and_cannot_be_entered_twice(self, user_host: Any, fake_worker: Any, lacking: set[str]) -> None:
        import PyTorchUtils
        import qt

        lacking.discard("nibabel")
        widget = ready_widget(user_host)
        user_host.pip.lines, user_host.pip.pause = ("Collecting torch", "Downloading torch-2.9 (780 MB)", "..."), 0.3
        seen: list[tuple[str, bool, bool]] = []

        def meanwhile() -> None:
            if "Downloading" not in widget.ui.statusLabel.text:
                qt.QTimer.singleShot(20, meanwhile)
                return
            seen.append((widget.ui.applyButton.text, widget.ui.applyButton.enabled, widget.ui.progressBar.visible))
            widget.panel.apply_or_cancel()  # a key, a macro: whatever gets past the button
            widget.panel.reinstall()

        qt.QTimer.singleShot(20, meanwhile)
        user_host.dialogs.expect(press_ok)
        widget.ui.applyButton.click()
        assert seen == [("Installing...", False, True)]
        assert len(PyTorchUtils.install_calls) == 1
        user_host.wait_until(lambda: not widget.panel.run.is_busy, timeout=60)
        assert widget.panel.run.job.result is not None  # the run that Apply asked for

    def test_a_scene_closed_meanwhile_gets_no_run(self, user_host: Any, fake_worker: Any, lacking: set[str]) -> None:
        import qt

        lacking.discard("nibabel")
        widget = ready_widget(user_host)
        user_host.pip.pause = 0.3
        qt.QTimer.singleShot(100, user_host.close_scene)
        user_host.dialogs.expect(press_ok)
        widget.ui.applyButton.click()
        assert widget.panel.run.job is None
        assert widget.ui.applyButton.text == "Apply"
        assert not widget.ui.applyButton.enabled

    def test_a_module_unloaded_meanwhile_does_no_harm(
        self, user_host: Any, fake_worker: Any, lacking: set[str]
    ) -> None:
        import qt

        lacking.discard("nibabel")
        widget = ready_widget(user_host)
        user_host.pip.lines, user_host.pip.pause = ("Collecting torch", "Downloading torch", "..."), 0.2
        qt.QTimer.singleShot(300, lambda: user_host.unload(user_host.app.moduleManager().module("ScoreFusion")))
        user_host.dialogs.expect(press_ok)
        widget.panel.apply_or_cancel()  # no button in between, which would be deleted below its own click
        assert widget.panel.run.job is None
        assert not user_host.errors

    def test_a_second_caller_is_told_to_wait(self, user_host: Any, fake_worker: Any, lacking: set[str]) -> None:
        import qt

        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        refusals: list[str] = []

        def again() -> None:
            try:
                ensure_installed(Answers())
            except RunError as error:
                refusals.append(str(error))

        user_host.pip.pause = 0.2
        qt.QTimer.singleShot(100, again)
        ensure_installed(Answers())
        assert len(refusals) == 1
        assert "already being installed" in refusals[0]


class TestPackageSection:
    """What is installed, and the button that installs it again."""

    def test_it_tells_versions_and_the_graphics_card(self, host: Any, widget: Any) -> None:
        import importlib.metadata

        from scorefusion.version import __version__
        from ScoreFusionLib.logic.devices import Device

        widget.ui.packagesSection.collapsed = False
        text = widget.ui.packagesLabel.text
        for name in ("torch", "nibabel", "SimpleITK"):
            assert name in text
            assert importlib.metadata.version(name) in text
        assert __version__ in text
        widget.panel.devices._show([Device("auto", "Automatic"), Device("cpu", "CPU")])
        assert "none seen" in widget.ui.packagesLabel.text
        widget.panel.devices._show([Device("auto", "Automatic"), Device("cuda:0", "cuda:0 - RTX 4090")])
        assert "cuda:0 - RTX 4090" in widget.ui.packagesLabel.text

    def test_what_is_missing_is_told(self, user_host: Any, fake_worker: Any, monkeypatch: Any) -> None:
        import importlib.metadata

        real = importlib.metadata.version

        def version(name: str) -> str:
            if name == "torch":
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        widget = user_host.open(user_host.load_module(MODULE))
        widget.ui.packagesSection.collapsed = False
        assert "not installed" in widget.ui.packagesLabel.text

    def test_reinstall_repeats_the_installation(
        self, user_host: Any, fake_worker: Any, monkeypatch: Any, lacking: set[str]
    ) -> None:
        import PyTorchUtils

        lacking.clear()
        monkeypatch.delitem(sys.modules, "torch", raising=False)  # a session in which nothing has used it
        widget = ready_widget(user_host)
        user_host.dialogs.expect(press_ok)
        widget.ui.reinstallButton.click()
        assert "again" in user_host.dialogs.shown[0]
        forced, completed, removed = user_host.pip_calls
        assert forced["requirements"][:2] == ["--force-reinstall", "--no-deps"]
        assert "nibabel>=5.0" in forced["requirements"]
        assert completed["requirements"] == forced["requirements"][2:]
        assert removed["requirements"] == "torch torchvision"
        assert len(PyTorchUtils.install_calls) == 1
        assert widget.panel.run.job is None  # nothing was run
        assert widget.ui.applyButton.enabled

    def test_a_torch_in_use_is_not_taken_away(
        self, user_host: Any, fake_worker: Any, monkeypatch: Any, lacking: set[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch", object())
        widget = ready_widget(user_host)
        widget.ui.reinstallButton.click()
        assert "Restart Slicer" in widget.ui.warningsLabel.text
        assert not user_host.pip_calls


class TestTorch:
    def test_one_from_before_numpy_2_is_too_old(self, host: Any, fake_worker: Any, monkeypatch: Any) -> None:
        import importlib.metadata

        from ScoreFusionLib.logic.packages import find_missing

        real = importlib.metadata.version
        for version, too_old in (("2.2.2", True), ("2.3.0", False), ("2.9.1+cu128", False)):
            monkeypatch.setattr(
                importlib.metadata, "version", lambda name, v=version: v if name == "torch" else real(name)
            )
            assert find_missing().torch is too_old, version

    @pytest.mark.parametrize("has_extension", ["missing", "not installed"])
    def test_an_intel_mac_is_told_that_there_is_none(
        self, has_extension: str, models_folder: Any, fake_worker: Any, lacking: set[str], monkeypatch: Any
    ) -> None:
        from slicer_host import Host

        from ScoreFusionLib.logic import packages
        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        monkeypatch.setattr(packages.platform, "system", lambda: "Darwin")
        monkeypatch.setattr(packages.platform, "machine", lambda: "x86_64")
        with Host(testing=False, torch=has_extension) as host:
            ask = Answers()
            with pytest.raises(RunError, match=r"Intel Macs end at 2\.2\.2"):
                ensure_installed(ask)
            assert not ask.questions + host.pip_calls
            monkeypatch.setattr(packages.platform, "machine", lambda: "arm64")
            lacking.discard("nibabel")
            with pytest.raises(RunError, match="PyTorch|cannot run"):
                ensure_installed(Answers(yes=False))


class TestWorkerWithoutTorch:
    def test_the_message_names_the_package(self, host: Any, widget: Any, fake_worker: Any) -> None:
        fake_worker("no_torch")
        widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index("test-sr"))
        widget.panel.conditions.selectors["image"].setCurrentNode(thick_head())
        widget.ui.applyButton.click()
        host.wait_until(lambda: not widget.panel.run.is_busy, timeout=60)
        assert "The Python package" in widget.ui.warningsLabel.text
        assert "torch" in widget.ui.warningsLabel.text


def ready_widget(host: Any) -> Any:
    """The module's widget with all that Apply needs, apart from packages."""
    widget = host.open(host.load_module(MODULE))
    widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index("test-sr"))
    widget.panel.conditions.selectors["image"].setCurrentNode(thick_head())
    return widget


def press_ok(box: Any) -> None:
    import qt

    box.button(qt.QMessageBox.Ok).click()
