"""Buttons on a task's page: its job on the Ray dashboard and its run in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
from airflow.sdk import BaseOperatorLink, BaseXCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

RAY_KEY: Final = "windrow_ray_link"
CURVES_KEY: Final = "windrow_curves_link"
MLFLOW_KEY: Final = "windrow_mlflow_link"


@attrs.define()
class RayJobLink(BaseOperatorLink):
    """To the job on the Ray dashboard; stored as soon as the job is submitted."""

    @property
    def name(self) -> str:
        """The button's text."""
        return "Ray job"

    @property
    def xcom_key(self) -> str:
        """Where the address is stored."""
        return RAY_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The stored address; Airflow asks at the end of each run of the task and stores the answer again."""
        return _stored(ti_key, RAY_KEY)


@attrs.define()
class CurvesLink(BaseOperatorLink):
    """To the curves of all variants; stored together with the link to the run."""

    @property
    def name(self) -> str:
        """The button's text."""
        return "MLflow curves"

    @property
    def xcom_key(self) -> str:
        """Where the address is stored."""
        return CURVES_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The stored address; Airflow asks at the end of each run of the task and stores the answer again."""
        return _stored(ti_key, CURVES_KEY)


@attrs.define()
class MLflowLink(BaseOperatorLink):
    """To the job's run in MLflow; stored as soon as the job has opened one."""

    @property
    def name(self) -> str:
        """The button's text."""
        return "MLflow run"

    @property
    def xcom_key(self) -> str:
        """Where the address is stored."""
        return MLFLOW_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The stored address; Airflow asks at the end of each run of the task and stores the answer again."""
        return _stored(ti_key, MLFLOW_KEY)


def _stored(key: TaskInstanceKey, name: str) -> str:
    return (
        BaseXCom.get_one(key=name, dag_id=key.dag_id, task_id=key.task_id, run_id=key.run_id, map_index=key.map_index)
        or ""
    )
