"""The form of a tuning study: its question, its page and its fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.spec.config import Name, Size
from pipeline.spec.documents import Few, Real, Whole
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.forms.fields import Listed, SeedList, SoftWeight

QUESTION = "Which batch size and learning rate suit each arm?"
PAGE = """
### Which batch size and learning rate suit each arm?

An arm that wins because another had bad settings shows nothing. This study trains every arm of the other studies (teacher,
no teacher, early cutover, late cutover, continuous, a fraction of the negatives, both together) under **the same grid** of
batch size and learning rate, and says under which setting each loses least.

Name variants of the line-up under *Arms* to put these under the grid instead, whatever they select.

Give it **seeds that no study will report**. Tune the teacher first: students learn from it with the settings that the line-up
has. Then write the settings into the line-up, as variants with the arms' names, commit it, and run the studies.

Fill in the form and trigger. **Triggering the same study again finishes only what is missing.**
"""


class Fields(StudyFields):
    """The fields of a tuning study."""

    seeds: SeedList = Field(default=(1000,), title="Seeds")
    """Each setting is trained once per seed; give seeds that no study reports."""
    arms: Annotated[tuple[Name, ...], Field(max_length=20), Listed()] = Field(default=(), title="Arms")
    """Variants of the line-up; empty: the arms of the other studies, of the sizes below."""
    teacher_size: Size = Field(default="small", title="Size of the teacher")
    """Each size is about four times the compute of the one before."""
    student_size: Size = Field(default="tiny", title="Size of the students")
    """Each size is about four times the compute of the one before."""
    soft_weight: SoftWeight = Field(default=3.0, title="Weight of the teacher's loss")
    """Relative to the loss on the labels, which has weight 1."""
    centre: Annotated[Real, Field(gt=0, lt=1)] = Field(default=0.1, title="Fraction of negatives at the centre")
    """For the arms that train on a sample."""
    batch_sizes: Annotated[tuple[Annotated[Whole, Field(ge=1, le=2**24)], ...], Few, Listed()] = Field(
        default=(1024, 4096), title="Batch sizes"
    )
    """Rows per update; for arms that train on a sample the batch shrinks with the rows."""
    learning_rates: Annotated[tuple[Annotated[Real, Field(gt=0, le=10)], ...], Few, Listed()] = Field(
        default=(0.02, 0.04, 0.08), title="Learning rates"
    )
    """For the embeddings; the dense layers' rate keeps the line-up's ratio to it."""
