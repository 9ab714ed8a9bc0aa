"""The table of ablations: what each choice is worth, on validation volumes, every variant with the same training time.

    python Testing/benchmarks/ablations.py train --out RUN --minutes 3     # variants that must be trained
    python Testing/benchmarks/ablations.py use --model brain-sr            # choices of one trained model

Both print Markdown: PSNR in the brain (eroded mask, truth's robust range), mean over the validation volumes, at 4x
isotropic and 5 mm slices, one step unless the row says otherwise, with projection unless it says otherwise. Training
goes on where it stopped; a variant that is finished is only scored. `--only` and `--subjects` split the work over
processes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import Model, load_model
from scorefusion.bundle.store import find_bundle
from scorefusion.diffusion.noise import NoiseField
from scorefusion.evaluation.benchmark import Subject, prepare
from scorefusion.evaluation.meter import describe_machine
from scorefusion.evaluation.metrics import psnr, ssim
from scorefusion.evaluation.simulate import Setting
from scorefusion.evaluation.suites import named_suite
from scorefusion.fusion.base import base_image
from scorefusion.fusion.inputs import ModelInputs, acquisition_vector
from scorefusion.fusion.rules import FusionRule
from scorefusion.imaging.intensity import fit_intensity_scale
from scorefusion.progress import Reporter
from scorefusion.run.devices import inference_settings, pick_device, pick_precision
from scorefusion.run.request import SamplingPlan
from scorefusion.run.restore import restore
from scorefusion.training.recipe import read_recipe
from scorefusion.training.run import Run, make_fabric

SETTINGS = ("iso4", "thick5")
VOLUME_STAGE = "{minutes: MINUTES, learning_rate: 2.0e-4, warmup_steps: 100, crop: 64, blocks: 2, pool: 16}"

#: Changes to the recipe, by the name of the row. The time of `planes` is the same for all.
VARIANTS: dict[str, list[str]] = {
    "reference (clean residual, back-projected base, 2 neighbours, one network for all planes)": [],
    "separate plane networks (a third of the batch each)": ["networks.shared=false"],
    "0 neighbours (2D)": ["networks.slab_radius=0"],
    "1 neighbour": ["networks.slab_radius=1"],
    "base: nearest": ["networks.base=nearest"],
    "base: trilinear": ["networks.base=linear"],
    "prediction: noise": ["networks.prediction=noise", "output.presets={fast: {steps: 10, solver: ddim}}"],
    "prediction: v": ["networks.prediction=v"],
    "only pure noise (no sampling in steps)": ["stages.planes.pure_noise_share=1.0"],
    "generator: a quarter of the blocks": ["data.synthetic={share: 0.25, mode: mixed}"],
    "generator: all blocks (no real scan seen)": ["data.synthetic={share: 1.0, mode: mixed}", "data.datalist=none"],
    "no planes: 3D diffusion alone": ["stages.planes=null", f"stages.volume={VOLUME_STAGE}"],
    "no planes, no diffusion: 3D U-Net regression": [
        "stages.planes=null",
        "networks.kind=regression",
        f"stages.volume={VOLUME_STAGE}",
    ],
}


@dataclass(frozen=True)
class Score:
    """Mean over volumes of one setting."""

    psnr: float
    ssim: float


@cache
def subjects(setting: str, persons: str) -> tuple[Subject, ...]:
    """The validation volumes under a setting; `persons` comma-separated, empty for all."""
    wanted = [name for name in persons.split(",") if name]
    cases = [case for case in named_suite("val").cases if not wanted or case.subject in wanted]
    return tuple(prepare(case, Setting.parse(setting), "brain") for case in cases)


def score(
    model: Model, rule: FusionRule, plan: SamplingPlan, setting: str, persons: str, projected: bool = True
) -> Score:
    """Restore the validation volumes and compare in the brain."""
    values = []
    for subject in subjects(setting, persons):
        scan = subject.scan
        scale = fit_intensity_scale(scan.volume.data)
        measured = torch.from_numpy(np.ascontiguousarray(scale.normalise(scan.volume.data)))[None]
        operator = scan.acquisition
        inputs = ModelInputs(base_image(operator, measured, model.section), acquisition_vector(operator))
        with inference_settings():
            result = restore(
                rule,
                model.schedule,
                inputs,
                plan,
                NoiseField(operator.full_shape, 0),
                operator if projected else None,
                measured if projected else None,
            )
        values.append(compare(subject, scale.denormalise(result.mean[0, 0])))
    return mean(values)


def score_base(base: str, setting: str, persons: str) -> Score:
    """What a model starts from, made to agree with the measurement."""
    values = []
    for subject in subjects(setting, persons):
        scan = subject.scan
        measured = torch.from_numpy(np.ascontiguousarray(scan.volume.data))[None]
        image = base_image(scan.acquisition, measured, {"base": base})
        values.append(compare(subject, scan.acquisition.project(image, measured)[0, 0]))
    return mean(values)


def compare(subject: Subject, image: torch.Tensor) -> Score:
    """`(I, J, K)` in scanner units beside the truth, in the brain."""
    estimate, truth = subject.unit(image), subject.unit(torch.from_numpy(subject.truth.data[0]))
    return Score(psnr(estimate, truth, subject.brain.mask), ssim(estimate, truth, subject.brain.mask))


def mean(scores: list[Score]) -> Score:
    """Over volumes."""
    return Score(float(np.mean([s.psnr for s in scores])), float(np.mean([s.ssim for s in scores])))


def row(name: str, scores: list[Score], extra: str = "") -> str:
    """A line of the table."""
    cells = " | ".join(f"{s.psnr:.2f} / {s.ssim:.4f}" for s in scores)
    return f"| {name} | {cells} |{extra}"


def header(persons: str) -> None:
    """Where and what."""
    titles = ", ".join(subject.case.title for subject in subjects(SETTINGS[0], persons))
    print(f"{describe_machine('cpu')}; validation volumes {titles}")  # noqa: T201
    print("\n| variant | 4x isotropic, dB / SSIM | 5 mm slices, dB / SSIM |\n|---|---|---|")  # noqa: T201


def open_model(bundle: Bundle) -> Model:
    """On the best device."""
    device = pick_device("auto")
    return load_model(bundle, device, pick_precision("auto", device))


def train(out: Path, minutes: float, only: str, persons: str) -> None:
    """Train every variant for the same time and score it, beside what it starts from."""
    header(persons)
    for base in ("back_projection", "linear", "nearest"):
        print(row(f"(no network: {base} + projection)", [score_base(base, s, persons) for s in SETTINGS]), flush=True)  # noqa: T201
    numbers = [int(text) for text in only.split(",") if text]
    figures = {}
    for number, (name, changes) in enumerate(VARIANTS.items()):
        if numbers and number not in numbers:
            continue
        changes = [change.replace("MINUTES", str(minutes)) for change in changes]
        settings = [f"name=ablation-{number}", "networks.prior=false", "stages.prior=null", "stages.joint=null"]
        recipe = read_recipe("brain-sr", [*settings, f"stages.planes.minutes={minutes}", *changes])
        bundle = Run(recipe, out / f"{number:02d}", make_fabric(), Reporter()).run()
        assert bundle is not None
        model = open_model(bundle)
        plan = SamplingPlan.from_preset(bundle.section["presets"]["fast"])
        rule = model.choose_rule("volume" if bundle.volume_kind else "average")
        scores = [score(model, rule, plan, setting, persons) for setting in SETTINGS]
        print(row(name, scores), flush=True)  # noqa: T201
        figures[name] = [vars(s) for s in scores]
    print(json.dumps(figures))  # noqa: T201


def print_steps(model: Model, counts: list[int], persons: str) -> None:
    """The rows with more than one step."""
    for steps in counts:
        scores = [score(model, model.rule, SamplingPlan(steps=steps), s, persons) for s in SETTINGS]
        print(row(f"fusion, {steps} steps", scores), flush=True)  # noqa: T201


def use(name: str, quick: bool, counts: list[int], persons: str) -> None:
    """What can be chosen about one trained model; with `counts`, only the rows with these numbers of steps."""
    model = open_model(find_bundle(name))
    header(persons)
    if counts:
        print_steps(model, counts, persons)
        return
    one = SamplingPlan()
    rules = {"one plane (coronal)": "coronal", "two planes (coronal + sagittal)": "average:coronal+sagittal",
             "three planes": "average", "fusion, features off": "fusion-scores", "fusion": "fusion"}  # fmt: skip
    for label, rule in rules.items():
        print(row(label, [score(model, model.choose_rule(rule), one, s, persons) for s in SETTINGS]), flush=True)  # noqa: T201
    for label, rule in (("three planes, no projection", "average"), ("fusion, no projection", "fusion")):
        scores = [score(model, model.choose_rule(rule), one, s, persons, projected=False) for s in SETTINGS]
        print(row(label, scores), flush=True)  # noqa: T201
    last = model.schedule.num_train_timesteps - 1
    print_steps(model, [2, 4] if quick else [2, 4, 8, 16, 50], persons)
    for start in (800, 600, 400):
        plan = replace(SamplingPlan(steps=2 if quick else 4), start=start)
        scores = [score(model, model.rule, plan, s, persons) for s in SETTINGS]
        print(row(f"fusion, {plan.steps} steps from level {start} of {last}", scores), flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--minutes", type=float, default=3.0)
    training.add_argument("--only", default="", help="numbers of variants with commas, from 0")
    using = commands.add_parser("use")
    using.add_argument("--model", default="brain-sr")
    using.add_argument("--quick", action="store_true")
    using.add_argument("--steps", default="", help="only the rows with these numbers of steps, with commas")
    for command in (training, using):
        command.add_argument("--subjects", default="", help="validation persons with commas; all if left out")
    options = parser.parse_args()
    if options.command == "train":
        train(options.out, options.minutes, options.only, options.subjects)
    else:
        use(options.model, options.quick, [int(text) for text in options.steps.split(",") if text], options.subjects)


if __name__ == "__main__":
    main()
