"""The account of a log: where each record of each file ended, and the error when the sum is wrong."""

from __future__ import annotations

from dataclasses import dataclass


class Imbalance(RuntimeError):
    """Records were lost or made up between a file and what was about to be published: a fault of this program."""


@dataclass(frozen=True)
class FileAccount:
    """Where the records of one file ended, as one window or one ingest sees it."""

    file: str
    """Its address."""
    records: int
    """What the file holds by its own count: lines that are not blank, without the header; or the rows of a table."""
    published: int
    """Rows in the window (of an ingest: in its windows)."""
    quarantined: int
    """Set aside there, each with its reason."""
    outside: int
    """All others: of other windows."""

    @classmethod
    def of(cls, file: str, records: int, published: int, quarantined: int) -> FileAccount:
        """The account whose outside is what the others leave.

        Raises:
            Imbalance: they are more than the file holds.
        """
        outside = records - published - quarantined
        balance(file, records, published + quarantined + max(outside, 0), "published or quarantined")
        return cls(file, records, published, quarantined, outside)

    def __str__(self) -> str:
        rest = f", {self.outside:,} of other windows" if self.outside else ""
        return f"{self.records:,} records, {self.published:,} published, {self.quarantined:,} quarantined{rest}"


def balance(what: str, records: int, found: int, where: str) -> None:
    """Records in must equal records found.

    Raises:
        Imbalance: they do not.
    """
    if records != found:
        raise Imbalance(
            f"{what} holds {records:,} records, but {found:,} were {where}: nothing of this has been published, and "
            f"trying again will not help; please report it with the file's first lines and its schema"
        )
