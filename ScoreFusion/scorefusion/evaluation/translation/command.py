"""Translation, as `scorefusion evaluate` runs it: who translates for whom, by which methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import Model
from scorefusion.bundle.store import find_bundle
from scorefusion.datasets.case import Case
from scorefusion.errors import RequestError
from scorefusion.evaluation.meter import code_version, describe_machine
from scorefusion.evaluation.models import RuleRow, Settings, load, model_methods, named, prefixes, translating_rows
from scorefusion.evaluation.pictures import draw_comparison
from scorefusion.evaluation.report import content_of, write_report
from scorefusion.evaluation.rows import Benchmark, Loop, Made, Method, Row, choose, gains
from scorefusion.evaluation.suites import PAIR_SUITES, PairSuite, hash_of
from scorefusion.evaluation.translation.baselines import Samples, draw_samples, fitted_baselines, source_itself
from scorefusion.evaluation.translation.direction import Direction, common_direction
from scorefusion.evaluation.translation.folds import check_folds, fold_prefixes, persons_seen, read_folds, refuse_seen
from scorefusion.evaluation.translation.pairs import Pair, read_pair, to_unit
from scorefusion.evaluation.translation.tables import compare_translations, document
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.tiling import at
from scorefusion.imaging.foreground import foreground_box, foreground_mask
from scorefusion.imaging.grid import Reorientation
from scorefusion.imaging.intensity_map import clear_background, read_maps
from scorefusion.progress import Reporter
from scorefusion.run.devices import pick_device
from scorefusion.run.prepare import FOREGROUND_MARGIN_MM, Prepared, as_magnitude
from scorefusion.run.restore import Restoration


def asks_for_translation(models: Sequence[str], folds: Sequence[str], suite: str | None) -> bool:
    """Whether this benchmark is meant: by the models' task, by folds, or by a suite of its own.

    Raises:
        RequestError: models of both tasks, or such a suite without a model.
    """
    if suite in PAIR_SUITES and not (models or folds):
        msg = f"suite {suite!r} scores translation models; give one with --model (or one a person with --fold-model)"
        raise RequestError(msg)
    tasks = {find_bundle(name).task for name in models}
    if len(tasks) > 1:
        msg = f"the models are of the tasks {' and '.join(sorted(tasks))}; evaluate each kind in a run of its own"
        raise RequestError(msg)
    # A model of the other task meets its refusal where its direction is read, which says what to do.
    return bool(folds) or suite in PAIR_SUITES or tasks == {"translation"}


def evaluate_translation(
    suite: PairSuite,
    models: Sequence[str],
    folds: Sequence[str],
    out: Path,
    how: Settings | None = None,
    *,
    methods: Sequence[str] = (),
    pictures: bool = True,
    reporter: Reporter | None = None,
) -> tuple[Benchmark, list[Path]]:
    """The command without its terminal. Returns the rows and the files written.

    Args:
        suite: the persons.
        models: names or folders of bundles that translate for everybody.
        folds: `SUBJECT=BUNDLE`, instead of models: each person's own, which has not seen this person.
    """
    how, reporter = how or Settings(), reporter or Reporter()
    if models and folds:
        msg = "give --model (one for all) or --fold-model (one for each person), not both"
        raise RequestError(msg)
    by_person = read_folds(folds)
    bundles = [find_bundle(name) for name in models]
    direction = common_direction([*bundles, *(bundle for some in by_person.values() for bundle in some)])
    suite = direction.fitting(suite)
    if folds:
        check_folds(by_person, suite)
    for bundle in bundles:
        refuse_seen(bundle, [case.subject for case in suite.cases])
        if persons_seen(bundle) is None:
            reporter.warning(
                "training-not-stated",
                f"model {bundle.id!r} does not say whom it was trained on; if it saw a person of {suite.name}, its "
                "figures there mean nothing",
            )
    cast = Cast(suite, direction, bundles, by_person, methods, how, reporter)
    hashed = hash_of(path for case in suite.cases for path in direction.files(case))
    caption = {
        "direction": direction.title,
        "data": f"{suite.name} (split {suite.split}, cases: {len(suite.cases)}, SHA-256 {hashed})",
        "code": f"scorefusion {code_version()}",
        "machine": describe_machine(pick_device(how.device)),
        "model": cast.description,
        "intensities": direction.intensities,
        "seed": how.words,
    }
    out.mkdir(parents=True, exist_ok=True)
    benchmark, drawn = Benchmark(caption), []

    def draw(pair: Pair, made: Mapping[str, Made], rows: Sequence[Row]) -> None:
        facts = benchmark.facts[-1]
        facts["teachers"] = tuple(dict.fromkeys(case.case_id for case in suite.teachers(pair.case)))
        facts["models"] = tuple(f"{bundle.id} {bundle.version}" for bundle in cast.bundles_for(pair))
        if pictures:
            path = out / f"{pair.name}_{pair.contrasts[-1]}.png"
            drawn.append(draw_comparison(compare_translations(pair, made, rows), path))

    loop: Loop[Pair] = Loop(benchmark, cast, 0, reporter, draw, None if pictures else ())
    for case in suite.cases:
        reporter.progress(case.case_id, len(benchmark.facts), len(suite.cases))
        loop.add(read_pair(case, direction, suite.slice_axis))
    reporter.progress("scored", len(suite.cases), len(suite.cases))
    content = {**content_of(benchmark), "direction": direction.title}
    content["gains"] = [asdict(gain) for figure in ("psnr", "ssim") for gain in gains(benchmark.rows, figure)]
    rows = [row.flat() for row in benchmark.rows]
    return benchmark, [*write_report(document(benchmark, drawn), rows, content, out, "translation"), *drawn]


class Cast:
    """Who translates for whom: baselines that learned from others, and models that saw others."""

    def __init__(
        self,
        suite: PairSuite,
        direction: Direction,
        bundles: Sequence[Bundle],
        folds: Mapping[str, Sequence[Bundle]],
        wanted: Sequence[str],
        how: Settings,
        reporter: Reporter,
    ) -> None:
        self.suite, self.direction, self.bundles, self.folds = suite, direction, bundles, folds
        self._wanted, self._how, self._reporter = wanted, how, reporter
        self._prefixes = fold_prefixes(folds) if folds else prefixes(bundles)
        # Inputs that nobody lacks; a regression cannot do without one.
        self._inputs = [each.name for each in direction.inputs if not each.optional]
        self._samples: dict[str, Samples] = {}
        self._loaded: dict[str, Model] = {}

    @property
    def description(self) -> str:
        """Models with their hashes, for the caption."""
        if not self.folds:
            return named(self.bundles)
        return "leave one out: " + "; ".join(f"{subject} by {named(some)}" for subject, some in self.folds.items())

    def bundles_for(self, pair: Pair) -> Sequence[Bundle]:
        """The models of a person."""
        return self.folds.get(pair.case.subject, self.bundles)

    def __call__(self, pair: Pair) -> list[Method]:
        teachers = self.suite.teachers(pair.case)
        if not teachers:
            self._reporter.warning(
                "no-baselines",
                f"nobody but {pair.name} has {self.direction.title}, so regression and histogram matching have "
                "nothing to learn from and are left out; put training cases into the datalist",
            )
        methods = [source_itself(), *fitted_baselines([self._taught(case) for case in teachers], self._inputs)]
        for bundle, prefix in zip(self.bundles_for(pair), self._prefixes, strict=True):
            model = self._loaded.get(bundle.hash) or load(bundle, self._how)
            if not self.folds:  # a fold's model is for one person only
                self._loaded[bundle.hash] = model
            methods += translators(model, pair.plane, pair.is_slice, self._how, self._reporter, prefix)
        return choose(methods, self._wanted)

    def _taught(self, case: Case) -> Samples:
        if case.case_id not in self._samples:
            # Of a teacher's masks only the brain's is asked for: another may lie on a grid of its own.
            masks = {name: file for name, file in case.masks.items() if name == "brain"}
            pair = read_pair(replace(case, masks=masks), self.direction, self.suite.slice_axis)
            self._samples[case.case_id] = draw_samples(pair, self._inputs)
        return self._samples[case.case_id]


# -- models ------------------------------------------------------------------------------------------------------------


def translators(
    model: Model,
    plane: Plane = Plane.AXIAL,
    single_slices: bool = False,
    how: Settings | None = None,
    reporter: Reporter | None = None,
    prefix: str = "",
) -> list[Method]:
    """Every rule that the model can run; of single slices, only the plane network that looks at them.

    Raises:
        RequestError: single slices of a plane that the model does not look along.
    """
    rows = translating_rows(model, plane)
    found = []
    if single_slices:
        rows = [row for row in rows if row.rule == plane.value]
        if not rows:
            has = ", ".join(p.value for p in model.planes) or "none, it is a 3D network"
            msg = f"model {model.bundle.id!r} has no {plane.value} network for single slices; its planes: {has}"
            raise RequestError(msg)
    elif read_maps(model.section) is not None:
        label = f"{prefix}brightness map (what the networks start from)"
        found.append(Method(f"{prefix}map", label, "baseline", partial(_start_image, model)))
    return found + model_methods(
        model, rows, _request, _finish, how or Settings(), reporter or Reporter(), prefix, all_rows=single_slices
    )


def _request(model: Model, _: RuleRow, pair: Pair) -> Prepared:
    """What `translate` would make of the sources: the box around the base's foreground, on the base's grid."""
    margin = max(1, round(FOREGROUND_MARGIN_MM / min(pair.base.spacing)))
    box = foreground_box(foreground_mask(pair.base.data), margin)
    inputs = _inputs(model, pair)
    boxed = replace(inputs, conditions=inputs.conditions[at(box.slices)])
    as_it_is = Reorientation((0, 1, 2), (False, False, False))
    return Prepared(model.section, as_it_is, pair.base.grid, box, boxed, _first(inputs)[None, None], pair.scale)


def _finish(request: Prepared, result: Restoration) -> Made:
    """The target's range [0, 1]; outside of the box, the base itself."""
    whole = request.base[0, 0].clone()
    whole[request.box.slices] = result.mean[0, 0]
    return Made(to_unit(as_magnitude(whole, request.base[0, 0])))


def _start_image(model: Model, pair: Pair) -> Made:
    """What brightness alone says, by the model's own map."""
    inputs = _inputs(model, pair)
    return Made(to_unit(as_magnitude(inputs.base[0, 0], _first(inputs))))


def _inputs(model: Model, pair: Pair) -> ModelInputs:
    """The whole volume as the networks see it."""
    maps = read_maps(model.section)
    names = [condition["name"] for condition in model.section["conditions"]]
    known = pair.sources if maps is None else {name: clear_background(x) for name, x in pair.sources.items()}
    channels = [known.get(name, torch.full(pair.base.spatial_shape, -1.0)) for name in names]
    return ModelInputs(torch.stack(channels)[None], present=tuple(name in known for name in names), maps=maps)


def _first(inputs: ModelInputs) -> Tensor:
    """`(I, J, K)` the first condition that is there."""
    return inputs.conditions[0, inputs.available[0]]
