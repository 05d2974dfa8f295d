"""The form of a scaling study: its question, its page and its fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec.config import Size
from pipeline.spec.documents import Few, Real, Whole
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.forms.fields import Listed, Percent

QUESTION = "What still pays: more data, more parameters, and where, or more compute?"
PAGE = """
### What still pays: more data, more parameters, or more compute?

This study takes the line-up's reference at one size as the **present point** and makes one thing larger or smaller at a time. To
each curve of losses it fits `a x^-b + c` (Ardalani et al. 2022) and says what **the next doubling** would bring, with an interval:
*still pays*, *saturated*, or *cannot tell*.

| scheme | what grows |
|---|---|
| `data` | history: the same model starts earlier |
| `embedding_dim` | the width of all embedding rows |
| `embedding_rows` | the rows of all tables; with fewer, more ids share one |
| `over_width` | the width of the layers above the interactions |
| `over_depth` | their number |
| `dense_arch` | the width of the layers below, which the numbers pass |
| `compute` | all widths together |

All are compared on the same rows of the last windows. Learning rates are those of the line-up's variants without teacher, between
two of them in proportion to the logarithm of the embedding width.

Fill in the form and trigger. **Triggering the same study again finishes only what is missing.** For a first look choose the preset
`scaling_first_look`: a page in minutes, which says what it cannot tell.
"""

Scheme = Literal["data", "embedding_dim", "embedding_rows", "over_width", "over_depth", "dense_arch", "compute"]
SCHEMES: tuple[Scheme, ...] = (
    "data", "embedding_dim", "embedding_rows", "over_width", "over_depth", "dense_arch", "compute",
)  # fmt: skip


class Fields(StudyFields):
    """The fields of a scaling study."""

    size: Size = Field(default="small", title="Size at the present point")
    """Of the line-up's reference. Each size is about four times the compute of the one before."""
    schemes: Annotated[tuple[Scheme, ...], Field(min_length=1), Listed()] = Field(default=SCHEMES, title="What grows")
    """One at a time; the page above explains each."""
    factors: Annotated[tuple[Annotated[Real, Field(gt=0, le=64)], ...], Few, Listed()] = Field(
        default=(0.25, 0.5, 1.0, 2.0, 4.0), title="Factors"
    )
    """Multiples of the present point. Not used by `data`, by `embedding_rows` (1/32 to all of the rows), or by
    `over_depth` (1 to 8 layers)."""
    num_starts: Annotated[Whole, Field(ge=4, le=20)] = Field(default=5, title="Number of starts")
    """For `data`: different first windows, evenly between none and all of the history."""
    worthwhile: Percent = Field(default=0.1, title="A gain worth having, percent")
    """A scheme still pays if the next doubling surely brings more, and is saturated if it surely brings less."""
