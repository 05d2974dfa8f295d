"""A log taken in over many runs: each window from all the files that hold rows of it, and again when a row comes late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.data.account import FileAccount
from pipeline.data.dataset import WindowManifest, read_manifest, window_prefix
from pipeline.data.dated import DatedLog
from pipeline.data.ingest import Found, LogFile, ingest
from pipeline.data.sources import IngestError, SourceFile
from pipeline.spec.documents import Frozen
from pipeline.spec.lineup import LogSource
from pipeline.spec.schema import Schema
from pipeline.spec.window import Window
from pipeline.storage.lake import Conflict, Lake

GROUP_BYTES = 1 << 30
"""Source files of about so many bytes, as they lie there, are read in one go: what they hold waits on local disk."""

_MANY = 100
_TRIES = 10


class _Note(Frozen):
    """What lies beside a window's manifest for whoever publishes it next."""

    days: tuple[Window, ...]
    """Days of other files where rows of the window were found."""


@dataclass(frozen=True)
class Intake:
    """What came of it."""

    manifests: list[WindowManifest]
    """Of the windows asked for and of those published again since rows of them came late; in order of time."""
    files: list[FileAccount]
    """Where the records of each file ended, over these windows."""


def take_in(
    lake: Lake,
    dataset: str,
    source: LogSource,
    windows: Sequence[Window],
    *,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Intake:
    """Publish windows of a log, so that over all runs each record ends in one place, however the runs are cut.

    Where files have a day in their name, a window reads those of the days that it overlaps. A row that lies in the file of
    another day still joins its window: the file's day is noted beside the window's manifest, for whoever publishes the
    window next, and a window that is published already is published again. Of files without a day every window reads
    all; a window that is published already is published again once they hold more records of it than it knows.

    Args:
        lake: where to.
        dataset: the data set's name.
        source: the log.
        windows: those asked for.
        force: publish new generations even of windows that already say the same.
        progress: called with a line for each thing done.

    Raises:
        IngestError: the log cannot become windows as asked; the windows that were being read are left as they were.
        Imbalance: records were lost on the way; nothing of them has been published.
    """
    run = _Run(lake, dataset, source, progress or (lambda line: None))
    run.publish(windows, force=force)
    while again := run.pop_behind():
        run.publish(again, force=False)
    return run.outcome()


class _Run:
    """What one run has read and published so far, and which windows it found to lack rows."""

    def __init__(self, lake: Lake, dataset: str, source: LogSource, progress: Callable[[str], None]) -> None:
        self.lake, self.dataset, self.source, self.progress = lake, dataset, source, progress
        self.log = DatedLog(source, Schema.load(source.schema_file))
        self.undated = self.log.undated()
        self.of_day: dict[Window, list[SourceFile]] = {}
        """The files found so far with a day in their name."""
        self.day_of: dict[str, Window] = {}
        """The same by address."""
        self.manifests: dict[Window, WindowManifest] = {}
        self.records: dict[str, int] = {}
        self.read: dict[Window, set[str]] = {}
        """The files that a window was published from in this run."""
        self.behind: dict[Window, set[str]] = {}
        """Windows to publish again, each with the files where more of its rows are."""
        self.is_catching_up = False
        """Whether windows are published that were not asked for."""

    def publish(self, windows: Sequence[Window], *, force: bool) -> None:
        """Publish windows, as many at a time as their files allow, and see which others lack rows."""
        if not self.log.is_dated:
            self._publish(windows, force=force)
            return
        for window in windows:
            self._files(window)  # a missing file is reported before anything is read
        for group in self._groups(windows):
            self._publish(group, force=force)

    def pop_behind(self) -> list[Window]:
        """The windows that were found to lack rows and have not read them since, in order.

        Raises:
            IngestError: such a window was published from other files, or needs one that is gone.
        """
        behind, self.behind, self.is_catching_up = self.behind, {}, True
        again = []
        for window, files in sorted(behind.items()):
            more = sorted(files - self.read.get(window, set()))
            if more and self._is_ours(window, more):
                self.progress(
                    f"{self.dataset} {window}: rows came late or early in {', '.join(more)}: publishing it again"
                )
                again.append(window)
        return again

    def _is_ours(self, window: Window, late: list[str]) -> bool:
        """Whether a window was published from this log: else it is not replaced by the little that this log has of it."""
        manifest = read_manifest(self.lake, self.dataset, window)
        strange = sorted(({each.file for each in manifest.account} if manifest else set()) - self._files(window).keys())
        if strange and any(address in self.day_of for address in late):
            raise IngestError(
                f"rows of window {window} came late or early in {', '.join(late)}, but the window was published from "
                f"other files ({', '.join(strange)}): ingest it from this log, or these rows stay out"
            )
        return not strange

    def outcome(self) -> Intake:
        """What all of it came to."""
        published: Counter[str] = Counter()
        quarantined: Counter[str] = Counter()
        for each in (each for manifest in self.manifests.values() for each in manifest.account):
            published[each.file] += each.published
            quarantined[each.file] += each.quarantined
        files = [
            FileAccount.of(file, records, published[file], quarantined[file])
            for file, records in sorted(self.records.items())
        ]
        return Intake([self.manifests[window] for window in sorted(self.manifests)], files)

    def _files(self, window: Window) -> dict[str, LogFile]:
        """What a window is published from, by address.

        Raises:
            MissingSource: one of the files is not there.
        """
        files = {file.address: LogFile(file) for file in self.undated}
        if self.log.is_dated:
            for day in sorted({*self.log.days(window), *self._noted(window)}):
                files |= {file.address: LogFile(file, self.log.home(day)) for file in self._of_day(day, window)}
        return files

    def _of_day(self, day: Window, window: Window) -> list[SourceFile]:
        if day not in self.of_day:
            self.of_day[day] = self.log.files(day, window)
            self.day_of |= {file.address: day for file in self.of_day[day]}
        return self.of_day[day]

    def _groups(self, windows: Iterable[Window]) -> Iterator[list[Window]]:
        group: list[Window] = []
        held: dict[str, int] = {}
        for window in windows:
            more = {address: file.source.num_bytes for address, file in self._files(window).items()}
            if group and sum((held | more).values()) > GROUP_BYTES:
                yield group
                group, held = [], {}
            group.append(window)
            held |= more
        yield group

    def _publish(self, windows: Sequence[Window], *, force: bool) -> None:
        files = {address: file for window in windows for address, file in self._files(window).items()}
        if not self.log.has_times and self.log.is_dated and self.undated:
            raise IngestError(
                f"of a log without times all files have {{date}} or none has, got {self.undated[0].address} among "
                f"others that have it: say which day it is of"
            )
        everything: Found = {}

        def note(found: Found) -> None:
            everything.update(found)
            for address, counts in found.items():
                if address in self.day_of:
                    self._note_strays(address, counts)

        in_order = not self.log.has_times and not self.log.is_dated
        done = ingest(
            self.lake,
            self.dataset,
            self.log.schema,
            list(files.values()),
            first=(self.source.first or windows[0]) if in_order else None,
            windows=windows,
            cut=self.source.cut,
            count=(self.source.count or 1) if self.source.cut == "equal" and in_order else None,
            max_quarantine_share=self.source.max_quarantine_share,
            force=force,
            progress=self.progress,
            found=note,
        )
        self.manifests |= {manifest.window: manifest for manifest in done.manifests}
        self.records |= {account.file: account.records for account in done.files}
        for window in windows:
            self.read[window] = set(files)
            # Another run may have noted a file since this one looked: it found no manifest then, so this one must see it.
            self._lacks(window, set(self._files(window)))
        for window in {window for counts in everything.values() for window in counts} - set(windows):
            self._look_at(window, everything)

    def _lacks(self, window: Window, files: set[str]) -> None:
        if more := files - self.read.get(window, set()):
            self.behind.setdefault(window, set()).update(more)

    def _note_strays(self, address: str, counts: Counter[Window]) -> None:
        """Note the file for the windows that would not read it, though it holds rows of them."""
        day = self.day_of[address]
        readers = self.log.readers(day)
        strays = sorted(counts.keys() - set(readers))
        num_strays = sum(counts[window] for window in strays)
        if num_strays >= _MANY and 2 * num_strays > counts.total():
            raise IngestError(
                f"{address} must hold rows of {day}, got {num_strays:,} of {counts.total():,} that are of other windows "
                f"({strays[0]} to {strays[-1]}): say with `files_zone` at which zone's midnight files are cut (now "
                f"{self.log.files_zone}), or name the log without {{date}} if its files are not cut by day"
            )
        for window in strays:
            self._note(window, day)

    def _note(self, window: Window, day: Window) -> None:
        for _ in range(_TRIES):
            before, days = self.lake.read(self._note_path(window)), self._noted(window)
            if day in days:
                return
            after = _Note(days=tuple(sorted({*days, day})))
            try:
                self.lake.replace(self._note_path(window), after.model_dump(mode="json"), before)
            except Conflict:
                continue  # another run noted another file
            return
        raise Conflict(f"{self.lake.address(self._note_path(window))} kept changing: trigger the job again")

    def _noted(self, window: Window) -> list[Window]:
        """The days of other files where rows of a window were found."""
        note = self.lake.load(self._note_path(window), _Note)
        return [] if note is None else list(note.days)

    def _note_path(self, window: Window) -> str:
        return f"{window_prefix(self.dataset, window)}/late.json"

    def _look_at(self, window: Window, found: Found) -> None:
        """See whether a window that nobody asked for is published already and lacks some of what was found."""
        manifest = read_manifest(self.lake, self.dataset, window)
        if manifest is None:
            return  # whoever publishes it first will read what has been noted
        known = {each.file: each.published + each.quarantined for each in manifest.account}
        late = {
            address
            for address, counts in found.items()
            if window in counts and self._is_late(address, window, counts, known)
        }
        self._lacks(window, late)

    def _is_late(self, address: str, window: Window, counts: Counter[Window], known: dict[str, int]) -> bool:
        if address in self.day_of:
            if window in self.log.readers(self.day_of[address]):
                return False
            if not self.is_catching_up:
                return True  # as many rows as it knows need not be the same ones
        return known.get(address) != counts[window]
