"""Task logs where all of Airflow runs on one machine: its pages read the files, and ask no other server for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG
from airflow.utils.log.file_task_handler import FileTaskHandler

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskinstancehistory import TaskInstanceHistory


class LocalTaskHandler(FileTaskHandler):
    """Airflow asks a log server about every task that runs or waits, and shows an error where there is none."""

    def _read_from_logs_server(
        self, ti: TaskInstance | TaskInstanceHistory, worker_log_rel_path: str
    ) -> tuple[list[str], list[Any]]:
        return [], []


def _with_local_tasks(config: dict[str, Any]) -> dict[str, Any]:
    task = config["handlers"]["task"] | {"class": f"{__name__}.{LocalTaskHandler.__name__}"}
    return config | {"handlers": config["handlers"] | {"task": task}}


LOGGING = _with_local_tasks(DEFAULT_LOGGING_CONFIG)
"""What Airflow's `[logging] logging_config_class` names."""
