"""Where a teacher's scores of a window lie: the document that students find them by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import BadInput


class MissingScores(BadInput):
    """A student needs scores that its teacher has not left."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Where a teacher's scores of one window lie. Row group by row group they match the window's."""

    teacher: str
    """Key of the step that made them."""
    window_digest: str
    """Digest of the window they were made for."""
    files: tuple[str, ...]
    """Parquet files relative to the lake, columns `example_id` and `logit`."""
    places: tuple[tuple[int, int], ...]
    """For each row group of the window: its file and the row group therein."""
    digest: str
    """sha256 over ids and logits in the window's order."""

    def to_json(self) -> dict[str, Any]:
        """The document that names these scores."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Scores:
        """Read such a document back."""
        places = tuple((int(file), int(group)) for file, group in document["places"])
        return cls(**{**document, "files": tuple(document["files"]), "places": places})
