"""Answers: from a study's evidence to its findings, by the kind that asked."""

from __future__ import annotations

from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Findings
from pipeline.studies.kinds import kind_of


def answer(evidence: Evidence) -> Findings:
    """What a study answers.

    Raises:
        StudyError: its kind is not installed here.
    """
    findings: Findings = kind_of(evidence.study.kind).part("answer", "answer")(evidence)
    return findings
