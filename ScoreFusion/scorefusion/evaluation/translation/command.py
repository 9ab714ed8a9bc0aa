"""Translation, as `scorefusion evaluate` runs it: who translates for whom, by which methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import Model
from scorefusion.bundle.store import find_bundle
from scorefusion.datasets.case import Case
from scorefusion.errors import RequestError
from scorefusion.evaluation.meter import code_version, describe_machine
from scorefusion.evaluation.models import (
    AS_IT_IS,
    RuleRow,
    Settings,
    load,
    model_methods,
    named,
    prefixes,
    translating_rows,
)
from scorefusion.evaluation.pictures import draw_comparison
from scorefusion.evaluation.rows import Benchmark, Made, Method, Row, choose, run_all
from scorefusion.evaluation.suites import PAIR_SUITES, PairSuite, hash_of
from scorefusion.evaluation.tables import write_benchmark
from scorefusion.evaluation.translation.baselines import Samples, draw_samples, fitted_baselines, source_itself
from scorefusion.evaluation.translation.direction import Direction, common_direction
from scorefusion.evaluation.translation.folds import check_folds, fold_prefixes, persons_seen, read_folds, refuse_seen
from scorefusion.evaluation.translation.pairs import Pair, compare_translations, read_pair, to_unit
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.tiling import at
from scorefusion.imaging.foreground import foreground_box, foreground_mask
from scorefusion.imaging.intensity_map import clear_background, read_maps
from scorefusion.progress import Reporter
from scorefusion.run.devices import pick_device
from scorefusion.run.prepare import FOREGROUND_MARGIN_MM, Prepared, as_magnitude, region_of
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
    hashed = hash_of(path for case in suite.cases for path in direction.files(case))
    by_folds = "; ".join(f"{subject} by {named(some)}" for subject, some in by_person.items())
    caption = {
        "direction": direction.title,
        "data": f"{suite.name} (split {suite.split}, cases: {len(suite.cases)}, SHA-256 {hashed})",
        "code": f"scorefusion {code_version()}",
        "machine": describe_machine(pick_device(how.device)),
        "model": f"leave one out: {by_folds}" if folds else named(bundles),
        "intensities": direction.intensities,
        "seed": how.words,
    }
    out.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(caption)
    drawn: list[Path] = []

    def pairs() -> Iterator[Pair]:
        for case in suite.cases:
            reporter.progress(case.case_id, len(benchmark.facts), len(suite.cases))
            teachers = tuple(dict.fromkeys(teacher.case_id for teacher in suite.teachers(case)))
            models = tuple(f"{bundle.id} {bundle.version}" for bundle in by_person.get(case.subject, bundles))
            yield replace(read_pair(case, direction, suite.slice_axis), teachers=teachers, models=models)

    def draw(pair: Pair, made: dict[str, Made], rows: list[Row]) -> None:
        path = out / f"{pair.name}_{pair.contrasts[-1]}.png"
        drawn.append(draw_comparison(compare_translations(pair, made, rows), path))

    cast = cast_of(suite, direction, bundles, by_person, how, reporter)
    run_all(benchmark, pairs(), lambda pair: choose(cast(pair), methods), 0, reporter, draw if pictures else None)
    reporter.progress("scored", len(suite.cases), len(suite.cases))
    return benchmark, [*write_benchmark(benchmark, out, "translation", drawn), *drawn]


def cast_of(
    suite: PairSuite,
    direction: Direction,
    bundles: Sequence[Bundle],
    folds: Mapping[str, Sequence[Bundle]],
    how: Settings,
    reporter: Reporter,
) -> Callable[[Pair], list[Method]]:
    """Who translates for whom: baselines that learned from others, and models that saw others."""
    before = fold_prefixes(folds) if folds else prefixes(bundles)
    # Inputs that nobody lacks; a regression cannot do without one.
    inputs = [each.name for each in direction.inputs if not each.optional]
    samples: dict[str, Samples] = {}
    kept = cache(partial(load, settings=how))  # a fold's model is for one person only

    def taught(case: Case) -> Samples:
        if case.case_id not in samples:
            # Of a teacher's masks only the brain's is asked for: another may lie on a grid of its own.
            masks = {name: file for name, file in case.masks.items() if name == "brain"}
            pair = read_pair(replace(case, masks=masks), direction, suite.slice_axis)
            samples[case.case_id] = draw_samples(pair, inputs)
        return samples[case.case_id]

    def methods(pair: Pair) -> list[Method]:
        teachers = suite.teachers(pair.case)
        if not teachers:
            reporter.warning(
                "no-baselines",
                f"nobody but {pair.name} has {direction.title}, so regression and histogram matching have "
                "nothing to learn from and are left out; put training cases into the datalist",
            )
        found = [source_itself(), *fitted_baselines([taught(case) for case in teachers], inputs)]
        for bundle, prefix in zip(folds.get(pair.case.subject, bundles), before, strict=True):
            model = load(bundle, how) if folds else kept(bundle)
            found += translators(model, pair.plane, pair.is_slice, how, reporter, prefix)
        return found

    return methods


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
    how, reporter = how or Settings(), reporter or Reporter()
    return found + model_methods(model, rows, _request, _finish, how, reporter, prefix, all_rows=single_slices)


def _request(model: Model, _: RuleRow, pair: Pair) -> Prepared:
    """What `translate` would make of the sources: the box around the base's foreground, on the base's grid."""
    margin = max(1, round(FOREGROUND_MARGIN_MM / min(pair.base.spacing)))
    mask = foreground_mask(pair.base.data)
    box = foreground_box(mask, margin)
    inputs = _inputs(model, pair)
    region = region_of(mask[box.slices], None)
    boxed = replace(inputs, conditions=inputs.conditions[at(box.slices)], region=region)
    return Prepared(model.section, AS_IT_IS, pair.base.grid, box, boxed, _first(inputs)[None, None], pair.scale)


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
