"""The run: every exam by every way, and its spots; then the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scorefusion.bundle.store import find_bundle
from scorefusion.errors import RequestError, VolumeError
from scorefusion.evaluation.benchmark import check_crop, classical_methods, crop_words
from scorefusion.evaluation.guided.exams import GUIDE, Exam, Guided, find_exams, read_exam
from scorefusion.evaluation.guided.spots import spot_rows
from scorefusion.evaluation.guided.tables import write_guided
from scorefusion.evaluation.guided.ways import Restore, Way, guide_names, method_of, restoring, ways
from scorefusion.evaluation.meter import code_version, describe_machine
from scorefusion.evaluation.models import Settings, named
from scorefusion.evaluation.rows import Benchmark, Row, measure
from scorefusion.evaluation.suites import hash_of
from scorefusion.progress import Reporter
from scorefusion.run.devices import pick_device

#: A quick look: voxels a side, spots, and one acquisition each.
QUICK_CROP, QUICK_SPOTS = "64", 2


@dataclass
class GuidedRun:
    """What was asked for, but the people.

    Attributes:
        model: restores beside guides, and its name.
        alone: the model to beat without any, and its name; None = leave it out.
        known: guides that the model takes.
        crop: as of `benchmark.prepare`.
        spots: painted lesions a contrast; 0 = none.
        only: keys of ways; empty = all.
    """

    model: tuple[str, Restore]
    alone: tuple[str, Restore] | None
    known: Sequence[str]
    how: Settings = field(default_factory=Settings)
    crop: str = "brain"
    spots: int = 0
    only: Sequence[str] = ()

    def score(self, exams: Sequence[Exam], benchmark: Benchmark, reporter: Reporter) -> list[Row]:
        """Every way on every exam, into `benchmark`; returns the rows of the spots."""
        painted: list[Row] = []
        settings = {exam.setting.name: exam.setting.description for exam in exams}
        benchmark.settings.update(settings)
        for number, exam in enumerate(exams):
            reporter.progress(f"{exam.target.title} {exam.setting.name}", number, len(exams))
            subject = read_exam(exam, self.crop)
            for method in classical_methods():
                benchmark.rows.append(measure(subject, method)[0])
            refused = self._ways(subject, benchmark.rows, painted, reporter)
            benchmark.facts.append(
                {**subject.facts(), "guides": sorted(subject.guides), "stranger": subject.stranger_name, **refused}
            )
        reporter.progress("scored", len(exams), len(exams))
        return painted

    def _ways(self, subject: Guided, rows: list[Row], painted: list[Row], reporter: Reporter) -> dict[str, object]:
        device = pick_device(self.how.device)
        refused: dict[str, str] = {}
        plain = Way("none", "alone", lambda _: {})
        if self.alone is not None:
            rows.append(measure(subject, method_of(self.alone[1], self.alone[0], plain, {}, device, {}))[0])
        name, restore = self.model
        for way in chosen_ways(self.known, self.only):
            guides = way.guides(subject)
            if guides is None:
                continue
            reporter.progress(f"{subject.case.title} {subject.setting}: {way.label}", len(rows), 0)
            placed: dict[str, float] = {}
            method = method_of(restore, name, way, guides, device, placed)
            try:
                row, made = measure(subject, method)
            except (RequestError, VolumeError) as error:
                if not guides:
                    raise
                refused[way.label] = str(error)
                reporter.warning("guide-refused", f"{subject.case.title}, {way.label}: {error}")
                continue
            rows.append(replace(row, figures={**row.figures, **placed}))
            if way.key == GUIDE and self.spots:
                painted += spot_rows(subject, restore, name, made.data, self.spots, self.how.seed)
        return {"refused": refused}


def chosen_ways(known: Sequence[str], only: Sequence[str]) -> list[Way]:
    """The ways named, or all.

    Raises:
        RequestError: there is none of a name.
    """
    every = ways(known)
    if unknown := sorted(set(only) - {way.key for way in every}):
        msg = f"there is no way {unknown[0]!r} to guide; choose from {', '.join(way.key for way in every)}"
        raise RequestError(msg)
    return [way for way in every if not only or way.key in only]


def evaluate_guided(
    datalist: str | Path,
    split: str,
    model: str,
    alone: str | None,
    out: Path,
    how: Settings | None = None,
    *,
    preset: str = "fast",
    crop: str = "brain",
    quick: bool = False,
    spots: int = 0,
    subjects: Sequence[str] = (),
    contrasts: Sequence[str] = (),
    only: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> tuple[Benchmark, list[Row], list[Path]]:
    """The command without its terminal. Returns the rows, those of the spots, and the files written.

    Args:
        datalist: a file, "project" or "project-all".
        split: whom to score.
        model: with guides; name or folder of a bundle.
        alone: the one to beat without any.
        out: where the tables go.
        how: seed, device, precision.
        preset: of both models.
        crop: as of `benchmark.prepare`.
        quick: a cube of `QUICK_CROP` voxels, the first acquisition of each contrast, `QUICK_SPOTS` spots at most.
        spots: painted lesions a contrast, 0 = none.
        subjects, contrasts, only: these people, contrasts and ways; empty = all.
    """
    how, reporter = how or Settings(), reporter or Reporter()
    crop, spots = (QUICK_CROP, min(spots, QUICK_SPOTS)) if quick else (crop, spots)
    check_crop(crop)
    bundle = find_bundle(model)
    other = None if alone is None else find_bundle(alone)
    if other is not None and other.hash == bundle.hash:
        msg = f"model {bundle.id!r} is to be compared with itself; leave --alone-model out, or give another"
        raise RequestError(msg)
    known = guide_names(bundle)
    chosen_ways(known, only)
    wanted = set(contrasts or bundle.section["conditions"][0]["contrasts"])
    name, exams = find_exams(datalist, split, wanted, subjects, reporter)
    if quick:
        exams = list({exam.target.title: exam for exam in reversed(exams)}.values())[::-1]
    files = dict.fromkeys(path for exam in exams for path in exam.target.case.contrasts.values())
    people = dict.fromkeys(exam.target.subject for exam in exams)
    caption = {
        "data": f"{name} (split {split}: {', '.join(people)}; SHA-256 {hash_of(files)})",
        "code": f"scorefusion {code_version()}",
        "machine": describe_machine(pick_device(how.device)),
        "model": named([bundle]),
        "alone": named([] if other is None else [other]),
        "seed": f"{how.words}, preset {preset}",
        "crop": crop_words(crop),
        "guides": "registered by `translate`, where not said otherwise",
    }
    benchmark = Benchmark(caption)
    models = [(f"{b.id} {b.version}", restoring(b, how, preset, reporter)) for b in (bundle, other) if b is not None]
    run = GuidedRun(models[0], models[1] if other else None, known, how, crop, spots, only)
    painted = run.score(exams, benchmark, reporter)
    return benchmark, painted, write_guided(benchmark, painted, out)
