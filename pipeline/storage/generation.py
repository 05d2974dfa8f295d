"""A generation: files that count once a manifest names them, and are removed where it surely never will."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from typing import Any

from pipeline.storage.lake import Conflict, Lake

log = logging.getLogger(__name__)


def new_generation() -> str:
    """A new generation's id."""
    return uuid.uuid4().hex[:8]


@dataclass
class Generation:
    """One attempt to publish something that consists of files and a manifest."""

    lake: Lake
    id: str
    """What the manifest names it by, as its `generation`."""
    folder: str
    """Where its files lie."""
    manifest: str
    """Path of the document that will name it."""
    _asked: bool = False
    _named: bool = False

    def publish(self, document: dict[str, Any], previous: dict[str, Any] | None) -> None:
        """Let the manifest name this generation, in the place of what was read before.

        Raises:
            Conflict: somebody else replaced it first.
        """
        self._asked = True
        try:
            self.lake.replace(self.manifest, document, previous)
        except Conflict:
            self._asked = False  # a refusal is sure
            raise
        self._named = True

    def leave(self) -> None:
        """Remove the files unless the manifest names them, or may yet. Never raises: the error that ends an attempt is the one to see."""
        if not self._named and not self._may_be_named():
            tidy(self.lake, self.folder)

    def _may_be_named(self) -> bool:
        """Whether a put that failed without a refusal took place, or still can."""
        if not self._asked:
            return False
        if not self.lake.is_local:
            return True  # the request may still be on its way
        try:
            return (self.lake.read(self.manifest) or {}).get("generation") == self.id
        except Exception:  # noqa: BLE001 - a lake that does not answer: nobody knows
            return True


def tidy(lake: Lake, folder: str) -> None:
    """Remove what nobody needs any more. Never raises: what came before matters, and `windrow gc` finds the rest."""
    try:
        lake.remove(folder)
    except Exception as error:  # noqa: BLE001 - see above
        log.warning("%s could not be removed (%s): `windrow gc` does", lake.address(folder), error)
