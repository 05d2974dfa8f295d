"""The DAGs' forms, made from models of fields: Airflow draws them, checks what is filled in, and shows the help."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Param

from pipeline.spec.forms.fields import Fields
from pipeline.spec.lineups import Dates


def form(
    fields: type[Fields], choices: Mapping[str, Sequence[str]] | None = None, **suggested: Any
) -> dict[str, Param]:
    """A form that asks for some fields.

    Args:
        fields: the model; its titles, help, ranges, choices and defaults are the form's.
        choices: by field, the only texts that it takes; the first stands there.
        suggested: by field, what stands there at first instead of its default.
    """
    params = {}
    for name, schema in fields.described().items():
        default = schema.pop("default", None)
        if choices is not None and name in choices:
            schema["enum"] = choices[name]
            default = choices[name][0]
        # Airflow shows `description` as plain text and this as markdown.
        schema["description_md"] = schema.pop("description")
        params[name] = Param(suggested.get(name, default), **schema)
    return params


def filled_in(text: str) -> str:
    """A DAG's page with the suggested `{lineup}` and its days `{first}`, `{online_start}`, `{last}`, and this Airflow's home."""
    dates = Dates.suggested()
    found = {
        "{lineup}": dates.lineup,
        "{first}": dates.first,
        "{online_start}": dates.online_start,
        "{last}": dates.online(6),
    }
    found["{airflow_home}"] = os.environ.get("AIRFLOW_HOME", "~/airflow")
    for name, suggested in found.items():
        text = text.replace(name, suggested)
    return text
