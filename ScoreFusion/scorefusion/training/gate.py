"""Weights by acquisition, fitted in closed form.

The error of a weighted mean is quadratic in the weights, and the weights are linear in what is known of the scan, so
the best linear rule solves a small linear system. What the system needs of a block are the inner products of the plane
predictions and the truth, a Gram matrix of P + 1 rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.gate import AcquisitionGate
from scorefusion.training.blocks import FOREGROUND, Block
from scorefusion.training.losses import add_noise, inside
from scorefusion.training.recipe import Stage


@dataclass(frozen=True, eq=False)
class GramMatrices:
    """Of N blocks: `products` `(N, P + 1, P + 1)` means over voxels (predictions, then truth), `alpha_bar` `(N,)`,
    `contexts` `(N, volume_context_size)`: what is known of the scans (nothing, `(N, 0)`, in most translation)."""

    products: Tensor
    alpha_bar: Tensor
    contexts: Tensor

    @classmethod
    def stack(cls, parts: list[tuple[Tensor, Tensor, Tensor]]) -> GramMatrices:
        """From single blocks."""
        products, levels, contexts = zip(*parts, strict=True)
        return cls(torch.stack(products), torch.cat(levels), torch.stack(contexts))


@torch.inference_mode()
def gram_matrix(
    ensemble: PlaneEnsemble, block: Block, schedule: NoiseSchedule, stage: Stage, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor] | None:
    """One block's products, level `(1,)` and context `(volume_context_size,)`; None where it holds no head
    or some member is silent.

    Predictions are taken as they are used: with what the measurement fixes projected out. Only the head's voxels count.
    """
    noisy = add_noise(block.residual[None], schedule, stage.pure_noise_share, generator)
    predictions = ensemble.predict(noisy.x_t, block.inputs, noisy.alpha_bar)
    if predictions.shape[1] < len(ensemble.members):  # an optional condition is missing
        return None
    images = torch.cat([predictions, noisy.wanted], dim=1).transpose(0, 1)  # (P + 1, 1, I, J, K)
    if block.operator is not None:
        images = images - block.operator.pseudo_inverse(block.operator.forward(images))
    window = inside(images, stage.margin)
    truth = block.base[None] + (2.0 / ensemble.layout.residual_gain) * block.residual[None]
    inner = images[window].flatten(1)[:, (truth[window] > FOREGROUND).flatten()]
    if inner.shape[1] == 0:
        return None
    context = ensemble.layout.volume_vector(block.inputs)
    known = torch.zeros(0) if context is None else context[0].cpu()
    return (inner @ inner.T / inner.shape[1]).cpu(), noisy.alpha_bar.cpu(), known


def fit_gate(
    gate: AcquisitionGate, grams: GramMatrices, ridge: float = 0.01, shrinkage: float = 1.0
) -> tuple[float, float]:
    """Fit the gate by weighted least squares, each block counting by what there is to find in it.

    Args:
        gate: receives the weights.
        grams: of training blocks.
        ridge: pull towards the plane average, relative to the mean curvature.
        shrinkage: share of the fitted weights that is kept; chosen on validation volumes.

    Returns:
        Error over the plane average's error: of the gate that is left in the module, on all blocks; and of one fitted
        to three quarters, on the rest.
    """
    products = grams.products.double()
    weight = (1.0 / (products[:, -1, -1] + 0.02)).double()
    features = gate.features(grams.alpha_bar, grams.contexts).double()
    held_out = torch.arange(len(products)) % 4 == 0
    errors = _errors(products, features, weight)
    ratios: list[float] = []
    for part in (~held_out, torch.ones_like(held_out)):
        head = shrinkage * _solve(products[part], features[part], weight[part], ridge)
        judged = held_out if not ratios else part
        ratios.append(float(errors(head)[judged].mean() / errors(torch.zeros_like(head))[judged].mean()))
    with torch.no_grad():
        gate.head.weight.copy_(head)
    return ratios[1], ratios[0]


def _mixing(members: int) -> Tensor:
    """`(P, P)`: the gate's values (P - 1 free weights, gain) to the deviations of the plane weights."""
    free = torch.cat([torch.eye(members - 1), -torch.ones(1, members - 1)])
    return torch.cat([free, torch.full((members, 1), 1.0 / members)], dim=1).double()


def _errors(products: Tensor, features: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
    members = products.shape[1] - 1

    def errors(head: Tensor) -> Tensor:
        weights = 1.0 / members + features @ head.T @ _mixing(members).T
        vector = torch.cat([weights, -torch.ones_like(weights[:, :1])], dim=1)  # error = vector . (predictions, truth)
        return torch.einsum("np,npq,nq->n", vector, products, vector) * weight

    return errors


def _solve(products: Tensor, features: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """`(P, features)`: normal equations of the weighted squared error."""
    members = products.shape[1] - 1
    mixing = _mixing(members)
    inner = torch.einsum("pa,npq,qb->nab", mixing, products[:, :-1, :-1], mixing)
    pull = torch.einsum("pa,np->na", mixing, products[:, :-1, -1] - products[:, :-1, :-1].mean(dim=2))
    size = members * features.shape[1]
    curvature = torch.einsum("n,nab,nf,ng->afbg", weight, inner, features, features).reshape(size, size)
    target = torch.einsum("n,na,nf->af", weight, pull, features).reshape(size)
    curvature = curvature + ridge * curvature.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    return torch.linalg.solve(curvature, target).reshape(members, -1)
