"""The MLflow runs of a job, found by its submission's tag over the REST API: to link to them, to close what a kill left."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import aiohttp
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowException

from operators.client import address
from pipeline.spec.job import GAP_VIEW, MODEL_TRAINING, SUBMISSION_TAG

KIND_TAG = "windrow.kind"
KINDS = ("comparison", "summary", "variant", "stage")
"""Values of that tag, those that show most first."""
Ending = Literal["KILLED", "FAILED", "FINISHED"]
REQUEST_TIMEOUT_S = 10.0
"""Shorter than the cluster's: a slow tracking server must not hold up the watch over a job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pages:
    """Addresses of MLflow's pages for one submission."""

    run: str
    """The run that shows most: the comparison, else a variant's, else a stage's. Where several show as much, their
    experiment with these runs selected; where nothing was left to do, the experiment."""
    curves: str
    """Every variant's curves on the same charts: means over seeds once they are compared, each seed's before."""


class TrackingError(AirflowException):
    """The tracking server cannot be reached or refuses a request."""


class TrackingServer:
    """An MLflow tracking server.

    Args:
        url: where it and its pages are.
        auth: the user and password it asks for, if any.
    """

    def __init__(self, url: str, auth: aiohttp.BasicAuth | None = None) -> None:
        self.url = url.rstrip("/")
        self._session = aiohttp.ClientSession(auth=auth, timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S))

    @classmethod
    def of(cls, connection: Connection) -> Self:
        """The server of an Airflow connection."""
        auth = aiohttp.BasicAuth(connection.login, connection.password or "") if connection.login else None
        return cls(address(connection), auth)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def runs(self, submission_id: str, *, only_running: bool = False) -> list[dict[str, Any]]:
        """The runs that a submission opened, in whatever experiment, as MLflow describes them."""
        condition = f"tags.{SUBMISSION_TAG} = '{submission_id}'"
        if only_running:
            condition += " and attributes.status = 'RUNNING'"
        experiments = [found["experiment_id"] for found in await self._pages("experiments/search", "experiments", {})]
        if not experiments:
            return []
        return await self._pages("runs/search", "runs", {"experiment_ids": experiments, "filter": condition})

    async def close(self, submission_id: str, status: Ending) -> list[str]:
        """Give the runs that a job left open their end; returns their ids."""
        left = [run["info"]["run_id"] for run in await self.runs(submission_id, only_running=True)]
        for run_id in left:
            end_time = int(time.time() * 1000)
            await self._ask("runs/update", {"run_id": run_id, "status": status, "end_time": end_time})
        return left

    async def pages(self, submission_id: str, experiment_name: str | None = None) -> Pages | None:
        """Where to look at what a submission does; None before there is anything to see.

        Args:
            submission_id: the job.
            experiment_name: where to look for curves when the job opens no run, because all of it was done before.
        """
        runs = await self.runs(submission_id)
        by_kind = {kind: [run for run in runs if _tag(run, KIND_TAG) == kind] for kind in KINDS}
        chosen = next(filter(None, by_kind.values()), runs)
        found = [run["info"]["experiment_id"] for run in chosen] or await self._experiments(experiment_name)
        if not found:
            return None
        experiment = f"{self.url}/#/experiments/{found[0]}"
        selected = quote(f"tags.{SUBMISSION_TAG} = '{submission_id}'", safe="")
        chains = quote(f"tags.`{KIND_TAG}` = 'variant'", safe="")
        compared = by_kind["summary"] or any(_tag(run, KIND_TAG) == "report" for run in runs)  # a report comes after it
        shown = f"viewStateShareKey={GAP_VIEW}" if compared else f"searchFilter={chains}"
        match chosen:
            case []:
                run_page = f"{experiment}?{MODEL_TRAINING}"
            case [only]:
                run_page = f"{experiment}/runs/{only['info']['run_id']}?{MODEL_TRAINING}"
            case _:
                run_page = f"{experiment}/runs?searchFilter={selected}&{MODEL_TRAINING}"
        return Pages(run=run_page, curves=f"{experiment}/runs?{shown}&compareRunsMode=CHART&{MODEL_TRAINING}")

    async def _experiments(self, name: str | None) -> list[str]:
        """The id of the experiment of that name, if there is one."""
        if name is None:
            return []
        condition = {"filter": f"name = '{name}'"}
        return [found["experiment_id"] for found in await self._pages("experiments/search", "experiments", condition)]

    async def _pages(self, path: str, key: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page_token: str | None = None
        while page_token != "":
            more = {"page_token": page_token} if page_token else {}
            answer = await self._ask(path, {"max_results": 1000, **body, **more})
            found += answer.get(key) or []
            page_token = answer.get("next_page_token") or ""
        return found

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            async with self._session.post(f"{self.url}/api/2.0/mlflow/{path}", json=body) as response:
                if response.status != 200:
                    raise TrackingError(
                        f"MLflow at {self.url} refused {path} ({response.status}): {(await response.text()):.500}"
                    )
                answer: dict[str, Any] = await response.json()
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TrackingError(f"MLflow at {self.url} cannot be reached: {type(error).__name__}: {error}") from error


def _tag(run: dict[str, Any], key: str) -> str | None:
    tags = run["data"].get("tags") or []
    return next((tag["value"] for tag in tags if tag["key"] == key), None)
