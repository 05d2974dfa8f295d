"""One spelling per JSON-able value, and the digest of it: what identities and the lake's documents are checked by."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in hex."""


def canonical_json(document: Any, *, allow_nan: bool = False) -> str:
    """One spelling per value, so that equal content has an equal digest."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=allow_nan)


def content_key(document: Any, *, allow_nan: bool = False) -> str:
    """The sha256 of a JSON-able value, in hex."""
    return hashlib.sha256(canonical_json(document, allow_nan=allow_nan).encode()).hexdigest()
