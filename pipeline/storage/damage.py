"""Damage: a file of the lake that is missing or does not say what was written, and what makes it again."""

from __future__ import annotations

import re

from pipeline.spec.errors import BadInput


class BrokenFile(BadInput):
    """A file of the lake that cannot be used as it is; each kind says so in its own words.

    Args:
        address: the file.
        what: what is wrong with it.
        path: the same file relative to the lake's root: it says what makes the file again.
    """

    def __init__(self, address: str, what: str, path: str) -> None:
        super().__init__(address, what, path)  # workers send it to each other pickled
        self.address, self.what, self.cure = address, what, cure(path)


class Damaged(BrokenFile):
    """A file is not what its writer left, also when it is read once more."""

    def __str__(self) -> str:
        return f"{self.address} is damaged: {self.what}. Nothing of it was used: {self.cure}"


class MissingFile(BrokenFile):
    """A file that a manifest names is gone."""

    def __str__(self) -> str:
        return f"{self.address} is named by a manifest, got no such file: {self.cure}"


_AGAIN = "again with `windrow ingest --force`"
_TRAIN = "again with `windrow train --go-on --force` (where its chain starts, with `--scratch --force`)"
_CURES = {
    r"windows/([^/]+)/window=([^/]+)/late\.json": "delete it, and ingest the days of data set {0!r} around {1} "
    + _AGAIN,
    r"windows/([^/]+)/window=([^/]+)/.*": "publish window {1} of data set {0!r} " + _AGAIN,
    r"windows/([^/]+)/schema-.*": "publish the windows of data set {0!r} that were made with it " + _AGAIN,
    r"(?:selections|evaluations)/[^/]+/.*": "train the windows that read it " + _TRAIN,
    r"synthetic/([^/]+)/([^/]+)/.*": "make the synthetic examples {1} of data set {0!r} again",
    r"steps/[^/]+/([^/]+)/.*": "train the window of step {0} " + _TRAIN,
    r"chains/[^/]+/[^/]+/([^/]+)/[^/]+/window=(.+)\.json": "train variant {0!r} on window {1} " + _TRAIN,
    r"studies/.*/timings/.*": "delete it, which loses an account of wall time and nothing else",
    r"leases/.*": "delete it once no job of the line-up trains",
    r"unrecorded/.*": "delete it; MLflow may then lack steps that it named",
    r"accepted/.*": "delete it, and accept again what is stale",
    r"jobs/.*": "run the job again",
    r".*": "restore the file, or run again what made it",
}


def cure(path: str) -> str:
    """What makes a file of the lake again, as an instruction to whoever reads the message."""
    found = ((re.fullmatch(pattern, path, re.DOTALL), text) for pattern, text in _CURES.items())
    return next(text.format(*match.groups()) for match, text in found if match is not None)
