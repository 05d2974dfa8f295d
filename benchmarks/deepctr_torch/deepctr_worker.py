"""DeepCTR-Torch in a process of its own: one request per line of JSON in, one answer per line out.

It runs in an environment that has none of Windrow, so it imports nothing of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepctr_torch.callbacks import Callback  # type: ignore[import-not-found]
from deepctr_torch.inputs import DenseFeat, SparseFeat  # type: ignore[import-not-found]
from deepctr_torch.models import DCN, PNN, DeepFM  # type: ignore[import-not-found]
from torch import nn

EMBEDDING_DIM = 16


class _Stopwatch(Callback):  # type: ignore[misc]
    """Times the epoch alone: what `fit` does before its first batch is not counted against it."""

    seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.seconds = time.perf_counter() - self._started


class Worker:
    """Its models by name, on the exported windows in a folder."""

    def __init__(self, folder: Path, num_dense: int, table_sizes: list[int], batch_size: int) -> None:
        self._folder = folder
        self._batch_size = batch_size
        self._columns = [DenseFeat(f"I{place}", 1) for place in range(num_dense)]
        self._columns += [SparseFeat(f"C{place}", size, EMBEDDING_DIM) for place, size in enumerate(table_sizes)]
        self._models: dict[str, Any] = {}

    def build(self, name: str, model: str, hidden: list[int], embedding_lr: float, dense_lr: float, eps: float) -> None:
        """A new model under a name.

        Its own initialisation, normal with a deviation of 1e-4 in every layer, learns slower: tables and layers begin
        as TorchRec's and PyTorch's do. Nothing is regularised.
        """
        if model == "PNN":
            made = PNN(self._columns, dnn_hidden_units=hidden)
        else:
            made = {"DCN": DCN, "DeepFM": DeepFM}[model](self._columns, self._columns, dnn_hidden_units=hidden)
        made.regularization_weight = []
        for layer in made.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        tables = list(made.embedding_dict.parameters())
        for table in tables:
            nn.init.uniform_(table, -(len(table) ** -0.5), len(table) ** -0.5)
        held = {id(table) for table in tables}
        rest = [weight for weight in made.parameters() if id(weight) not in held]
        groups = [{"params": tables, "lr": embedding_lr}, {"params": rest, "lr": dense_lr}]
        made.compile(torch.optim.Adagrad(groups, eps=eps), "binary_crossentropy")
        self._models[name] = made

    def drop(self) -> None:
        """Forget all models."""
        self._models.clear()

    def fit(self, name: str, window: str) -> float:
        """Seconds of one epoch of its public `fit`, in the rows' order."""
        x, y = self._arrays(window)
        stopwatch = _Stopwatch()
        self._models[name].fit(
            [x], y, batch_size=self._batch_size, epochs=1, verbose=0, shuffle=False, callbacks=[stopwatch]
        )
        return stopwatch.seconds

    def fit_bfloat16(self, name: str, window: str) -> float:
        """The same under PyTorch's autocast: its layers multiply in bfloat16."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.fit(name, window)

    def loop(self, name: str, window: str) -> float:
        """Seconds of one pass of a bare loop around the same model and optimizer, without `fit` and its loader."""
        x, y = map(torch.from_numpy, self._arrays(window))
        model = self._models[name].train()
        started = time.perf_counter()
        for start in range(0, len(x), self._batch_size):
            rows = slice(start, start + self._batch_size)
            loss = model.loss_func(model(x[rows]).squeeze(-1), y[rows], reduction="sum")
            model.optim.zero_grad()
            loss.backward()
            model.optim.step()
        return time.perf_counter() - started

    def log_loss(self, name: str, window: str) -> float:
        """Mean log-loss of its public `predict`."""
        x, y = self._arrays(window)
        predicted = self._models[name].predict([x], batch_size=self._batch_size).ravel().astype(np.float64)
        predicted = np.clip(predicted, 1e-7, 1 - 1e-7)
        return float(-np.mean(np.where(y > 0, np.log(predicted), np.log1p(-predicted))))

    def versions(self) -> dict[str, str]:
        """What runs here."""
        return {"torch": torch.__version__, "deepctr-torch": version("deepctr-torch")}

    def _arrays(self, window: str) -> tuple[Any, Any]:
        return np.load(self._folder / f"{window}.x.npy"), np.load(self._folder / f"{window}.y.npy")


def _requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # its `fit` prints to what would be the answers
    setup = json.loads(sys.argv[1])
    torch.set_num_threads(setup.pop("threads"))
    for thread in threading.enumerate():  # its import asks PyPI for a newer release
        if thread is not threading.current_thread():
            thread.join()
    worker = Worker(Path(setup.pop("folder")), **setup)
    with contextlib.redirect_stdout(sys.stderr):
        for request in _requests():
            call: Callable[..., Any] = getattr(worker, request.pop("call"))
            answers.write(json.dumps(call(**request)) + "\n")


if __name__ == "__main__":
    main()
