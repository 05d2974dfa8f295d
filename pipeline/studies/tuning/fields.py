"""What a tuning asks, and the page that its form stands on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.spec.config import Size
from pipeline.spec.documents import Few, Real, Whole
from pipeline.spec.fields import Listed, SeedList, SoftWeight
from pipeline.studies.asked import StudyFields

QUESTION = "Which batch size and learning rate suit each arm?"
PAGE = """
### Which batch size and learning rate suit each arm?

An arm that wins because another was set badly has shown nothing. This study trains every arm of the other studies (teacher,
no teacher, early cutover, late cutover, continuous, a fraction of the negatives, both together) under **the same grid** of
batch size and learning rate, and says under which setting each loses least.

Give it **seeds that no study will report**, and better tune the teacher first: students listen to it as the line-up has it.
Then write the settings into the line-up, as variants that bear the arms' names, commit it, and run the studies.

Fill in the form and trigger. **Triggering the same study again finishes only what is missing.**
"""


class Fields(StudyFields):
    """What a tuning asks."""

    seeds: SeedList = Field(default=(1000,), title="Seeds")
    """Each setting is trained once per seed; give seeds that no study reports."""
    teacher_size: Size = Field(default="small", title="Size of the teacher")
    """Each size is about four times the compute of the one before."""
    student_size: Size = Field(default="tiny", title="Size of the students")
    """Each size is about four times the compute of the one before."""
    soft_weight: SoftWeight = Field(default=3.0, title="Weight of the teacher's loss")
    """Beside the loss on the labels, which has weight 1."""
    centre: Annotated[Real, Field(gt=0, lt=1)] = Field(default=0.1, title="Fraction of negatives at the centre")
    """Of the arms that are sampled."""
    batch_sizes: Annotated[tuple[Annotated[Whole, Field(ge=1, le=2**24)], ...], Few, Listed()] = Field(
        default=(1024, 4096), title="Batch sizes"
    )
    """Rows per update; where negatives are left out they shrink with the rows."""
    learning_rates: Annotated[tuple[Annotated[Real, Field(gt=0, le=10)], ...], Few, Listed()] = Field(
        default=(0.02, 0.04, 0.08), title="Learning rates"
    )
    """Of the embeddings; the dense layers keep the ratio that the line-up has."""
