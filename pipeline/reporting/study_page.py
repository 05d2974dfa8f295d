"""A study's page: one HTML file with everything in it, for whoever has a browser and no network."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.spec.documents import as_yaml
from pipeline.spec.lineup import document
from pipeline.spec.study import Study
from pipeline.studies.drawing import Drawn
from pipeline.studies.findings import Findings, Table

SVG = "{http://www.w3.org/2000/svg}"
ElementTree.register_namespace("", SVG.strip("{}"))
XLINK = "{http://www.w3.org/1999/xlink}"
ElementTree.register_namespace("xlink", XLINK.strip("{}"))
TEMPLATE = Path(__file__).parent / "templates" / "study.html"


def render(study: Study, findings: Findings, *, facts: Mapping[str, str], times: Table, took: str = "") -> str:
    """The page of a study.

    Args:
        study: the question, its cells and its windows.
        findings: the answer.
        facts: what made it, by name: versions, commands, seeds.
        times: where the wall time went.
        took: one sentence on what it cost.
    """
    environment = Environment(
        autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text())
    figures = {
        section.slug: inline(section.figure, section.title)
        for section in findings.sections
        if section.figure is not None
    }
    settings = json.dumps(document(study.lineup), indent=1)
    return template.render(
        study=study,
        findings=findings,
        figures=figures,
        facts=facts,
        times=times,
        took=took,
        settings=settings,
        again=again(study),
    )


def again(study: Study) -> str:
    """The file of answers that describes a study, on the seeds that were answered, and without what nobody filled in."""
    asked = {name: given for name, given in study.asked.items() if given is not None}
    return as_yaml({"kind": study.kind, **asked, "seeds": list(study.lineup.seeds)})


def inline(figure: Figure, title: str) -> Markup:
    """A figure drawn into the page: vectors, so that it prints well, whose points say their values under a mouse."""
    drawn = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": title}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(drawn.getvalue())
    root.set("role", "img")
    root.set("aria-label", title)
    if isinstance(figure, Drawn):
        for line in root.iter(f"{SVG}g"):
            points = list(line.iter(f"{SVG}use"))
            said = figure.said.get(line.get("id", ""), [])
            if len(points) == len(said):  # a point outside the picture has no mark
                for point, words in zip(points, said, strict=True):
                    ElementTree.SubElement(point, f"{SVG}title").text = words
    _rename(root, "".join(c if c.isalnum() else "-" for c in title))
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _rename(root: ElementTree.Element, picture: str) -> None:
    """Let every id of a picture begin with the picture's: a page has several pictures, and each id once."""
    for each in root.iter():
        if (own := each.get("id")) is not None:
            each.set("id", f"{picture}-{own}")
        for name in ("clip-path", f"{XLINK}href"):
            if "#" in (named := each.get(name, "")):
                each.set(name, named.replace("#", f"#{picture}-"))
