"""The form of a study of negative downsampling: its question, its page and its fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec.config import Rate, Size
from pipeline.spec.documents import Few, Real
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.forms.fields import Listed, Percent, SoftWeight

QUESTION = "How many negatives can be left out, and what does it cost as time goes by?"
PAGE = """
### How many negatives can be left out?

Most examples are negatives that teach little. **Negative downsampling** keeps all clicks and a fraction of the rest, and
corrects for it, so that predictions stay calibrated. This study trains the same model on fewer and fewer rows,
compares it on the same rows with one that trains on all, and recommends the lowest rate whose loss you can afford.

It varies one factor at a time around *a tenth of the negatives, in both phases, corrected by an offset, drawn uniformly,
with the batch scaled to the rows*:

| axis | compared with the centre |
|---|---|
| `rate` (always) | the rates you list, tested downwards |
| `scope` | sampled in the historical phase only |
| `correction` | by weight |
| `policy` | drawn in proportion to the odds that a teacher, or an older checkpoint, gives |
| `batch` | held at its full size |
| `combined` | together with a continuous teacher: what neither reaches alone |
| `theory` | every rate with both policies and both corrections, compared with what theory predicts |

Fill in the form and trigger. `report` writes one page with the penalty, its slope over time, and the recommendation.
**Triggering the same study again finishes only what is missing**; another name starts a study of its own.
For a first look choose the preset `downsampling_first_look`: a page in minutes, which says what it cannot tell.
"""

Axis = Literal["scope", "correction", "policy", "batch", "combined", "theory"]


class Fields(StudyFields):
    """The fields of a study of negative downsampling."""

    size: Size = Field(default="tiny", title="Size of the model")
    """Each size is about four times the compute of the one before."""
    rates: Annotated[tuple[Rate, ...], Few, Listed()] = Field(
        default=(0.5, 0.25, 0.1, 0.05), title="Fractions of the negatives"
    )
    """Tested from the largest down, until the penalty is more than you can afford."""
    centre: Annotated[Real, Field(gt=0, lt=1)] = Field(default=0.1, title="Fraction of negatives at the centre")
    """The other axes each vary one factor around this one."""
    axes: Annotated[tuple[Axis, ...], Listed()] = Field(default=("scope", "correction", "batch"), title="Also vary")
    """One at a time; each adds variants to train. The DAG's page explains them."""
    affordable: Percent = Field(default=0.5, title="Loss you can afford, percent")
    """The study recommends the lowest rate whose penalty stays below this, upper end of its interval included."""
    teacher_size: Size = Field(default="small", title="Size of the teacher")
    """The axes `policy` and `theory` sample by its predicted odds; with `combined`, students learn from it. Each size is about
    four times the compute of the one before."""
    soft_weight: SoftWeight = Field(default=3.0, title="Weight of the teacher's loss")
    """Relative to the loss on the labels, which has weight 1."""
