"""What a DAG run asks for: the answers of its form or conf, checked against the model that its form was made from."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import get_current_context

from operators.form.run_window import Interval
from pipeline.spec.errors import BadInput, nearest
from pipeline.spec.forms.fields import Fields

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Fields)


def answers(fields: type[F]) -> F:
    """The checked answers of the running task, which the UI, the API's conf or a backfill's conf can fill in.

    Raises:
        BadInput: the conf names something that the form does not have, or a value cannot be used.
    """
    return fields.read(*filled_in(get_current_context()))


def filled_in(context: Context) -> tuple[Mapping[str, Any], str]:
    """Every field of a run's form with its value, and what errors call the form.

    Raises:
        BadInput: the conf names something that the form does not have.
    """
    dag, dag_run = context["dag"], context["dag_run"]
    refuse_unknown(dag_run.conf or {}, set(dag.params), dag.dag_id)
    given = dict(context["params"])
    log.info("Fields of this run: %s", given)
    return given, f"the form of {dag.dag_id}"


def interval() -> Interval:
    """Start and end of the running task's data interval, each None where it has none."""
    dag_run = get_current_context()["dag_run"]
    return dag_run.data_interval_start, dag_run.data_interval_end


def refuse_unknown(given: Collection[str], known: Collection[str], dag_id: str) -> None:
    """Refuse a conf that Airflow would take in silence.

    Raises:
        BadInput: a key is not a field of the form; the message names the nearest.
    """
    for name in given:
        if name not in known:
            raise BadInput(f"{dag_id} has no field {name!r}: {nearest(name, sorted(known))}")
