"""Answers: from a study's evidence to its findings, a file per kind of study."""

from __future__ import annotations

from typing import assert_never

import pipeline.studies.distillation.answer as distillation_study
import pipeline.studies.downsampling.answer as downsampling_study
import pipeline.studies.tuning.answer as tuning_study
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Findings


def answer(evidence: Evidence) -> Findings:
    """What a study answers."""
    match evidence.study.kind:
        case "distillation":
            return distillation_study.answer(evidence)
        case "downsampling":
            return downsampling_study.answer(evidence)
        case "tuning":
            return tuning_study.answer(evidence)
        case other:
            assert_never(other)
