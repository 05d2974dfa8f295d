"""A study's page: one HTML file with everything in it, for whoever has a browser and no network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.spec.lineup import document
from pipeline.spec.study import Study
from pipeline.studies.findings import Findings, Table

TEMPLATE = Path(__file__).parent / "templates" / "study.html"


def render(study: Study, findings: Findings, *, facts: Mapping[str, str], times: Table) -> str:
    """The page of a study.

    Args:
        study: the question, its cells and its windows.
        findings: the answer.
        facts: what made it, by name: versions, commands, seeds.
        times: where the wall time went.
    """
    environment = Environment(
        autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text())
    figures = {
        section.slug: _inline(section.figure, section.title)
        for section in findings.sections
        if section.figure is not None
    }
    settings = json.dumps(document(study.lineup), indent=1)
    return template.render(study=study, findings=findings, figures=figures, facts=facts, times=times, settings=settings)


def _inline(figure: Figure, title: str) -> Markup:
    """A figure as an image within the page; vector, so that it prints well."""
    drawn = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": title}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    data = base64.b64encode(drawn.getvalue()).decode()
    return Markup('<img src="data:image/svg+xml;base64,{}" alt="{}">').format(data, title)
