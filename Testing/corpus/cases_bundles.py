"""Models from outside: hostile metadata, names that could mean two models, homes that are none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from corpus.framework import Given, refused, right
from corpus.makers import nifti

Change = Callable[[dict[str, Any]], object]


def _model(folder: Path, change: Change | None = None, text: Callable[[str], str] = str) -> Path:
    """A tiny restorer below `folder`, its metadata changed as values and then as text."""
    from tiny_models import PRESETS, tiny_ensemble, write_tiny_bundle

    from scorefusion.fusion.inputs import InputLayout
    from scorefusion.fusion.rules import PlaneAverage

    rule = PlaneAverage(tiny_ensemble(InputLayout(slab_radius=1, plane_context=True, residual_gain=4.0)))
    bundle = write_tiny_bundle(folder, rule, base="cubic", presets={"fast": PRESETS["fast"]})
    path = bundle.folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    if change is not None:
        change(metadata)
    path.write_text(text(json.dumps(metadata)))
    return bundle.folder


def _given(folder: Path, model: str, environment: Mapping[str, str] | None = None, **facts: Any) -> Given:
    scan = nifti(folder / "scan.nii")
    return Given(scan, options=["--model", model], environment=environment or {}, **facts)


def _with(change: Change | None = None, text: Callable[[str], str] = str) -> Callable[[Path], Given]:
    def make(folder: Path) -> Given:
        _model(folder.parent / "evil", change, text)
        return _given(folder, "../evil", names="evil")

    return make


def _set(*path: Any, value: Any) -> Change:
    def change(metadata: dict[str, Any]) -> None:
        inner: Any = metadata["scorefusion"]
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


_CONFIG = ("networks", "planes", 0, "config")
for _path in (
    (*_CONFIG, "blocks"), (*_CONFIG, "channels"), (*_CONFIG, "stem_factor"), (*_CONFIG, "embedding_size"),
    ("presets", "fast", "samples"), ("presets", "fast", "steps"), ("presets", "fast", "eta"), ("slab_radius",),
    ("residual_gain",), ("base_rounds",), ("spacing_mm",), ("schedule", "num_train_timesteps"), ("inputs", "position"),
    ("domain", "extent_mm"), ("conditions",), ("planes",), ("files",), ("target",),
):  # fmt: skip
    for _value in (10**12, -1, "x", True, [10**9] * 3, {}, None):
        if (_path[-1], _value) in (("position", True), ("start", None)):
            continue
        refused(
            f"bundle: {'.'.join(map(str, _path))} = {json.dumps(_value)}",
            _with(_set(*_path, value=_value)),
            f"scorefusion.{_path[0]}",
        )

refused("bundle: metadata nested without end", _with(text=lambda text: "[" * 100_000), "nested deeper")
refused("bundle: a number of 5000 digits", _with(text=lambda text: text[:-1] + ', "x": ' + "9" * 5000 + "}"), "digits")
refused("bundle: NaN in the metadata", _with(text=lambda text: text[:-1] + ', "x": NaN}'), "finite")
refused("bundle: a key given twice", _with(text=lambda text: text[:-1] + ', "name": "x"}'), "twice")
refused("bundle: a title that moves the cursor", _with(lambda metadata: metadata.update(name="\x1b[2J")), "cannot be")


def _shadowed(folder: Path) -> Given:
    _model(folder / "sr-of-mine")
    return _given(folder, "sr-of-mine", names="sr-of-mine")


refused("bundle: a folder in the working folder is no id", _shadowed, "write ./sr-of-mine")
refused("bundle: a name of 5000 characters", lambda f: _given(f, "x" * 5000, names="xxxx"), "no model")
refused("bundle: a path of 5000 characters", lambda f: _given(f, "./" + "x" * 5000, names="xxxx"), "no model folder")
refused("bundle: no name at all", lambda f: _given(f, "", names="''"), "no model")


def _homeless(folder: Path) -> Given:
    _model(folder.parent / "fine")
    return _given(folder, "../fine", {"SCOREFUSION_HOME": "~nosuchuser/x"})


right("bundle: a home of nobody does not matter to a model that is given as a folder", _homeless)
refused(
    "bundle: a home of nobody is told where a model is sought there",
    lambda f: _given(f, "mine", {"SCOREFUSION_HOME": "~nosuchuser/x"}, names="~nosuchuser"),
    "SCOREFUSION_HOME",
)
