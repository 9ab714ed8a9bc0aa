"""The panel: its sections, and what happens between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic import node_import, preferences
from ScoreFusionLib.logic.advice import advise
from ScoreFusionLib.logic.errors import RunError
from ScoreFusionLib.logic.guides_part import GuidesPart, can_show_guides
from ScoreFusionLib.logic.job import TranslateJob
from ScoreFusionLib.logic.readiness import why_not
from ScoreFusionLib.logic.results import JobResult
from ScoreFusionLib.logic.sequences import frame_count
from ScoreFusionLib.logic.settings import Contrast, Frames, Preset
from ScoreFusionLib.logic.understanding import Understanding
from ScoreFusionLib.logic.wording import estimate
from ScoreFusionLib.widgets.condition_section import ConditionSection
from ScoreFusionLib.widgets.device_menu import DeviceMenu
from ScoreFusionLib.widgets.exam_section import ExamSection
from ScoreFusionLib.widgets.model_section import ModelSection
from ScoreFusionLib.widgets.package_section import PackageSection
from ScoreFusionLib.widgets.result_section import ResultSection
from ScoreFusionLib.widgets.run_section import RunSection


class Panel:
    """Shows a parameter node and starts runs.

    Args:
        ui: Widgets of ScoreFusion.ui by name.
        logic: Has `start(inputs, model, output, **options)`, which returns a job.
    """

    def __init__(self, ui: Any, logic: Any) -> None:
        self.ui = ui
        self._logic = logic
        self._parameters: Any = None
        self._refreshing = False
        self._understanding: Understanding | None = None
        self._subject: tuple[str, ...] = ()  # model and inputs that the messages are about
        self.models = ModelSection(ui)
        self.conditions = ConditionSection(ui)
        self.exam = ExamSection(ui)
        self.devices = DeviceMenu(ui)
        self.run = RunSection(ui)
        self.result = ResultSection(ui)
        self.packages = PackageSection(ui)
        self.models.chosen.connect(self._on_model_chosen)
        self.devices.chosen.connect(self._on_device_chosen)
        self.devices.missing.connect(self._on_device_missing)
        self.devices.estimated.connect(self.refresh)
        ui.presetSelector.connect("activated(int)", lambda index: preferences.remember_preset(list(Preset)[index]))
        self.result.guides_wanted.connect(self._show_guides)
        self.devices.shown.connect(self.packages.show_devices)
        self.packages.progressed.connect(self.run.show_installation)
        ui.reinstallButton.connect("clicked(bool)", lambda *_args: self.reinstall())
        ui.applyButton.connect("clicked(bool)", lambda *_args: self.apply_or_cancel())

    # -- from the shell --------------------------------------------------------------------------------------------

    def set_parameter_node(self, parameters: Any | None) -> None:
        """Show a parameter node, None when the module is left or the scene closes."""
        self._parameters = parameters
        if parameters is not None:
            if parameters.model not in self.models.ids() and self.models.ids():
                parameters.model = self.models.ids()[0]
                self._choose_preset()
            self.refresh()
            self.conditions.suggest()
            # After the panel is on the screen: the answer takes as long as a Python with torch takes to start.
            qt.QTimer.singleShot(0, self.devices.fill)
        self.refresh()

    def refresh(self) -> None:
        """Bring all sections in line with the parameter node."""
        if self._refreshing:
            return
        self._refreshing = True
        try:
            self._refresh()
        finally:
            self._refreshing = False

    def forget_result(self) -> None:
        """The scene was closed. Later, since Slicer restores its layout after it has told that the scene is closed."""
        qt.QTimer.singleShot(0, self.result.forget)

    def close(self) -> None:
        """The module goes away: end the worker, stop asking, give the layout back."""
        if self.run.job is not None:
            self.run.job.abort()
        self.packages.close()
        self.devices.close()
        self.models.close()
        self.result.close()

    # -- Apply -----------------------------------------------------------------------------------------------------

    def apply_or_cancel(self) -> None:
        """Start a run, or cancel the one under way."""
        if self.run.is_busy:
            self.run.job.cancel()  # type: ignore[union-attr]  # is_busy says that there is one
            return
        if not self._why_not():
            self._attempt(self._install_and_start)

    def reinstall(self) -> None:
        """Install the worker's packages again."""
        if not self.run.is_busy and not self.packages.is_busy:
            self._attempt(self.packages.reinstall)

    def _attempt(self, action: Callable[[], None]) -> None:
        self.run.forget_messages()
        failure: RunError | None = None
        try:
            action()
        except RunError as error:
            failure = error
        if self.packages.is_closed:  # the module was unloaded while packages were installed
            return
        if failure is not None:
            self.run.show_failure(failure)
        self.packages.show()
        self.refresh()

    def _install_and_start(self) -> None:
        self.packages.ensure()
        if not self._why_not():  # while it installed, the user may have chosen otherwise, or closed the scene
            self._start()

    def _start(self) -> None:
        parameters, chosen = self._parameters, self.conditions.chosen()
        base = next(iter(chosen.values()))
        thick = self._understanding
        wants_map = parameters.makeUncertainty
        job = self._logic.start(
            chosen,
            parameters.model,
            parameters.outputVolume,
            uncertainty=(parameters.uncertaintyVolume or True) if wants_map else False,
            reference=parameters.referenceVolume,
            change=parameters.makeChange and self.models.model.keeps_contrast,
            guides=self.exam.guides(),
            stacks=self.exam.stacks(),
            register=parameters.registerScans,
            all_frames=parameters.frames is Frames.ALL and frame_count(base) > 1,
            preset=parameters.preset.value,
            steps=parameters.steps or None,
            samples=parameters.samples or None,
            seed=parameters.seed,
            device=parameters.device,
            spacing=parameters.voxelSize or None,
            thickness=parameters.sliceThickness or None,
            axis=parameters.thickAxis.voxel_axis(thick) if thick is not None else None,
        )
        job.finished.connect(lambda result: self._on_finished(job, result, base))
        self._follow(job)

    def _follow(self, job: TranslateJob) -> None:
        for signal in (job.failed, job.cancelled):
            signal.connect(lambda *_args: self.refresh())
        self.run.follow(job)

    def _show_guides(self, done: TranslateJob) -> None:
        """Run once more without the guides, for the map of what they changed."""
        if self.run.is_busy or self.packages.is_busy:
            return
        part = GuidesPart(done)
        part.finished.connect(self._on_guides_shown)
        part.start()
        self._follow(part)

    def _on_guides_shown(self, result: JobResult) -> None:
        self.result.add_guides_map(result)
        self.refresh()

    def _on_finished(self, job: TranslateJob, result: JobResult, base: Any) -> None:
        thick = self._understanding
        axis = thick.axis_names[thick.thick_axis] if thick is not None and thick.thick_axis is not None else None
        self.result.show(result, base, axis, compare=self._parameters is not None)
        self.result.offer_guides(job if can_show_guides(job) else None)
        self.refresh()

    # -- between the sections --------------------------------------------------------------------------------------

    def _on_model_chosen(self, model_id: str) -> None:
        if self._parameters is not None:
            self._parameters.model = model_id
            self._choose_preset()
            self.refresh()
            self.conditions.suggest()

    def _on_device_chosen(self, name: str) -> None:
        if self._parameters is not None:
            self._parameters.device = name
            preferences.remember_device(name)

    def _on_device_missing(self, name: str) -> None:
        """The device of last time is gone: the engine decides. One that a scene asks for stays, to be seen."""
        if self._parameters is not None and name == preferences.remembered_device():
            self._parameters.device = "auto"

    def _choose_preset(self) -> None:
        self.models.select(self._parameters.model)
        if self.models.model is not None:
            self._parameters.preset = preferences.preset_for(self.models.model, self._parameters.preset)

    def _refresh(self) -> None:
        parameters = self._parameters
        if parameters is None:
            self.run.show_readiness(_("Open a scene first."))
            return
        self.models.select(parameters.model)
        self.conditions.show(self.models.model, parameters.parameterNode)
        self.devices.select(parameters.device)
        self._understanding = self.conditions.understanding()
        required = list(self.conditions.chosen().values())
        self.exam.show(self.models.model, required, self._contrast(), parameters.parameterNode)
        subject = (parameters.model, *(node.GetID() for node in [*required, *self._further_scans()]))
        if subject != self._subject:
            self._subject = subject
            self.run.forget_messages()
        self.conditions.show_understanding(self._understanding)
        self._show_output_choices()
        self._show_preset_note()
        self.run.show_advice(self._advice())
        self.run.show_readiness(self._why_not())

    def _show_output_choices(self) -> None:
        model, chosen = self.models.model, self.conditions.chosen()
        self.ui.uncertaintySelector.setEnabled(self._parameters.makeUncertainty)
        is_sharpening = model is not None and model.task == "super_resolution"
        self.ui.changeCheckBox.setVisible(model is not None and model.keeps_contrast)
        self.ui.voxelLabel.setVisible(is_sharpening)
        self.ui.voxelSpinBox.setVisible(is_sharpening)
        if model is not None and chosen:
            name = node_import.result_name(next(iter(chosen.values())).GetName(), model.result_label)
            self.ui.outputSelector.baseName = name
            self.ui.uncertaintySelector.baseName = _("{name} - uncertainty").format(name=name)

    def _show_preset_note(self) -> None:
        model = self.models.model
        settings = model.presets.get(self._parameters.preset.value, {}) if model is not None else {}
        known = model is not None and self.devices.device is not None and self._parameters.device in ("auto", "")
        seconds = self.devices.seconds_for(model.id, self._parameters.preset.value) if model is not None else None
        note = " ".join(filter(None, [str(settings.get("note", "")), estimate(seconds) if known else ""]))
        self.ui.presetNote.setText(note)
        self.ui.presetNote.setVisible(bool(note))

    def _advice(self) -> list[tuple[str, str]]:
        model, chosen = self.models.model, self.conditions.chosen()
        if model is None or self._understanding is None or not chosen:
            return []
        node = next(iter(chosen.values()))
        return advise(model, node, self._understanding, self._contrast(), self.devices.device)

    def _contrast(self) -> str | None:
        """What the first input shows: as the user says, else as it was read."""
        told = self._parameters.contrast
        if told is not Contrast.AUTO:
            return str(told.value)
        return self._understanding.contrast if self._understanding is not None else None

    def _further_scans(self) -> list[Any]:
        return [*self.exam.guides().values(), *self.exam.stacks()]

    def _why_not(self) -> str:
        parameters = self._parameters
        if parameters is None:
            return _("Open a scene first.")
        if self.packages.is_busy:
            return _("Packages are being installed.")
        wants_map = parameters.makeUncertainty
        return why_not(
            self.models.model,
            self.models.problem,
            {**self.conditions.chosen(), **self.exam.guides()},
            scans=self.exam.scans,
            preset=parameters.preset.value,
            output=parameters.outputVolume,
            uncertainty=parameters.uncertaintyVolume if wants_map else None,
            reference=parameters.referenceVolume,
        )
