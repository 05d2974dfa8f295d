"""How a task fails: what is worth another try and what is not."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowException

from pipeline.spec.errors import BadInput


class DeadlinePassed(AirflowException):
    """What was waited for did not come, or did not end, in time."""


class JobFailed(AirflowException):
    """The job ended without success for a reason that another try may not meet."""


RETRY_DELAY = timedelta(seconds=30)
"""Also where the policy is not asked: a task's process that was killed cannot say why it died."""
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=[BadInput, DeadlinePassed],
            action=RetryAction.FAIL,
            reason="bad data, a bad configuration or a passed deadline: another try would end the same way",
        ),
        RetryRule(
            exception=Exception,
            action=RetryAction.RETRY,
            retry_delay=RETRY_DELAY,
            reason="the cluster or the network failed: another try may succeed",
        ),
    ]
)
"""Fail at once on bad data or configuration, try again when the infrastructure failed."""
