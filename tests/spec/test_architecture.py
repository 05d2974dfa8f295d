"""What import-linter can't see: which modules are really loaded when the light rooms are."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = [
    "pipeline.spec.window",
    "pipeline.spec.config",
    "pipeline.spec.lineup",
    "pipeline.spec.job",
    "pipeline.spec.settings",
    "pipeline.spec.forms.asked",
    "pipeline.studies.jobs",
    "pipeline.studies.declared",
    "pipeline.studies.estimate",
    *(
        f"pipeline.studies.{kind}.{part}"
        for kind in ("distillation", "downsampling", "tuning")
        for part in ("fields", "cells")
    ),
]
HEAVY = ["torch", "torchrec", "mlflow", "ray", "numpy", "pyarrow", "airflow"]


@pytest.mark.parametrize("room", LIGHT)
def test_a_light_room_loads_nothing_heavy(room: str) -> None:
    program = f"import sys, {room}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_command_answers_without_the_heavy_ones() -> None:
    program = f"import sys, pipeline.cli; print(*sorted(set({HEAVY[:4]}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
