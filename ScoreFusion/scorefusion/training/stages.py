"""The two stages of training: plane networks on patches, then the fusion network on crops with the plane networks
frozen.

Both draw half of their noise levels at pure noise: there one evaluation is the posterior mean, which the `fast` preset
uses. The
other half is uniform over the schedule, for sampling in several steps.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scorefusion.fusion import AcquisitionPrior, FusionRule, ModelInputs, PlaneEnsemble, ScoreFusion
from scorefusion.planes import Plane
from scorefusion.schedule import NoiseSchedule
from scorefusion.training.blocks import Block, BlockPool, BlockSource
from scorefusion.unet import at

logger = logging.getLogger(__name__)
FOREGROUND = -0.9  # normalised intensity above which a voxel belongs to the head


@dataclass(frozen=True)
class StageOptions:
    """How long and how fast to learn.

    Attributes:
        minutes: training time, added up over resumed runs; the learning rate falls along it.
        learning_rate: peak, after `warmup_steps`.
        ema_decay: of the averaged weights that are kept.
        checkpoint_minutes: time between two checkpoints.
        pure_noise_share: share of samples at the noisiest level.
        clip: largest gradient norm.
    """

    minutes: float
    learning_rate: float = 8e-4
    warmup_steps: int = 100
    ema_decay: float = 0.999
    checkpoint_minutes: float = 3.0
    pure_noise_share: float = 0.5
    clip: float = 1.0
    autocast: torch.dtype | None = torch.bfloat16


class Stage:
    """A resumable training loop over `loss()`; keeps an average of the weights."""

    def __init__(self, module: nn.Module, loss: Callable[[], Tensor], options: StageOptions, folder: Path) -> None:
        self.module = module
        self.loss = loss
        self.options = options
        self.folder = folder
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.step = 0
        self.seconds = 0.0

    def run(self) -> None:
        """Train until the time is used up; resumes from the folder's checkpoint if there is one."""
        self._resume()
        saved = last = time.monotonic()
        running = 0.0
        log = (self.folder / "log.csv").open("a")
        while self.seconds < 60.0 * self.options.minutes:
            rate = self._learning_rate()
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self.loss()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, self.options.clip)
            self.optimizer.step()
            decay = min(self.options.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1.0 - decay)
            self.step += 1
            now = time.monotonic()
            self.seconds += now - last
            last = now
            running = float(loss.detach()) if self.step == 1 else running + 0.01 * (float(loss.detach()) - running)
            if self.step % 100 == 0:
                log.write(f"{self.step},{self.seconds:.0f},{running:.5f},{rate:.2e}\n")
                log.flush()
            if now - saved > 60.0 * self.options.checkpoint_minutes:
                self.save()
                saved = now
        self.save()
        log.close()

    def _learning_rate(self) -> float:
        done = min(1.0, self.seconds / (60.0 * self.options.minutes))
        warm = min(1.0, (self.step + 1) / self.options.warmup_steps)
        return self.options.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * done)))

    def averaged_state(self) -> dict[str, Tensor]:
        """The averaged weights, by the module's names."""
        names = [name for name, p in self.module.named_parameters() if p.requires_grad]
        return dict(zip(names, self.average, strict=True))

    def save(self) -> None:
        """Write `state.safetensors` (resume) and `average.safetensors` (use), each in one move."""
        tensors: dict[str, Tensor] = {}
        for number, parameter in enumerate(self.parameters):
            tensors[f"weight.{number}"] = parameter.detach()
            tensors[f"average.{number}"] = self.average[number]
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{number}"] = torch.as_tensor(value).detach().clone()
        tensors["progress"] = torch.tensor([self.step, self.seconds], dtype=torch.float64)
        _save({k: v.contiguous() for k, v in tensors.items()}, self.folder / "state.safetensors")
        _save({k: v.contiguous() for k, v in self.averaged_state().items()}, self.folder / "average.safetensors")

    def _resume(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "state.safetensors"
        if not path.exists():
            return
        tensors = load_file(path)
        self.step, self.seconds = int(tensors["progress"][0]), float(tensors["progress"][1])
        state: dict[int, dict[str, Any]] = {}
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"weight.{number}"])
                self.average[number].copy_(tensors[f"average.{number}"])
                state[number] = {
                    key: tensors[f"{key}.{number}"]
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"{key}.{number}" in tensors
                }
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        logger.info("resumed at step %d, %.0f s", self.step, self.seconds)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)


def draw_timesteps(count: int, schedule: NoiseSchedule, pure_noise_share: float, generator: torch.Generator) -> Tensor:
    """`(count,)` int64: a share at the noisiest level, the rest uniform."""
    last = schedule.num_train_timesteps - 1
    t = torch.randint(0, last + 1, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < pure_noise_share, torch.full_like(t, last), t)


def _noisy(
    residual: Tensor, t: Tensor, schedule: NoiseSchedule, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy residual, what the network should predict, and alpha_bar `(B,)`."""
    noise = torch.randn(residual.shape, generator=generator)
    alpha_bar = torch.from_numpy(schedule.alpha_bar[t.numpy()]).float()
    return schedule.add_noise(residual, noise, t), schedule.from_x0_noise(residual, noise, t), alpha_bar


class PlaneLoss:
    """Patches from all planes through the one network that serves them.

    Args:
        ensemble: its single network is trained.
        pool: blocks to cut slabs from.
        blocks, slices: a batch is `blocks * 3 * slices` patches.
    """

    def __init__(
        self,
        ensemble: PlaneEnsemble,
        pool: BlockPool,
        schedule: NoiseSchedule,
        options: StageOptions,
        generator: torch.Generator,
        blocks: int = 4,
        slices: int = 2,
    ) -> None:
        self.ensemble, self.pool, self.schedule, self.options = ensemble, pool, schedule, options
        self.generator, self.blocks, self.slices = generator, blocks, slices

    def __call__(self) -> Tensor:
        self.pool.refresh()
        seen, targets, levels, contexts, weights = [], [], [], [], []
        for block in self.pool.pick(self.blocks):
            for plane in Plane:
                for index in self._slice_indices(block, plane):
                    t = draw_timesteps(1, self.schedule, self.options.pure_noise_share, self.generator)
                    residual = block.residual.narrow(1 + plane.axis, index, 1)
                    x_t, target, alpha_bar = _noisy(residual[None], t, self.schedule, self.generator)
                    seen.append(_slab(self.ensemble, x_t, block, plane, index))
                    targets.append(target.squeeze(2 + plane.axis))
                    levels.append(alpha_bar)
                    inputs = ModelInputs(block.base[None], block.acquisition[None])
                    contexts.append(self.ensemble.rule.plane_vector(inputs, plane, 1))
                    weights.append(block.weight)
        network = self.ensemble.networks[0]
        x = torch.cat(seen).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=self.options.autocast, enabled=self.options.autocast is not None):
            prediction, _ = network(x, torch.cat(levels), torch.cat(contexts))  # type: ignore[arg-type]
        error = (prediction.float() - torch.cat(targets)).square().mean(dim=(1, 2, 3))
        return (error * torch.tensor(weights)).mean()

    def _slice_indices(self, block: Block, plane: Plane) -> list[int]:
        size = block.base.shape[1 + plane.axis]
        return [int(n) for n in torch.randint(0, size, (self.slices,), generator=self.generator)]


def _slab(ensemble: PlaneEnsemble, x_t: Tensor, block: Block, plane: Plane, index: int) -> Tensor:
    """The input of one patch, through the very function that inference uses, on the few slices that it needs."""
    radius, axis = ensemble.rule.slab_radius, 1 + plane.axis
    size = block.base.shape[axis]
    wanted = torch.arange(index - radius, index + radius + 1).clamp(0, size - 1)
    base = block.base.index_select(axis, wanted)[None]
    noisy = x_t.expand(*(2 * radius + 1 if a == axis + 1 else -1 for a in range(5)))
    return ensemble.rule.slab(noisy, ModelInputs(base), [0], plane, radius, radius + 1)


class FusionLoss:
    """Crops through a fusion rule whose plane networks are frozen.

    The outer `margin` voxels do not count: there the plane networks lack surroundings that they have in a whole volume.
    """

    def __init__(
        self,
        rule: ScoreFusion,
        pool: BlockPool,
        schedule: NoiseSchedule,
        options: StageOptions,
        generator: torch.Generator,
        margin: int = 6,
    ) -> None:
        self.rule, self.pool, self.schedule, self.options, self.generator = rule, pool, schedule, options, generator
        self.margin = margin

    def __call__(self) -> Tensor:
        self.pool.refresh()
        block = self.pool.pick(1)[0]
        t = draw_timesteps(1, self.schedule, self.options.pure_noise_share, self.generator)
        x_t, target, alpha_bar = _noisy(block.residual[None], t, self.schedule, self.generator)
        inputs = ModelInputs(block.base[None], block.acquisition[None])
        prediction = self.rule(x_t, inputs, alpha_bar)
        inner = at([slice(self.margin, size - self.margin) for size in target.shape[2:]])
        return (prediction - target)[inner].square().mean() * block.weight


def gram_matrices(
    ensemble: PlaneEnsemble,
    source: BlockSource,
    schedule: NoiseSchedule,
    count: int,
    generator: torch.Generator,
    margin: int = 6,
    pure_noise_share: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the error of a weighted mean depends on: inner products of predictions and truth, a matrix a block.

    Predictions are taken as they are used: with what the measurement fixes projected out. Only the head's voxels count.

    Returns:
        `(blocks, P + 1, P + 1)` means over voxels of products (predictions, then truth), `(blocks,)` alpha_bar and
        `(blocks, 6)` acquisitions.
    """
    grams, levels, acquisitions = [], [], []
    for _ in range(count):
        block = source.draw()
        t = draw_timesteps(1, schedule, pure_noise_share, generator)
        x_t, target, alpha_bar = _noisy(block.residual[None], t, schedule, generator)
        with torch.inference_mode():
            predictions, _ = ensemble.predict(x_t, ModelInputs(block.base[None], block.acquisition[None]), alpha_bar)
        images = torch.cat([predictions, target], dim=1).transpose(0, 1)  # (P + 1, 1, I, J, K)
        images = images - block.operator.pseudo_inverse(block.operator.forward(images))
        window = at([slice(margin, size - margin) for size in images.shape[2:]])
        truth = block.base[None] + (2.0 / ensemble.rule.residual_gain) * target
        inner = images[window].flatten(1)[:, (truth[window] > FOREGROUND).flatten()]
        if inner.shape[1] == 0:
            continue
        grams.append(inner @ inner.T / inner.shape[1])
        levels.append(alpha_bar)
        acquisitions.append(block.acquisition)
    return torch.stack(grams), torch.cat(levels), torch.stack(acquisitions)


def fit_prior(
    prior: AcquisitionPrior,
    grams: Tensor,
    alpha_bar: Tensor,
    acquisitions: Tensor,
    ridge: float = 0.01,
    shrinkage: float = 1.0,
) -> tuple[float, float]:
    """Fit the prior to Gram matrices by weighted least squares, each block counting by what there is to find in it.

    The error of a weighted mean is quadratic in the prior's weights, so the best ones solve a linear system.

    Args:
        grams, alpha_bar, acquisitions: from `gram_matrices`.
        ridge: pull towards the plane average, relative to the mean curvature.
        shrinkage: share of the fitted weights that is kept; chosen on validation volumes.

    Returns:
        Error over the plane average's error: of the prior that is left in the module, on all blocks; and of one fitted
        to three quarters, on the rest.
    """
    weight = (1.0 / (grams[:, -1, -1] + 0.02)).double()
    held_out = torch.arange(len(grams)) % 4 == 0
    features = prior.features(alpha_bar, acquisitions).double()
    errors = _prior_errors(grams.double(), features, weight)
    ratios: list[float] = []
    for part in (~held_out, torch.ones_like(held_out)):
        head = shrinkage * _solve_prior(grams[part].double(), features[part], weight[part], ridge)
        judged = held_out if not ratios else part
        ratios.append(float(errors(head)[judged].mean() / errors(torch.zeros_like(head))[judged].mean()))
    with torch.no_grad():
        prior.head.weight.copy_(head)
    return ratios[1], ratios[0]


def _mixing(members: int) -> Tensor:
    """`(P, P)`: the prior's values (P - 1 free weights, gain) to the deviations of the plane weights."""
    free = torch.cat([torch.eye(members - 1), -torch.ones(1, members - 1)])
    return torch.cat([free, torch.full((members, 1), 1.0 / members)], dim=1).double()


def _prior_errors(grams: Tensor, features: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
    members = grams.shape[1] - 1

    def errors(head: Tensor) -> Tensor:
        weights = 1.0 / members + features @ head.T @ _mixing(members).T
        vector = torch.cat([weights, -torch.ones_like(weights[:, :1])], dim=1)  # error = vector . (predictions, truth)
        return torch.einsum("np,npq,nq->n", vector, grams, vector) * weight

    return errors


def _solve_prior(grams: Tensor, features: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """`(P, features)`: normal equations of the weighted squared error."""
    members = grams.shape[1] - 1
    mixing = _mixing(members)
    inner = torch.einsum("pa,npq,qb->nab", mixing, grams[:, :-1, :-1], mixing)
    pull = torch.einsum("pa,np->na", mixing, grams[:, :-1, -1] - grams[:, :-1, :-1].mean(dim=2))
    size = members * features.shape[1]
    curvature = torch.einsum("n,nab,nf,ng->afbg", weight, inner, features, features).reshape(size, size)
    target = torch.einsum("n,na,nf->af", weight, pull, features).reshape(size)
    curvature = curvature + ridge * curvature.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    return torch.linalg.solve(curvature, target).reshape(members, -1)


def freeze(modules: Sequence[nn.Module]) -> None:
    """Evaluation mode, no gradients."""
    for module in modules:
        module.eval().requires_grad_(False)


def evaluate_rule(
    rule: FusionRule, blocks: Sequence[Block], schedule: NoiseSchedule, gain: float
) -> tuple[float, float]:
    """PSNR gain in dB over the base image on held-out blocks, before and after projection, for one step from pure
    noise."""
    last = schedule.num_train_timesteps - 1
    plain, projected = [], []
    for number, block in enumerate(blocks):
        generator = torch.Generator().manual_seed(number)
        noise = torch.randn(block.residual[None].shape, generator=generator)
        with torch.inference_mode():
            alpha_bar = torch.tensor([float(schedule.alpha_bar[last])])
            prediction = rule(noise, ModelInputs(block.base[None], block.acquisition[None]), alpha_bar)
            residual = schedule.to_x0(noise, prediction, last)
            error = residual - block.residual[None]
            null = error - block.operator.pseudo_inverse(block.operator.forward(error))
        before = block.residual.square().mean()
        plain.append(float(10 * torch.log10(before / error.square().mean())))
        projected.append(float(10 * torch.log10(before / null.square().mean())))
    return sum(plain) / len(plain), sum(projected) / len(projected)
