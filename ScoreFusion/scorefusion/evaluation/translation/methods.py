"""What can be a row of a translation table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from scorefusion.errors import RequestError
from scorefusion.evaluation.translation.pairs import Pair


@dataclass(frozen=True, eq=False)
class Translator:
    """A method.

    Attributes:
        key: short name for CSV and `--methods`.
        label: name for people.
        family: `baseline` or `model`.
        translate: gives the target `(I, J, K)` in its own range [0, 1]; it must not look at the pair's truth.
        modules: networks whose calls are counted.
        device: where it runs.
        on_request: shown only where it is asked for by its key.
    """

    key: str
    label: str
    family: str
    translate: Callable[[Pair], Tensor]
    modules: tuple[nn.Module, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_request: bool = False


def choose(methods: Sequence[Translator], wanted: Sequence[str]) -> list[Translator]:
    """The rows asked for: `baseline` (or `classical`), `model`, a key (`fusion@fast`) or a rule at every plan
    (`fusion`)."""
    if not wanted:
        return [method for method in methods if not method.on_request]
    names = {"classical": "baseline"}
    asked = {names.get(name, name) for name in wanted}
    known: set[str] = set()
    chosen = []
    for method in methods:
        own = {method.key, method.key.partition("@")[0]}
        known |= own | {method.family}
        if asked & (own if method.on_request else own | {method.family}):
            chosen.append(method)
    unknown = sorted(asked - known)
    if unknown:
        msg = f"there is no method {unknown[0]!r}; choose from {', '.join(sorted(known))}"
        raise RequestError(msg)
    return chosen
