"""Whatever is kept of the negatives, predictions stay calibrated; wrongly corrected, they do not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

import pipeline.examples
from pipeline.chain import Engine
from pipeline.config import (
    Continuous,
    EvaluationConfig,
    ModelConfig,
    NegativeDownsampling,
    OptimizerConfig,
    Selection,
    Variant,
)
from pipeline.job import TrainJob
from pipeline.lake import Lake
from pipeline.lineup import DatasetConfig, LineUp, SimulatedSource
from pipeline.selection import Selected, select
from pipeline.simulator import SimulatorConfig, simulate
from pipeline.steps import StepManifest
from pipeline.window import Window

SEEDS = range(5)
TRAINED, JUDGED = Window.of("2024-01-01"), Window.of("2024-01-02")
ROWS = 1_000_000
RATE = 0.05
TOLERANCE = 0.02

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
