"""Packages of the worker: asked once, with reason and size; each Slicer in its own way; failures explained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from module_host import MODULE, thick_head

slicer = pytest.importorskip("slicer")


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of packages that count as missing until something installs them."""
    from ScoreFusionLib.logic import install

    names = {"nibabel", "torch"}
    real = install.is_satisfied
    monkeypatch.setattr(install, "is_satisfied", lambda line: line.split(">=")[0] not in names and real(line))
    return names


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

    def test_one_question_names_packages_reason_and_size(self, host: Any, fake_worker: Any, lacking: set[str]) -> None:
        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        ask = Answers(yes=False)
        with pytest.raises(RunError, match="cannot run without these packages"):
            ensure_installed(ask)
        assert len(ask.questions) == 1
        for word in ("PyTorch", "nibabel", "GB", "once"):
            assert word in ask.questions[0]
        assert not slicer.packaging.calls

    def test_packages_go_through_slicer_packaging_and_torch_through_its_extension(
        self, host: Any, fake_worker: Any, lacking: set[str], monkeypatch: Any
    ) -> None:
        import PyTorchUtils

        from ScoreFusionLib.logic.install import ensure_installed

        host.app.setTestingEnabled(False)
        calls: list[Any] = []

        def pip_install(requirements: list[str], **options: Any) -> None:
            constraints = Path(options["constraints"]).read_text()
            calls.append((requirements, constraints, options["requester"]))
            lacking.discard("nibabel")

        monkeypatch.setattr("slicer.packaging.pip_install", pip_install)
        real = PyTorchUtils.PyTorchUtilsLogic.installTorch

        def install_torch(self: Any, **options: Any) -> Any:
            lacking.discard("torch")
            return real(self, **options)

        monkeypatch.setattr(PyTorchUtils.PyTorchUtilsLogic, "installTorch", install_torch)
        ensure_installed(Answers())
        [(requirements, constraints, requester)] = calls
        assert requirements == ["nibabel>=5.0"]
        assert "numpy==" in constraints  # an install must not replace what Slicer runs on
        assert requester == "ScoreFusion"
        assert PyTorchUtils.install_calls[0]["askConfirmation"] is False  # asked already
        assert not any("torch" in str(call) for call in calls)

    def test_slicer_5_10_has_pip_install_in_slicer_util(
        self, host: Any, fake_worker: Any, lacking: set[str], monkeypatch: Any
    ) -> None:
        from ScoreFusionLib.logic.install import ensure_installed

        lacking.discard("torch")
        monkeypatch.setitem(sys.modules, "slicer.packaging", None)
        calls: list[Any] = []
        monkeypatch.setattr("slicer.util.pip_install", lambda args: (calls.append(args), lacking.clear()))
        ensure_installed(Answers())
        [arguments] = calls
        assert arguments[0] == "--constraint"
        assert arguments[2:] == ["nibabel>=5.0"]

    def test_without_the_pytorch_extension_it_is_offered_and_a_restart_asked_for(
        self, models_folder: Any, fake_worker: Any, lacking: set[str]
    ) -> None:
        from slicer_host import Host

        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        with Host(torch="missing") as host:
            ask = Answers()
            with pytest.raises(RunError, match="is installed. Restart Slicer"):
                ensure_installed(ask)
            assert host.app.extensionsManagerModel().requested == ["PyTorch"]
            assert "extension 'PyTorch'" in ask.questions[0]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("ProxyError('Cannot connect to proxy.')", "HTTPS_PROXY"),
            ("SSLError(SSLCertVerificationError)", "REQUESTS_CA_BUNDLE"),
            ("Temporary failure in name resolution", "no network"),
            ("OSError: [Errno 28] No space left on device", "disk is full"),
            ("PermissionError: [Errno 13] Permission denied", "cannot be written"),
            ("something else", "Details are in the log"),
        ],
    )
    def test_a_failure_says_what_to_do(
        self, text: str, expected: str, host: Any, fake_worker: Any, lacking: set[str], monkeypatch: Any
    ) -> None:
        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        def fail(*_args: Any, **_options: Any) -> None:
            raise subprocess.CalledProcessError(1, "pip", output=text)

        monkeypatch.setattr("slicer.packaging.pip_install", fail)
        with pytest.raises(RunError, match=expected):
            ensure_installed(Answers())

    def test_the_module_that_installs_torch_is_called_as_users_see_it(
        self, host: Any, fake_worker: Any, lacking: set[str], monkeypatch: Any
    ) -> None:
        import PyTorchUtils

        from ScoreFusionLib.logic.errors import RunError
        from ScoreFusionLib.logic.install import ensure_installed

        lacking.discard("nibabel")
        monkeypatch.setattr(PyTorchUtils.PyTorchUtilsLogic, "installTorch", lambda *_args, **_options: None)
        with pytest.raises(RunError, match=f"the module '{PyTorchUtils.TITLE}'"):
            ensure_installed(Answers())

    def test_a_failure_is_shown_in_the_panel(self, host: Any, widget: Any, lacking: set[str], monkeypatch: Any) -> None:
        monkeypatch.setattr("slicer.util.confirmOkCancelDisplay", lambda *_args, **_options: False)
        widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index("test-sr"))
        widget.panel.conditions.selectors["image"].setCurrentNode(thick_head())
        widget.ui.applyButton.click()
        assert "cannot run without these packages" in widget.ui.warningsLabel.text
        assert widget.ui.applyButton.text == "Apply"

    def test_nothing_installs_torch_by_pip(self) -> None:
        for path in [MODULE, *(MODULE.parent / "ScoreFusionLib").rglob("*.py")]:
            text = path.read_text(encoding="utf-8")
            assert 'pip_install("torch' not in text, path
        assert "torch" not in [
            line.split(">=")[0] for line in (MODULE.parent / "Resources" / "requirements.txt").read_text().split("\n")
        ]


class TestWorkerWithoutTorch:
    def test_the_message_names_the_package(self, host: Any, widget: Any, fake_worker: Any) -> None:
        fake_worker("no_torch")
        widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index("test-sr"))
        widget.panel.conditions.selectors["image"].setCurrentNode(thick_head())
        widget.ui.applyButton.click()
        host.wait_until(lambda: not widget.panel.run.is_busy, timeout=60)
        assert "The Python package" in widget.ui.warningsLabel.text
        assert "torch" in widget.ui.warningsLabel.text
