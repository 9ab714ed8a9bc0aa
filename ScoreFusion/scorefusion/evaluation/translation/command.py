"""What `scorefusion evaluate` does for translation models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.store import find_bundle
from scorefusion.datasets.case import Case
from scorefusion.errors import RequestError
from scorefusion.evaluation.translation.baselines import Samples, draw_samples, fitted_baselines, source_itself
from scorefusion.evaluation.translation.direction import Direction, common_direction
from scorefusion.evaluation.translation.folds import (
    check_folds,
    fold_prefixes,
    persons_seen,
    read_folds,
    refuse_seen,
)
from scorefusion.evaluation.translation.gallery import TranslationGallery
from scorefusion.evaluation.translation.learned import learned_translators
from scorefusion.evaluation.translation.methods import Translator, choose
from scorefusion.evaluation.translation.pairs import Pair, read_pair
from scorefusion.evaluation.translation.report import write_translation_report
from scorefusion.evaluation.translation.run import Line, TranslationBenchmark, run_translation
from scorefusion.evaluation.translation.suites import PAIR_SUITES, PairSuite, datalist_suite, named_pair_suite
from scorefusion.fusion.planes import Plane
from scorefusion.progress import Reporter
from scorefusion.run.devices import pick_device


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


def find_pair_suite(
    datalist: Path | None, name: str | None, split: str, subjects: Sequence[str], *, leave_one_out: bool = False
) -> PairSuite:
    """A datalist, a named suite, or a named suite's persons as a datalist has them; all of it or some persons."""
    if name is None:
        if datalist is None:
            msg = f"give a datalist file or --suite {', '.join(PAIR_SUITES)}"
            raise RequestError(msg)
        return datalist_suite(datalist, split, leave_one_out=leave_one_out).only(subjects)
    if name not in PAIR_SUITES:
        msg = f"suite {name!r} is none for translation models; choose one of {', '.join(PAIR_SUITES)}, or a datalist"
        raise RequestError(msg)
    return named_pair_suite(name, datalist=datalist).only(subjects)


def evaluate_translation(
    suite: PairSuite,
    models: Sequence[str],
    folds: Sequence[str],
    out: Path,
    *,
    methods: Sequence[str] = (),
    plans: Sequence[str] | None = None,
    pictures: bool = True,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> tuple[TranslationBenchmark, list[Path]]:
    """The command without its terminal. Returns the rows and the files written.

    Args:
        suite: the persons.
        models: names or folders of bundles that translate for everybody.
        folds: `SUBJECT=BUNDLE`, instead of models: each person's own, which has not seen this person.
        out: folder for tables and pictures.
        methods, plans, seed, device, precision: as on the command line.
    """
    reporter = reporter or Reporter()
    if models and folds:
        msg = "give --model (one for all) or --fold-model (one for each person), not both"
        raise RequestError(msg)
    by_person = read_folds(folds)
    bundles = [find_bundle(name) for name in models]
    direction = common_direction([*bundles, *(bundle for some in by_person.values() for bundle in some)])
    suite = suite.fitting(direction)
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
    out.mkdir(parents=True, exist_ok=True)
    cast = Cast(suite, direction, bundles, by_person, methods, plans, seed, device, precision, reporter)
    gallery = TranslationGallery(out) if pictures else None
    benchmark = run_translation(
        suite,
        direction,
        cast,
        caption={
            "model": cast.description,
            "intensities": direction.intensities,
            "seed": f"{seed}, precision {precision}",
        },
        device=pick_device(device),
        reporter=reporter,
        keep=gallery,
    )
    drawn = gallery.written if gallery else []
    return benchmark, [*write_translation_report(benchmark, out, pictures=drawn).values(), *drawn]


class Cast:
    """Who translates for whom: baselines that learned from others, and models that saw others."""

    def __init__(
        self,
        suite: PairSuite,
        direction: Direction,
        bundles: Sequence[Bundle],
        folds: Mapping[str, Sequence[Bundle]],
        wanted: Sequence[str],
        plans: Sequence[str] | None,
        seed: int,
        device: str,
        precision: str,
        reporter: Reporter,
    ) -> None:
        self.suite, self.direction = suite, direction
        self.bundles, self.folds = bundles, folds
        self._wanted, self._plans = wanted, plans
        self._seed, self._device, self._precision = seed, device, precision
        self._reporter = reporter
        self._prefixes = fold_prefixes(folds) if folds else [f"{b.id}:" if len(bundles) > 1 else "" for b in bundles]
        # Inputs that nobody lacks; a regression cannot do without one.
        self._inputs = [each.name for each in direction.inputs if not each.optional]
        self._samples: dict[str, Samples] = {}
        self._loaded: dict[tuple[str, Plane], list[Translator]] = {}

    @property
    def description(self) -> str:
        """Models with their hashes, for the caption."""
        if not self.folds:
            return ", ".join(_named(bundle) for bundle in self.bundles)
        each = (f"{subject} by {', '.join(map(_named, bundles))}" for subject, bundles in self.folds.items())
        return f"leave one out: {'; '.join(each)}"

    def __call__(self, pair: Pair) -> Line:
        teachers = self.suite.teachers(pair.case)
        if not teachers:
            self._reporter.warning(
                "no-baselines",
                f"nobody but {pair.case.case_id} has {self.direction.title}, so regression and histogram matching have "
                "nothing to learn from and are left out; put training cases into the datalist",
            )
        methods = [source_itself(), *fitted_baselines([self._taught(case) for case in teachers], self._inputs)]
        bundles = self.folds.get(pair.case.subject, self.bundles)
        for bundle, prefix in zip(bundles, self._prefixes, strict=True):
            methods += self._translators(bundle, prefix, pair)
        names = tuple(dict.fromkeys(case.case_id for case in teachers))
        return Line(choose(methods, self._wanted), names, tuple(f"{bundle.id} {bundle.version}" for bundle in bundles))

    def _translators(self, bundle: Bundle, prefix: str, pair: Pair) -> list[Translator]:
        """A bundle's rows; those of a fold's bundle are for one person only and not kept."""
        key = (bundle.hash, pair.plane)
        if key in self._loaded:
            return self._loaded[key]
        rows = learned_translators(
            bundle,
            plane=pair.plane,
            single_slices=pair.is_slice,
            plans=self._plans,
            seed=self._seed,
            device=self._device,
            precision=self._precision,
            prefix=prefix,
        )
        if not self.folds:
            self._loaded[key] = rows
        return rows

    def _taught(self, case: Case) -> Samples:
        if case.case_id not in self._samples:
            # Of a teacher's masks only the brain's is asked for: another may lie on a grid of its own.
            masks = {name: file for name, file in case.masks.items() if name == "brain"}
            pair = read_pair(replace(case, masks=masks), self.direction, self.suite.slice_axis)
            self._samples[case.case_id] = draw_samples(pair, self._inputs)
        return self._samples[case.case_id]


def _named(bundle: Bundle) -> str:
    return f"{bundle.id} {bundle.version} (SHA-256 {bundle.hash[:12]})"
