"""The lake: one storage root, local or object store, where documents appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import urlparse

import obstore
import pyarrow as pa
from filelock import FileLock
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, from_url
from pyarrow import fs
from pydantic import AfterValidator, BaseModel, ValidationError

from pipeline.spec.documents import content_key
from pipeline.spec.errors import BadInput, TryAgain, Unreachable, explain, shown
from pipeline.spec.settings import Settings, make_folder
from pipeline.storage.damage import Damaged

REMOTE = ("s3", "gs", "abfs", "abfss")
"""Schemes that both pyarrow and obstore know."""
LOCK_TIMEOUT_S = 60.0
"""A lock is held for the moment of a replacement, so who holds it longer is stuck."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
MAX_DOCUMENT_BYTES = 1 << 26
"""No document that Windrow writes comes near; a file of another size is not read into memory."""

Shape = TypeVar("Shape", bound=BaseModel)


class LakeError(BadInput):
    """The lake lacks what is to be read, or refuses what is to be written."""


class Conflict(TryAgain):
    """Somebody else replaced the document first: the same job, run again, finds what is there now."""


def checked_name(name: str) -> str:
    """A user's name for a data set, variant or study, safe as one path component.

    Raises:
        LakeError: the name could leave the lake or be read as an option.
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise LakeError(
            f"a name is 1 to 100 letters, digits, '.', '_' or '-' and starts with a letter or digit, got {name!r}"
        )
    return name


def checked_path(path: str) -> str:
    """A path relative to the lake's root that stays inside it."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise LakeError(f"a path in the lake is relative and stays inside it, got {path!r}")
    return path


LakePath = Annotated[str, AfterValidator(checked_path)]
"""A path relative to the lake's root, checked where a document names it."""


class StoredFile(NamedTuple):
    """A file of the lake as a listing has it."""

    path: str
    num_bytes: int
    modified: datetime


class Lake:
    """A storage root and the documents and parquet files below it.

    A document is a JSON object that carries the digest of its content, which is checked whenever it is read.

    Args:
        url: a local directory or any URL that both pyarrow and obstore know, such as `s3://bucket/prefix`;
            credentials and endpoint come from the environment (`AWS_*`).
    """

    def __init__(self, url: str) -> None:
        if urlparse(url).username or urlparse(url).password:
            raise LakeError(
                "a lake's URL carries no credentials, which would show in logs and tags: use AWS_* variables"
            )
        self.url = url
        self.is_local = urlparse(url).scheme in ("", "file")
        if self.is_local:
            self.root = Path(urlparse(url).path if url.startswith("file:") else url).absolute()
            make_folder(self.root, "the lake", "WINDROW_LAKE")
            self.store: Any = LocalStore(self.root)
            self.files = fs.SubTreeFileSystem(str(self.root), fs.LocalFileSystem())
        else:
            self.store = _reached(url)
            base, prefix = remote_files(url)
            self.files = fs.SubTreeFileSystem(prefix, base)

    def address(self, path: str) -> str:
        """The full address of something in the lake, for people and for other tools."""
        if self.is_local:
            return str(self.root / checked_path(path))
        return f"{self.url.rstrip('/')}/{checked_path(path)}"

    def read(self, path: str) -> dict[str, Any] | None:
        """The JSON document at `path`, or None where there is none.

        Raises:
            Damaged: it is not what was written, also when it is read once more.
        """
        what = ""
        for _ in range(2):  # a read may be torn: once more before the file is called damaged
            found = self._get(path, MAX_DOCUMENT_BYTES)
            if found is None:
                return None
            try:
                return _decode(found[0])
            except _Undecodable as error:
                what = str(error)
        raise Damaged(self.address(path), what, path)

    def sound(self, path: str) -> dict[str, Any] | None:
        """The JSON document at `path`; None where there is none, or a damaged one: for whoever makes it again."""
        try:
            return self.read(path)
        except Damaged:
            return None

    def load(self, path: str, shape: type[Shape]) -> Shape | None:
        """The document at `path` as a value of its type, or None where there is none.

        Raises:
            Damaged: it is not what was written, or not of that type.
        """
        document = self.read(path)
        try:
            return None if document is None else shape.model_validate(document)
        except ValidationError as error:
            raise Damaged(self.address(path), f"it is no {shape.__name__} ({explain(error)})", path) from None

    def read_bytes(self, path: str) -> bytes | None:
        """The content of the file at `path`, or None where there is none."""
        if self.is_local:  # a copy less than through the store
            try:
                return (self.root / checked_path(path)).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        found = self._get(path)
        return None if found is None else found[0]

    def names(self, folder: str) -> list[str]:
        """The paths of the files in a folder, in order; none where there is no such folder."""
        found = self.files.get_file_info(fs.FileSelector(checked_path(folder), allow_not_found=True))
        return sorted(each.path for each in found if each.is_file)

    def sha256(self, path: str) -> tuple[str, int]:
        """The digest and the size of a file of any size.

        Raises:
            FileNotFoundError: it is gone.
        """
        digest, num_bytes = hashlib.sha256(), 0
        for chunk in obstore.get(self.store, checked_path(path)):
            digest.update(chunk)
            num_bytes += len(chunk)
        return digest.hexdigest(), num_bytes

    def create(self, path: str, document: dict[str, Any]) -> None:
        """Publish a document that must not exist yet.

        Raises:
            Conflict: there is one.
        """
        try:
            self._put(checked_path(path), _encode(document), "create")
        except AlreadyExistsError:
            raise Conflict(f"{self.address(path)} exists already: another job published it first") from None

    def replace(self, path: str, document: dict[str, Any], previous: dict[str, Any] | None) -> None:
        """Publish a document in the place of the one that was read before.

        Args:
            path: where it lies, relative to the root.
            document: its new content.
            previous: what `read` or `sound` answered before the work began; None where there was nothing to go by.

        Raises:
            Conflict: the document is no longer the one that was read; read again and redo.
        """
        with self._alone(checked_path(path)):
            found = self._get(path, MAX_DOCUMENT_BYTES)
            if found is None and previous is None:
                self.create(path, document)
                return
            try:
                current = None if found is None else _decode(found[0])
            except _Undecodable:
                current = None
            if found is None or current != previous:
                raise Conflict(f"{self.address(path)} changed while this job ran: trigger the job again")
            mode: Any = "overwrite" if self.is_local else {"e_tag": found[1]}
            try:
                self._put(path, _encode(document), mode)
            except PreconditionError:
                raise Conflict(f"{self.address(path)} changed while this job ran: trigger the job again") from None

    def _put(self, path: str, content: bytes, mode: Any) -> None:
        """Put what must be new, or in the place of what was read.

        A refusal may mean that the put took place and its answer was lost, so that the client's own second try was
        refused; and so may a timeout: what lies there shows which.
        """
        try:
            obstore.put(self.store, path, content, mode=mode)
        except Exception:
            if not self._holds(path, content):
                raise

    def _holds(self, path: str, content: bytes) -> bool:
        try:
            found = self._get(path)
        except Exception:  # noqa: BLE001 - the caller raises the first error
            return False
        return found is not None and found[0] == content

    def files_below(self, folder: str) -> Iterator[StoredFile]:
        """Every file below a folder, however deep, in no order; none where there is no such folder."""
        for listed in obstore.list(self.store, checked_path(folder)):
            for each in listed:
                yield StoredFile(each["path"], each["size"], each["last_modified"])

    def remove(self, path: str) -> None:
        """Remove a file, or every file below a folder; none may be there."""
        if not self.is_local:
            obstore.delete(self.store, [file.path for file in self.files_below(path)] or checked_path(path))
        elif (place := self.root / checked_path(path)).is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def put_text(self, path: str, text: str) -> None:
        """Put a text whole in the place of whatever is there: for what people read and nothing is decided by."""
        obstore.put(self.store, checked_path(path), text.encode(), mode="overwrite")

    def put_bytes(self, path: str, content: bytes) -> None:
        """Put a file that nobody knows of yet; it counts once a manifest names it."""
        obstore.put(self.store, checked_path(path), content, mode="overwrite")

    def _get(self, path: str, at_most: int | None = None) -> tuple[bytes, str | None] | None:
        """Content and version of a file; no content where it is larger than that."""
        try:
            result = obstore.get(self.store, checked_path(path))
        except FileNotFoundError:
            return None
        content = bytes(result.bytes()) if at_most is None or result.meta["size"] <= at_most else b""
        return content, result.meta["e_tag"]

    def _alone(self, path: str) -> AbstractContextManager[object]:
        """A local file system has no conditional put: hold a lock between the check and the replacement."""
        if not self.is_local:
            return nullcontext()
        locks = self.root / ".locks"
        locks.mkdir(exist_ok=True)
        return FileLock(locks / (path.replace("/", "__") + ".lock"), timeout=LOCK_TIMEOUT_S)


def _reached(url: str) -> Any:
    """An object store that has answered once, within the time that the settings give it.

    Raises:
        LakeError: it is none that we know, or it does not let us in.
        Unreachable: it did not answer.
    """
    if (scheme := urlparse(url).scheme) not in REMOTE:
        raise LakeError(
            f"a lake is a folder or a URL that starts with {'://, '.join(REMOTE)}://, got {shown(url)} with {scheme!r}: set "
            "WINDROW_LAKE to one of these"
        )
    try:
        _contact(url)
        return from_url(url)
    except FileNotFoundError:  # nothing lies there, and the store said so
        return from_url(url)
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise LakeError(
            f"the lake {shown(url)} does not let us in: {_first_line(error)}: check its credentials (AWS_* variables)"
        ) from None
    except GenericError as error:
        if "Error performing" in str(error):
            raise _unreachable(url, error) from None
        raise LakeError(f"the lake {shown(url)} cannot be opened: {_first_line(error)}: check WINDROW_LAKE") from None
    except ValueError as error:
        raise LakeError(f"the lake {shown(url)} cannot be opened: {_first_line(error)}: check WINDROW_LAKE") from None


def remote_files(url: str) -> tuple[fs.FileSystem, str]:
    """The file system that a URL names, and the path in it.

    Raises:
        BadInput: it is no such URL.
        Unreachable: nobody answers there.
    """
    if urlparse(url).scheme in REMOTE and "?" not in url:
        try:
            _contact(url, skip_signature=True)  # whether anybody is there: pyarrow has credentials of its own
        except (BaseError, FileNotFoundError, ValueError) as error:
            if "error sending request" in str(error):
                raise _unreachable(url, error) from None
        if url.startswith("gs:"):  # where that client would try for a quarter of an hour
            url += f"?retry_limit_seconds={Settings().store_timeout_s:g}"
    try:
        files, path = fs.FileSystem.from_uri(url)
    except pa.ArrowInvalid as error:
        raise BadInput(f"{shown(url)} cannot be opened: {_first_line(error)}: check the address") from None
    except OSError as error:
        raise _unreachable(url, error) from None
    return files, path


def _contact(url: str, **options: Any) -> None:
    """Ask a store for anything, and give up in time: the clients' own limits are minutes."""
    limit = Settings().store_timeout_s
    # Left out, it would be off whatever the environment says; without a signature there is nothing to protect.
    allow_http = "true" if options.get("skip_signature") else os.environ.get("AWS_ALLOW_HTTP", "false")
    client: Any = {"connect_timeout": f"{limit}s", "timeout": f"{limit}s", "allow_http": allow_http}
    retries: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=limit)}
    obstore.head(from_url(url, client_options=client, retry_config=retries, **options), "windrow")


def _unreachable(url: str, error: Exception) -> Unreachable:
    return Unreachable(
        f"{shown(url)} does not answer: {_first_line(error)}: check the address, the network and the credentials; "
        f"WINDROW_STORE_TIMEOUT_S (now {Settings().store_timeout_s:g}) gives a slow store more time"
    )


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]


class _Undecodable(Exception):
    """Bytes that are no document; says why."""


def _encode(document: dict[str, Any]) -> bytes:
    content = json.loads(json.dumps(document))  # as it will be read: keys are texts, tuples are lists
    signed = {"document": content, "sha256": content_key(content, allow_nan=True)}
    return (json.dumps(signed, indent=1, sort_keys=True) + "\n").encode()


def _decode(text: bytes) -> dict[str, Any]:
    if not text:
        raise _Undecodable("it is empty, or larger than any document")
    try:
        match json.loads(text):
            case {"document": dict(content), "sha256": str(digest), **rest} if not rest:
                if content_key(content, allow_nan=True) == digest:
                    return content
                raise _Undecodable("its content does not have the digest that it carries")
            case _:
                raise _Undecodable("it carries no digest of its content")
    except (ValueError, RecursionError) as error:
        raise _Undecodable(f"it is not JSON ({error})") from None
