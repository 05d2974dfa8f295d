"""The form of a ranking study: its question, its page and its fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.spec.config import Rate, Size
from pipeline.spec.documents import Few, Real
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.forms.fields import Listed
from pipeline.studies.selection.fields import Way

QUESTION = "Can configurations be compared on a fraction of the rows?"
PAGE = """
### Can configurations be compared on a fraction of the rows?

To choose a size and a learning rate one trains every configuration on the whole log. This study trains them on all rows **and** on the
few rows that a policy keeps, and asks whether both give the same order. It shows Kendall's tau over the pairs that all rows decide, and the regret:
how much more the configuration that wins on few rows loses on all rows than the best one.

Configurations are all sizes at all learning rates. The page of `selection_study` explains the policies; the pilot that they ask trains on
all rows, once for all configurations. Batches shrink with the rows.

Fill in the form and trigger. **Triggering the same study again finishes only what is missing.** For a first look choose the preset
`ranking_first_look`: a page in minutes, which says what it cannot tell.
"""


class Fields(StudyFields):
    """The fields of a ranking study."""

    sizes: Annotated[tuple[Size, ...], Few, Listed()] = Field(default=("tiny", "small"), title="Sizes")
    """Each size is about four times the compute of the one before."""
    learning_rates: Annotated[tuple[Annotated[Real, Field(gt=0, le=10)], ...], Few, Listed()] = Field(
        default=(0.02, 0.04, 0.08, 0.16, 0.32), title="Learning rates"
    )
    """For the embeddings; the dense layers' rate keeps the line-up's ratio to it."""
    policies: Annotated[tuple[Way, ...], Few, Listed()] = Field(
        default=("negatives", "local_case_control"), title="Policies"
    )
    """The page of `selection_study` explains them."""
    rate: Rate = Field(default=0.05, title="Fraction of the rows")
    """Of all rows, clicks and others, on which configurations are compared."""
    pilot_size: Size = Field(default="tiny", title="Size of the pilot")
    """Of the model that policies ask. Each size is about four times the compute of the one before."""
