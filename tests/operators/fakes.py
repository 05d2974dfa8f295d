"""A Ray dashboard and an MLflow server that answer as the real ones do, with their quirks on demand."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class FakeRay:
    """The job API, with jobs as dicts."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.log = ""
        self.num_submits = 0
        self.num_stops = 0
        self.ignored_stops = 0
        """So many requests to stop are answered with yes and do nothing, as while a job is pending."""
        self.lose_next_answer = False
        """The next submission is taken but answered with an error."""
        self.url = ""

    def add(self, submission_id: str, status: str, **more: Any) -> None:
        """A job that is there already."""
        self.jobs[submission_id] = {"status": status, "start_time": int(time.time() * 1000), "metadata": {}, **more}

    async def submit(self, request: web.Request) -> web.Response:
        """Refuse a taken id with a 500, whatever became of its job."""
        body = await request.json()
        if body["submission_id"] in self.jobs:
            return web.Response(status=500, text="Traceback\nValueError: Job already exists")
        self.num_submits += 1
        self.add(body["submission_id"], "RUNNING", metadata=body["metadata"], runtime_env=body["runtime_env"])
        if self.lose_next_answer:
            self.lose_next_answer = False
            return web.Response(status=500, text="No available agent")
        return web.json_response({"submission_id": body["submission_id"]})

    async def get(self, request: web.Request) -> web.Response:
        """A job or 404."""
        job = self.jobs.get(request.match_info["id"])
        return web.json_response(job) if job else web.Response(status=404, text="no such job")

    async def stop(self, request: web.Request) -> web.Response:
        """Always yes."""
        self.num_stops += 1
        if self.num_stops > self.ignored_stops:
            self.jobs[request.match_info["id"]]["status"] = "STOPPED"
        return web.json_response({"stopped": True})

    async def logs(self, _request: web.Request) -> web.Response:
        """All of it, always."""
        return web.json_response({"logs": self.log})


class FakeMlflow:
    """Runs, found by submission and status."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.url = ""

    def add(self, submission_id: str, kind: str | None, status: str = "RUNNING") -> str:
        """A run that a submission opened."""
        tags = [{"key": "ray_submission_id", "value": submission_id}]
        tags += [{"key": "windrow.kind", "value": kind}] if kind else []
        run_id = f"run{len(self.runs)}"
        self.runs.append({"info": {"run_id": run_id, "experiment_id": "7", "status": status}, "data": {"tags": tags}})
        return run_id

    def status(self, run_id: str) -> str:
        """A run's status."""
        return str(next(run["info"]["status"] for run in self.runs if run["info"]["run_id"] == run_id))

    async def experiments(self, request: web.Request) -> web.Response:
        """Two, on two pages; one by name."""
        body = await request.json()
        if "filter" in body:
            return web.json_response({"experiments": [{"experiment_id": "7"}]})
        if body.get("page_token"):
            return web.json_response({"experiments": [{"experiment_id": "7"}]})
        return web.json_response({"experiments": [{"experiment_id": "0"}], "next_page_token": "more"})

    async def search(self, request: web.Request) -> web.Response:
        """By the two conditions that are asked for."""
        body = await request.json()
        submission = body["filter"].split("'")[1]
        only_running = "RUNNING" in body["filter"]
        found = [
            run
            for run in self.runs
            if run["data"]["tags"][0]["value"] == submission
            and run["info"]["experiment_id"] in body["experiment_ids"]
            and (not only_running or run["info"]["status"] == "RUNNING")
        ]
        return web.json_response({"runs": found})

    async def update(self, request: web.Request) -> web.Response:
        """A new status."""
        body = await request.json()
        for run in self.runs:
            if run["info"]["run_id"] == body["run_id"]:
                run["info"]["status"] = body["status"]
        return web.json_response({})


@web.middleware
async def _needs_token(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if request.headers.get("Authorization") != "Bearer token":
        return web.Response(status=401, text="Unauthorized")
    return await handler(request)


@asynccontextmanager
async def serving(fake: FakeRay | FakeMlflow) -> AsyncIterator[None]:
    """Serve a fake on a free port of loopback."""
    app = web.Application(middlewares=[_needs_token] if isinstance(fake, FakeRay) else [])
    if isinstance(fake, FakeRay):
        app.router.add_post("/api/jobs/", fake.submit)
        app.router.add_get("/api/jobs/{id}", fake.get)
        app.router.add_post("/api/jobs/{id}/stop", fake.stop)
        app.router.add_get("/api/jobs/{id}/logs", fake.logs)
    else:
        app.router.add_post("/api/2.0/mlflow/experiments/search", fake.experiments)
        app.router.add_post("/api/2.0/mlflow/runs/search", fake.search)
        app.router.add_post("/api/2.0/mlflow/runs/update", fake.update)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    fake.url = f"http://{host}:{port}"
    try:
        yield
    finally:
        await runner.cleanup()
