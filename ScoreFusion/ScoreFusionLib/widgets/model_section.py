"""The choice of a model, what it is for, and the menu that manages models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic import models
from ScoreFusionLib.logic.errors import RunError
from ScoreFusionLib.logic.signal import Signal
from ScoreFusionLib.logic.wording import model_summary


class ModelSection:
    """Signal: `chosen(model id)`, when the user picks one."""

    def __init__(self, ui: Any) -> None:
        self.chosen = Signal()
        self._ui = ui
        self._listed: list[models.Listed] = []
        self._card: Any = None
        self._menu = qt.QMenu(ui.modelMenuButton)
        self._add_action(_("About this model"), self.show_card)
        self._add_action(_("Import a zip file..."), self.import_zip)
        self._add_action(_("Import a folder..."), self.import_folder)
        self._add_action(_("Open the folder of my models"), self.open_folder)
        self._remove = self._add_action(_("Remove this model..."), self.remove_current)
        ui.modelMenuButton.setMenu(self._menu)
        ui.modelSelector.connect("currentIndexChanged(int)", self._on_index_changed)
        self.reload()

    @property
    def model(self) -> models.ModelInfo | None:
        """The chosen model, None if there is none or it cannot be used."""
        listed = self._current()
        return listed.info if listed is not None else None

    @property
    def problem(self) -> str:
        """Why there is no usable model; empty if there is."""
        listed = self._current()
        if listed is None:
            return _("There is no model. Import one with the button 'Manage'.")
        return listed.problem or ""

    def ids(self) -> list[str]:
        """Return the ids of all models of the list."""
        return [listed.id for listed in self._listed]

    def reload(self, select: str | None = None) -> None:
        """Read the list of models again."""
        current = self._current()
        keep = select or (current.id if current is not None else "")
        self._listed = models.list_models()
        selector = self._ui.modelSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for listed in self._listed:
            selector.addItem(
                listed.title if listed.problem is None else _("{title} (unusable)").format(title=listed.title)
            )
        selector.blockSignals(blocked)
        self.select(keep)

    def select(self, model_id: str) -> None:
        """Show a model without telling anyone; an unknown id leaves the choice as it is."""
        if model_id in self.ids() and self._ui.modelSelector.currentIndex != self.ids().index(model_id):
            blocked = self._ui.modelSelector.blockSignals(True)
            self._ui.modelSelector.setCurrentIndex(self.ids().index(model_id))
            self._ui.modelSelector.blockSignals(blocked)
        self._describe()

    def show_card(self) -> None:
        """Show the model card in a window of its own."""
        if self.model is None:
            return
        self._card = qt.QTextBrowser()
        self._card.setWindowTitle(self.model.title)
        self._card.setOpenExternalLinks(True)
        self._card.setMarkdown(models.read_card(self.model))
        self._card.resize(640, 720)
        self._card.show()

    def import_zip(self) -> None:
        """Ask for a zip file and import it."""
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Import a model"), "", _("Models (*.zip)"))
        self._import(path)

    def import_folder(self) -> None:
        """Ask for a folder and import it."""
        self._import(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Import a model")))

    def open_folder(self) -> None:
        """Show the folder of the user's models in the file browser."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(models.user_folder())))

    def remove_current(self) -> None:
        """Delete the chosen model after a question."""
        listed = self._current()
        if listed is None:
            return
        question = _("Delete the model '{model}' from this computer?").format(model=listed.title)
        if slicer.util.confirmOkCancelDisplay(question, _("Remove a model")):
            self._try(lambda: models.remove_model(listed.id))
            self.reload()
            self._tell()

    def close(self) -> None:
        """Close the window of the card, if it is open."""
        if self._card is not None:
            self._card.close()
            self._card = None

    def _import(self, path: str) -> None:
        if not path:
            return
        imported = self._try(lambda: models.import_model(Path(path)))
        if imported:
            self.reload(select=imported)
            self._tell()

    def _try(self, action: Any) -> Any:
        try:
            return action()
        except RunError as error:
            slicer.util.errorDisplay(str(error), windowTitle=_("Models"))
            return None

    def _current(self) -> models.Listed | None:
        index = self._ui.modelSelector.currentIndex
        return self._listed[index] if 0 <= index < len(self._listed) else None

    def _describe(self) -> None:
        model = self.model
        self._ui.modelSummary.setText(model_summary(model) if model is not None else self.problem)
        self._remove.setEnabled(self._current() is not None and not (model is not None and model.is_shipped))

    def _on_index_changed(self, _index: int) -> None:
        self._describe()
        self._tell()

    def _tell(self) -> None:
        listed = self._current()
        self.chosen.emit(listed.id if listed is not None else "")

    def _add_action(self, text: str, slot: Any) -> Any:
        action = self._menu.addAction(text)
        action.connect("triggered()", slot)
        return action
