"""A model's last linear layer: what comes into it, row by row, for signals that are of its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.spec.config import SKETCH_COLUMNS
from pipeline.spec.errors import BadInput
from pipeline.storage.hashing import key_of, splitmix64


def norm(hidden: torch.Tensor) -> torch.Tensor:
    """(B, 1) sqrt(1 + |h|^2) of inputs (B, H): the length of the last layer's gradient, its bias's included, for an error of one."""
    found: torch.Tensor = hidden.square().sum(dim=1, keepdim=True).add(1).sqrt()
    return found


def sketch(hidden: torch.Tensor) -> torch.Tensor:
    """(B, SKETCH_COLUMNS) one for the bias, then inputs (B, H) times random signs over the root of the other columns' number.

    Inner products of rows are those of (1, h), but for noise that falls with the columns (Achlioptas 2003). The signs are
    the same for ever: a hash of their places.
    """
    signs = torch.from_numpy(_signs(hidden.shape[1])).to(hidden.device)
    return torch.cat([torch.ones_like(hidden[:, :1]), hidden @ signs], dim=1)


def _signs(width: int) -> NDArray[np.float32]:
    columns = SKETCH_COLUMNS - 1
    places = np.arange(width * columns, dtype=np.uint64) ^ np.uint64(key_of("sketch"))
    signs = 1 - 2 * (splitmix64(places) >> np.uint64(63)).astype(np.float32)
    return (signs / np.float32(math.sqrt(columns))).reshape(width, columns)


READINGS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
    "norm": (norm, 1),
    "sketch": (sketch, SKETCH_COLUMNS - 1),
}
"""By name: what is made of the last layer's inputs, and by how many numbers each of these is multiplied for it."""


def last_linear(tower: nn.Module) -> nn.Linear:
    """The last linear layer of a tower, in the order in which its modules were made.

    Raises:
        BadInput: it has none.
    """
    found = [layer for layer in tower.modules() if isinstance(layer, nn.Linear)]
    if not found:
        raise BadInput(
            f"a tower ends in a linear layer with a bias, got none in {type(tower).__name__}: end it in `nn.Linear(width, 1)`"
        )
    return found[-1]


class Watch:
    """Sees what comes into a last layer while it is entered, and nothing where no reading is asked for.

    It hooks into the layer, and changes neither what the model returns nor how several workers' pipeline traces it.
    """

    def __init__(self, layer: Callable[[], nn.Linear], readings: Iterable[str], model: str) -> None:
        """Watch nothing before it is entered.

        Args:
            layer: gives the layer whose output is the model's logit; not asked without readings.
            readings: names of `READINGS`.
            model: what errors call it.
        """
        self._layer, self._readings, self._model = layer, sorted(readings), model
        self._latest: tuple[torch.Tensor, torch.Tensor] | None = None
        self._hook: Any = None

    def __enter__(self) -> Self:
        if self._readings:
            self._hook = self._layer().register_forward_hook(self._see)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _see(self, layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, torch.Tensor):  # and no stand-in of `torch.fx`
            self._latest = given[0].detach(), output.detach()

    def of(self, logits: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """(B, K) each: the readings of the batch that went through last, by name.

        Args:
            logits: (B,) what the model said of it; what is padded comes behind them.

        Raises:
            BadInput: the layer's output is another.
        """
        if not self._readings or not len(logits):
            return {}
        found, self._latest = self._latest, None
        if found is None or not np.array_equal(found[1].float().reshape(-1)[: len(logits)].cpu().numpy(), logits):
            raise BadInput(
                f"signals of the last layer's gradient need its output to be the logit; that of model {self._model!r} is not: let its "
                "network's `last_layer` return the linear layer whose output is the logit, or ask for another signal"
            )
        with torch.no_grad():
            hidden = found[0][: len(logits)].float()
            return {name: READINGS[name][0](hidden).cpu().numpy() for name in self._readings}

    def flops(self) -> float:
        """Of one row, what its readings take beside the forward pass."""
        return sum(2.0 * self._layer().in_features * READINGS[name][1] for name in self._readings)
