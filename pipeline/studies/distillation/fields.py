"""What a study of knowledge distillation asks, and the page that its form stands on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec.config import Rate, Size
from pipeline.spec.documents import Few, Whole
from pipeline.spec.fields import Listed, OptionalDay, Percent, SoftWeight
from pipeline.studies.asked import StudyFields

QUESTION = "When shall a student stop listening to its teacher, and how much less data does it need if it never does?"
PAGE = """
### When should a student stop listening to its teacher?

A **teacher** is a larger model whose predictions the **students** also learn from (knowledge distillation). This study
trains one teacher and the same student in several ways over the same windows, and compares them on the same rows:

| variant | listens to the teacher |
|---|---|
| `no_teacher` | never: the reference |
| `early_cutover` | until the online phase begins |
| `late_cutover` | four windows longer |
| `continuous` | always, while the teacher keeps training |

*Also vary* adds, one at a time: **start** (the same students with less and less history, which shows how much data each
schedule needs to converge), **size** and **age** of the teacher, the **head** that listens, the **weight** of its loss.

Fill in the form and trigger. `report` writes one page with the answer, its interval and its figures; while a job runs,
its task's *Details* hold buttons: *Ray job*, *MLflow run* and *MLflow curves* (every variant on the same charts).
**Triggering the same study again finishes only what is missing**; another name starts a study of its own.
For a first look choose the line-up `tiny`.
"""

Axis = Literal["start", "size", "age", "head", "weight"]


class Fields(StudyFields):
    """What a study of knowledge distillation asks."""

    judged: OptionalDay = Field(default=None, title="First judged window")
    """All are judged from here to the last window; leave empty for a choice well after the late cutover, if there is room."""
    teacher_size: Size = Field(default="small", title="Size of the teacher")
    """Each size is about four times the compute of the one before."""
    student_size: Size = Field(default="tiny", title="Size of the students")
    """Each size is about four times the compute of the one before."""
    soft_weight: SoftWeight = Field(default=3.0, title="Weight of the teacher's loss")
    """Beside the loss on the labels, which has weight 1."""
    negative_rate: Rate | None = Field(default=None, title="Also with a fraction of the negatives")
    """Adds a continuous student that trains on all clicks and this fraction of the rest, e.g. `0.1`; leave empty for none."""
    axes: Annotated[tuple[Axis, ...], Listed()] = Field(default=(), title="Also vary")
    """One at a time; each adds variants to train. The DAG's page explains them."""
    num_starts: Annotated[Whole, Field(ge=1, le=100)] = Field(default=7, title="Number of starts")
    """At so many points of history students start anew, if `start` is varied."""
    epsilons: Annotated[tuple[Percent, ...], Few, Listed()] = Field(default=(0.1, 0.2, 0.5), title="Epsilons, percent")
    """Two models within so much log-loss of each other count as equal; the first is the headline's."""
