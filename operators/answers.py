"""What a DAG run asks for: the answers of its form or conf, checked, and the line-up that they speak of."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from operators.run_window import resolve_window
from pipeline.spec.errors import BadInput, asked
from pipeline.spec.lineup import LineUp, load_lineup
from pipeline.spec.lineups import lineup_path
from pipeline.spec.window import Window
from pipeline.studies.declared import on_workers

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)


class Answers:
    """The answers given to a DAG's form, which the UI, the API's conf or a backfill's conf can fill in.

    Args:
        params: every field with its value.
        interval: start and end of the run's data interval, each None where it has none.
    """

    def __init__(self, params: Mapping[str, Any], interval: tuple[Any, Any] = (None, None)) -> None:
        self.params = params
        self._interval = interval

    @classmethod
    def of(cls, context: Context) -> Answers:
        """The answers of a running task.

        Raises:
            BadInput: the conf names something that the form does not have.
        """
        dag, dag_run = context["dag"], context["dag_run"]
        refuse_unknown(dag_run.conf or {}, set(dag.params), dag.dag_id)
        log.info("Asked for: %s", dict(context["params"]))
        return cls(dict(context["params"]), (dag_run.data_interval_start, dag_run.data_interval_end))

    def __getitem__(self, name: str) -> Any:
        return self.params[name]

    @property
    def window(self) -> Window:
        """The window that the run is about."""
        return resolve_window(self.params, *self._interval)

    @property
    def span(self) -> tuple[Window, Window]:
        """The first and last window given; the run's own window where none is.

        Raises:
            BadInput: only one is given, or they run backward.
        """
        first, last = self.params.get("first"), self.params.get("last")
        if not first and not last:
            return self.window, self.window
        if not first or not last:
            raise BadInput(f"a span has a first and a last window, got {first!r} and {last!r}: fill in both")
        span = (Window.of(first), Window.of(last))
        if span[1] < span[0]:
            raise BadInput(f"a span runs forward, got {first} to {last}")
        return span

    @property
    def lineup(self) -> LineUp:
        """The chosen line-up, with the seeds and workers that the form gives instead of its own.

        Raises:
            LineUpError: there is none of that name, or it cannot be run.
        """
        lineup = on_workers(load_lineup(lineup_path(self.params["lineup"])), self.params)
        seeds = {"seeds": tuple(self.params["seeds"])} if self.params.get("seeds") else {}
        with asked("the form's seeds"):
            return LineUp.model_validate(lineup.model_dump() | seeds)

    def arguments(self, names: Collection[str]) -> dict[str, Any]:
        """The arguments of a study's recipe: name, windows and seeds, and the answers that bear one of `names`."""
        first, last = self.span
        judged = self.params.get("judged")
        return {name: answer for name, answer in self.params.items() if name in names} | {
            "name": self.params["study"],
            "first": first,
            "online_start": Window.of(self.params["online_start"]),
            "last": last,
            "judged": Window.of(judged) if judged else None,
            "seeds": self.lineup.seeds,
        }

    @property
    def variants(self) -> tuple[str, ...]:
        """The chosen variants; none stands for all."""
        return tuple(self.params.get("variants") or ())


def refuse_unknown(given: Collection[str], known: Collection[str], dag_id: str) -> None:
    """Refuse a conf that Airflow would take in silence.

    Raises:
        BadInput: a key is not a field of the form; the message names the nearest.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known))}"
            raise BadInput(f"{dag_id} has no field {name!r}: {hint}")
