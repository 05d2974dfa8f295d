"""The contestants of another environment: DeepCTR-Torch, installed on demand and run in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch

from benchmarks.contest import Rates
from benchmarks.contest_data import BATCH_SIZE, Examples
from pipeline.spec.config import OptimizerConfig, Widths

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parents[1] / ".venv-deepctr"
REQUIREMENTS = HERE / "requirements-deepctr.txt"
MODELS = ("PNN", "DCN", "DeepFM")
"""It has no DLRM. PNN is the nearest: dot products of every pair of embeddings, beside the embeddings, under an MLP."""


class RivalError(RuntimeError):
    """DeepCTR-Torch cannot be measured."""


WAYS = {"fit": "its fit", "fit_bfloat16": "its fit, bfloat16", "loop": "a bare loop"}
"""How its models are trained, by the worker's name for it."""


def install(tell: Callable[[str], None]) -> Path:
    """The Python of the rival's environment, which is made if it is not there or not as its requirements say.

    torch comes in the build that pip's own configuration offers, or from the index that `TORCH_INDEX` names.
    """
    release = torch.__version__.split("+")[0]
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / ".installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + release.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    tell(f"installing DeepCTR-Torch into {ENVIRONMENT.name}")
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    index = os.environ.get("TORCH_INDEX")
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *(["--index-url", index] if index else []), f"torch=={release}"], check=True)
    subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", str(REQUIREMENTS)], check=True)
    stamp.write_text(wanted)
    return python


class Process:
    """DeepCTR-Torch at work, with as many threads and on the same cores as this process."""

    def __init__(self, python: Path, folder: Path, examples: Examples, threads: int) -> None:
        setup = {
            "folder": str(folder),
            "threads": threads,
            "num_dense": len(examples.features.dense),
            "table_sizes": [feature.hash_size for feature in examples.features.categorical],
            "batch_size": BATCH_SIZE,
        }
        # Its import asks PyPI for a newer release; a proxy that nobody is makes that fail at once.
        environ = {**os.environ, "OMP_NUM_THREADS": str(threads), "https_proxy": "http://127.0.0.1:9"}
        environ.pop("PYTHONPATH", None)
        self._log = folder / "deepctr.log"
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [str(python), "-W", "ignore", str(HERE / "deepctr_worker.py"), json.dumps(setup)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environ,
                cwd=folder,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def ask(self, call: str, **arguments: Any) -> Any:
        """Call a method of the worker.

        Raises:
            RivalError: the process ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RivalError("DeepCTR-Torch's process has no pipes")
        self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            status, last = self._process.wait(), self._log.read_text()[-2000:]
            raise RivalError(f"DeepCTR-Torch's process ended in {call!r} with status {status}; it said last:\n{last}")
        return json.loads(answer)

    def versions(self) -> dict[str, str]:
        """Of what runs there.

        Raises:
            RivalError: its torch is another build than ours, so that speeds would compare the builds.
        """
        versions: dict[str, str] = self.ask("versions")
        if versions["torch"] != torch.__version__:
            raise RivalError(
                f"both sides need the same torch, got {torch.__version__} here and {versions['torch']} there: remove "
                f"{ENVIRONMENT.name} and set TORCH_INDEX to the index that ours came from"
            )
        return versions


class Rival:
    """One of its models, trained by its own `fit` or by a bare loop around the same step."""

    def __init__(
        self,
        process: Process,
        model: str,
        widths: Widths,
        rates: Rates,
        how: Literal["fit", "fit_bfloat16", "loop"] = "fit",
    ) -> None:
        self.name = f"DeepCTR-Torch {model}, {WAYS[how]}"
        self._process, self._how, self._key = process, how, f"{model} {how}"
        process.ask(
            "build",
            name=self._key,
            model=model,
            hidden=list(widths.over),
            embedding_lr=rates.embedding,
            dense_lr=rates.dense,
            eps=OptimizerConfig().eps,
        )

    def train(self, window: str) -> float:
        """One epoch on arrays in memory."""
        return float(self._process.ask(self._how, name=self._key, window=window))

    def log_loss(self, window: str) -> float | None:
        """Of all rows of the window; the bare loop ends with the weights of `fit`."""
        return float(self._process.ask("log_loss", name=self._key, window=window)) if self._how != "loop" else None
