"""The form of a study of knowledge distillation: its question, its page and its fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec.config import Rate, Size
from pipeline.spec.documents import Few, Whole
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.forms.fields import Listed, OptionalDay, Percent, SoftWeight

QUESTION = (
    "When should a student stop learning from its teacher, and how much less data does it need if it never stops?"
)
PAGE = """
### When should a student stop learning from its teacher?

A **teacher** is a larger model. **Students** learn from its predictions as well as from labels (knowledge distillation). This study
trains one teacher and the same student in several ways over the same windows, and compares them on the same rows:

| variant | learns from the teacher |
|---|---|
| `no_teacher` | never: the reference |
| `early_cutover` | until the online phase begins |
| `late_cutover` | four windows longer |
| `continuous` | always, while the teacher keeps training |

*Also vary* adds, one at a time: **start** (the same students with less and less history, which shows how much data each
schedule needs to converge), the teacher's **size**, the **architecture** of teacher and student (DLRM, DCNv2), the teacher's **age**,
how often students see **updates** of it, the student's **head** that learns from it, the **weight** of its loss.

Fill in the form and trigger. `report` writes one page with the answer, its interval and its figures; while a job runs,
its task's *Details* hold buttons: *Ray job*, *MLflow run* and *MLflow curves* (every variant on the same charts).
**Triggering the same study again finishes only what is missing**; another name starts a study of its own.
For a first look choose the preset `distillation_first_look`: a page in minutes, which says what it cannot tell.
"""

Axis = Literal["start", "size", "architecture", "age", "updates", "head", "weight"]


class Fields(StudyFields):
    """The fields of a study of knowledge distillation."""

    judged: OptionalDay = Field(default=None, title="First judged window")
    """Variants are compared from here to the last window. Leave empty for a window well after the late cutover, if there is one."""
    teacher_size: Size = Field(default="small", title="Size of the teacher")
    """Each size is about four times the compute of the one before."""
    student_size: Size = Field(default="tiny", title="Size of the students")
    """Each size is about four times the compute of the one before."""
    soft_weight: SoftWeight = Field(default=3.0, title="Weight of the teacher's loss")
    """Relative to the loss on the labels, which has weight 1."""
    negative_rate: Rate | None = Field(default=None, title="Also with a fraction of the negatives")
    """Adds a continuous student that trains on all clicks and on this fraction of the negatives, e.g. `0.1`; leave empty for none."""
    axes: Annotated[tuple[Axis, ...], Listed()] = Field(default=(), title="Also vary")
    """One at a time; each adds variants to train. The DAG's page explains them."""
    num_starts: Annotated[Whole, Field(ge=1, le=100)] = Field(default=5, title="Number of starts")
    """If `start` is varied: the number of different first windows of the students, each starting with new weights."""
    epsilons: Annotated[tuple[Percent, ...], Few, Listed()] = Field(default=(0.1, 0.2, 0.5), title="Epsilons, percent")
    """A student has converged if its log-loss is within this percentage of the reference's. The headline uses the first value."""
