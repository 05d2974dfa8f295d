"""Recipes: functions that return a complete study, each with its paper, its command and what it costs."""

from pipeline.recipes.answers import AS_LINEUP, CPU, GPU, conf, declared, on_workers
from pipeline.recipes.distillation import distillation_study
from pipeline.recipes.downsampling import downsampling_study
from pipeline.recipes.tuning import TUNING_SEEDS, tuning_study

__all__ = [
    "AS_LINEUP",
    "CPU",
    "GPU",
    "TUNING_SEEDS",
    "conf",
    "declared",
    "distillation_study",
    "downsampling_study",
    "on_workers",
    "tuning_study",
]
