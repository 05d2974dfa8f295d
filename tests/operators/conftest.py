"""Both fakes, and Airflow connections that lead to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from airflow.sdk import BaseHook

from tests.operators.fakes import FakeMlflow, FakeRay, serving


@pytest.fixture
async def ray() -> AsyncIterator[FakeRay]:
    fake = FakeRay()
    async with serving(fake):
        yield fake


@pytest.fixture
async def mlflow() -> AsyncIterator[FakeMlflow]:
    fake = FakeMlflow()
    async with serving(fake):
        yield fake


@pytest.fixture
def connections(ray: FakeRay, mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """`windrow_ray` and `windrow_mlflow`, without an Airflow that would know them."""
    urls = {"windrow_ray": ray.url, "windrow_mlflow": mlflow.url}

    def connection(name: str) -> SimpleNamespace:
        return SimpleNamespace(host=urls[name], port=None, schema=None, login=None, password="token")

    async def found(name: str) -> SimpleNamespace:
        return connection(name)

    monkeypatch.setattr(BaseHook, "aget_connection", found)
    monkeypatch.setattr(BaseHook, "get_connection", connection)
