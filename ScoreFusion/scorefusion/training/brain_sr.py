"""The recipe of the shipped `brain-sr` bundle, from a folder of volumes with a manifest.

    python -m scorefusion.training.brain_sr planes --data DATA --work RUN --minutes 60
    python -m scorefusion.training.brain_sr fusion --data DATA --work RUN --minutes 25
    python -m scorefusion.training.brain_sr measure --data DATA --work RUN

Each stage resumes where it stopped. Only volumes of the manifest's `train` split are read for training, of `val` for
`measure`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save_file

from scorefusion.fusion import (
    AcquisitionPrior,
    FusionRule,
    InputRule,
    Member,
    PlaneAverage,
    PlaneEnsemble,
    ScoreFusion,
    make_volume_network,
)
from scorefusion.intensity import fit_intensity_scale, foreground_mask
from scorefusion.planes import Plane
from scorefusion.schedule import NoiseSchedule
from scorefusion.training.blocks import AcquisitionRanges, BlockPool, BlockSource, TrainingVolume
from scorefusion.training.export import export_bundle
from scorefusion.training.stages import (
    FusionLoss,
    PlaneLoss,
    Stage,
    StageOptions,
    evaluate_rule,
    fit_prior,
    freeze,
    gram_matrices,
)
from scorefusion.unet import UNet, count_parameters, fusion_config, plane_config
from scorefusion.volume import foreground_box, read_volume

logger = logging.getLogger(__name__)
app = typer.Typer(add_completion=False)

# How often a volume is drawn. Left out or kept low: volumes without real detail along some axis (spectral test;
# interpolated
# or smoothed scans teach a network to be smooth). Raised: FLAIR and T2w, of which there are few.
WEIGHTS = {
    "t1/uts01": 1.3, "t1/coreg_highres": 1.3, "t1/scilus": 1.0, "t1/swm": 1.0,
    "t1/mass_W01": 1.0, "t1/mass_W02": 1.0, "t1/mass_W04": 1.0, "t1/mass_W06": 1.0, "t1/mass_W07": 1.0,
    "t1/mass_W11": 0.3, "t1/mass_W13": 0.2, "t1/mass_W14": 0.2, "t1/eve_brain": 0.3, "t1/vxm_test": 0.2,
    "t1/mass_O01": 0.5, "t1/mass_O02": 0.5, "t1/mass_O04": 0.8, "t1/mass_O05": 0.8, "t1/mass_O07": 0.7,
    "t1/mass_O10": 0.8, "t1/mass_O11": 0.6, "t1/mass_O12": 0.6, "t1/mass_O13": 0.4, "t1/mass_O14": 0.7,
    "multi/openms_07/FLAIR": 2.0, "other/pysynthsr_FLAIR": 2.5, "other/niivue_FLAIR": 2.0,
    "multi_misaligned/brats_GLI00001/FLAIR": 1.5, "multi_misaligned/brats_GLI00001/T1ce": 0.8,
    "other/arc_M2208_T2w": 1.5, "multi_misaligned/brats_GLI00001/T2w": 0.5,
}  # fmt: skip
VALIDATION = ("t1/mass_W05", "t1/mass_W08", "t1/sag_anon", "multi/openms_19/FLAIR")

INPUTS = InputRule(
    slab_radius=2, position=False, foreground=True, plane_context=True, acquisition_context=True, residual_gain=8.0,
    prediction="clean"
)  # fmt: skip
BASE_ROUNDS = 6
# Training volumes want a larger gain than validation volumes do: of 0.25, 0.4, 0.5, 0.6, 0.8 and 1.0 this share of the
# fitted weights is best on the mean of the four validation volumes at 4x isotropic and 5 mm slices.
PRIOR_SHRINKAGE = 0.6
SCHEDULE = NoiseSchedule.cosine(1000, prediction="clean")


def load_volumes(data: Path, names: dict[str, float], split: str) -> list[TrainingVolume]:
    """Read, reorient, normalise and crop; refuses a volume of another split."""
    splits = {entry["path"]: entry["split"] for entry in json.loads((data / "manifest.json").read_text())["volumes"]}
    volumes = []
    for name, weight in names.items():
        path = f"{name}.nii.gz"
        if splits[path] != split:
            msg = f"{path} belongs to the split {splits[path]!r}, not to {split!r}"
            raise ValueError(msg)
        volume, _ = read_volume(data / path).canonical()
        scale = fit_intensity_scale(volume.data)
        box = foreground_box(foreground_mask(volume.data), margin=4)
        cropped = scale.normalise(volume.crop(box).data[0])
        volumes.append(TrainingVolume(name, np.clip(cropped, -1.5, 3.0).astype(np.float16), weight))
    return volumes


def make_ensemble() -> PlaneEnsemble:
    """One compact plane network for the three planes."""
    network = UNet(plane_config("compact", INPUTS.plane_channels(1), INPUTS.plane_context_size))
    return PlaneEnsemble([network], [Member(0, plane) for plane in Plane], INPUTS)


def make_fusion(ensemble: PlaneEnsemble) -> ScoreFusion:
    """The compact fusion network with feature injection."""
    config = fusion_config("compact", INPUTS.volume_channels(1, 3), 3, INPUTS.volume_context_size)
    network, alignment = make_volume_network(config, ensemble, with_features=True)
    return ScoreFusion(ensemble, network, alignment, AcquisitionPrior(3, INPUTS.volume_context_size))


def _load(module: torch.nn.Module, path: Path) -> None:
    module.load_state_dict(load_file(path), strict=False)


def _load_prior(rule: ScoreFusion, work: Path) -> None:
    path = work / "prior" / "prior.safetensors"
    if rule.prior is not None and path.exists():
        rule.prior.load_state_dict(load_file(path))


Data = Annotated[Path, typer.Option(help="Folder with manifest.json.")]
Work = Annotated[Path, typer.Option(help="Folder of this run: checkpoints and logs.")]


@app.command()
def planes(data: Data, work: Work, minutes: float = 60.0, seed: int = 0, rate: float = 8e-4) -> None:
    """Stage 1: the plane network."""
    logging.basicConfig(level=logging.INFO)
    torch.manual_seed(seed)
    ensemble = make_ensemble()
    ensemble.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    source = BlockSource(load_volumes(data, WEIGHTS, "train"), (96, 96, 96), INPUTS.residual_gain, BASE_ROUNDS, seed)
    options = StageOptions(minutes, learning_rate=rate)
    logger.info("plane network: %d parameters", count_parameters(ensemble))
    loss = PlaneLoss(ensemble, BlockPool(source, 24), SCHEDULE, options, torch.Generator().manual_seed(seed))
    Stage(ensemble, loss, options, work / "planes").run()


@app.command()
def prior(data: Data, work: Work, blocks: int = 400, seed: int = 2) -> None:
    """Stage 2a: weights by acquisition, fitted to the plane network's errors on training blocks."""
    logging.basicConfig(level=logging.INFO)
    torch.manual_seed(seed)
    ensemble = make_ensemble()
    _load(ensemble, work / "planes" / "average.safetensors")
    freeze([ensemble])
    ensemble.autocast = torch.bfloat16
    source = BlockSource(load_volumes(data, WEIGHTS, "train"), (72, 72, 72), INPUTS.residual_gain, BASE_ROUNDS, seed)
    generator = torch.Generator().manual_seed(seed)
    grams = gram_matrices(ensemble, source, SCHEDULE, blocks, generator)
    module = AcquisitionPrior(3, INPUTS.volume_context_size)
    fitted, held_out = fit_prior(module, *grams, shrinkage=PRIOR_SHRINKAGE)
    logger.info("error over the plane average: %.4f fitted, %.4f on held-out training blocks", fitted, held_out)
    folder = work / "prior"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), folder / "prior.safetensors")


@app.command()
def fusion(
    data: Data, work: Work, minutes: float = 25.0, seed: int = 1, rate: float = 3e-4, warm_start: Path | None = None
) -> None:
    """Stage 2: the fusion network, plane network frozen."""
    logging.basicConfig(level=logging.INFO)
    torch.manual_seed(seed)
    ensemble = make_ensemble()
    _load(ensemble, work / "planes" / "average.safetensors")
    rule = make_fusion(ensemble)
    _load_prior(rule, work)
    if warm_start is not None:
        _load(rule, warm_start)
    assert rule.prior is not None
    freeze([ensemble, rule.prior])
    ensemble.autocast = torch.bfloat16
    source = BlockSource(load_volumes(data, WEIGHTS, "train"), (72, 72, 72), INPUTS.residual_gain, BASE_ROUNDS, seed)
    options = StageOptions(minutes, learning_rate=rate, ema_decay=0.995)
    logger.info("fusion network: %d parameters", count_parameters(rule) - count_parameters(ensemble))
    loss = FusionLoss(rule, BlockPool(source, 8), SCHEDULE, options, torch.Generator().manual_seed(seed))
    Stage(rule, loss, options, work / "fusion").run()


@app.command()
def measure(data: Data, work: Work, blocks: int = 16) -> None:
    """Gain over the base image on validation blocks, one step: plane average and, if trained, fusion."""
    logging.basicConfig(level=logging.INFO)
    ensemble = make_ensemble()
    _load(ensemble, work / "planes" / "average.safetensors")
    ensemble.autocast = torch.bfloat16
    freeze([ensemble])
    volumes = load_volumes(data, dict.fromkeys(VALIDATION, 1.0), "val")
    source = BlockSource(volumes, (80, 80, 80), INPUTS.residual_gain, BASE_ROUNDS, seed=7, augment=False)
    held_out = [source.draw() for _ in range(blocks)]
    rules: dict[str, FusionRule] = {"plane average": PlaneAverage(ensemble)}
    if (work / "fusion" / "average.safetensors").exists():
        fused = make_fusion(ensemble)
        _load_prior(fused, work)
        _load(fused, work / "fusion" / "average.safetensors")
        rules["fusion"] = fused.eval()
    for name, rule in rules.items():
        plain, projected = evaluate_rule(rule, held_out, SCHEDULE, INPUTS.residual_gain)
        logger.info("%s: %+.3f dB over the base image, %+.3f dB with projection", name, plain, projected)


@app.command()
def export(
    work: Work,
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    card: Annotated[Path, typer.Option(help="Model card, Markdown.")],
    licence: Annotated[Path, typer.Option(help="Licence text.")] = Path("LICENSE"),
    version: str = "0.1.0",
    quality: Annotated[Path | None, typer.Option(help="JSON of measured figures for the metadata.")] = None,
) -> None:
    """Write the bundle from the averaged weights of both stages."""
    rule = make_fusion(make_ensemble())
    _load(rule.ensemble, work / "planes" / "average.safetensors")
    _load_prior(rule, work)
    if (work / "fusion" / "average.safetensors").exists():
        _load(rule, work / "fusion" / "average.safetensors")
    training = {
        "volumes": WEIGHTS,
        "seconds": {stage: _seconds(work / stage) for stage in ("planes", "fusion")},
        "command": "python -m scorefusion.training.brain_sr planes|fusion",
        "acquisitions": dataclasses.asdict(AcquisitionRanges()),
    }
    figures = {} if quality is None else json.loads(quality.read_text())
    bundle = export_bundle(
        rule,
        SCHEDULE,
        BASE_ROUNDS,
        out,
        version=version,
        training=training,
        quality=figures,
        card=card.read_text(),
        licence_text=licence.read_text(),
    )
    logger.info("%s: %d bytes, %s", bundle.id, bundle.size_bytes, bundle.hash)


def _seconds(folder: Path) -> float:
    """Training time that a stage's checkpoint has on its clock."""
    path = folder / "state.safetensors"
    return float(load_file(path)["progress"][1]) if path.exists() else 0.0


if __name__ == "__main__":
    app()
