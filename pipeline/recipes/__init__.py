"""Recipes: functions that return a complete study, each with its paper, its command and what it costs."""

from pipeline.recipes.answers import conf, declared
from pipeline.recipes.distillation import distillation_study
from pipeline.recipes.downsampling import downsampling_study
from pipeline.recipes.tuning import tuning_study

__all__ = ["conf", "declared", "distillation_study", "downsampling_study", "tuning_study"]
