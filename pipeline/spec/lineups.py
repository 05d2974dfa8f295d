"""Which line-ups there are, by name, and what forms suggest from them; and the demo's, of which each home has one of its own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from pipeline.spec.documents import read_yaml
from pipeline.spec.errors import BadInput
from pipeline.spec.lineup import LineUpError, SimulatedSource, load_lineup
from pipeline.spec.settings import CHECKOUT, Settings
from pipeline.spec.window import Window

DEMO = CHECKOUT / "dags" / "lineups" / "demo.yaml"
"""What a home's demo is made from."""
ONLINE_DAYS = 12
"""Online windows that a new demo has behind it."""
HISTORY = 8
"""Windows of history suggested where a line-up does not say how many its log has."""
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def yesterday() -> Window:
    """The last window that is over."""
    return Window.of(datetime.now(UTC)).previous()


def is_homemade(path: Path, settings: Settings) -> bool:
    """Whether a line-up is the home's own demo, whose days end where the present begins."""
    return path == settings.home / "lineups" / "demo.yaml"


def at_home(settings: Settings, last: Window | None = None) -> Path:
    """The file of the settings' line-up; the home's demo is written first where there is none yet.

    From then on the file stays as it is: with other dates it would be another world.

    Args:
        settings: where the home is.
        last: the last online window that a new demo has behind it; yesterday when not given.

    Raises:
        LineUpError: it cannot be written.
    """
    path = settings.lineup
    if path.exists() or not is_homemade(path, settings) or not DEMO.exists():
        return path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                whole = path.with_suffix(".part")
                whole.write_text(_made(last or yesterday()))
                os.replace(whole, path)
    except OSError as error:
        raise LineUpError(f"cannot write the demo's line-up to {path}: {error.strerror}. Set WINDROW_HOME") from None
    return path


def _made(last: Window) -> str:
    days = last.shift(1 - ONLINE_DAYS).days_since(load_lineup(DEMO).online_start)
    return (
        f"# This home's demo: {DEMO}, every date moved so that {ONLINE_DAYS} online days end on {last}.\n"
        "# It stays as it is, since other dates would be another simulated world. Remove it, and `windrow up` makes such\n"
        f"# a world, with a data set of its own.\n#\n{moved(DEMO.read_text(), days)}"
    )


def moved(text: str, days: int) -> str:
    """A line-up's text with every date moved by so many days, also those in names."""
    return _DATE.sub(lambda found: Window.of(found[0]).shift(days).name, text)


def lineup_paths(settings: Settings | None = None) -> dict[str, Path]:
    """The line-ups by name: the settings' own first, then its neighbours, then those beside the DAGs."""
    settings = settings or Settings()
    chosen = settings.lineup
    folders = (chosen.parent, settings.dags / "lineups")
    paths: dict[str, Path] = {}
    for path in (chosen, *(path for folder in folders for path in sorted(folder.glob("*.yaml")))):
        paths.setdefault(path.stem, path)
    return paths


def lineup_path(name: str, settings: Settings | None = None) -> Path:
    """The file of a line-up; see `at_home`.

    Raises:
        LineUpError: there is none of that name.
    """
    settings = settings or Settings()
    if name == settings.lineup.stem:
        return at_home(settings)
    paths = lineup_paths(settings)
    if name not in paths:
        folders = dict.fromkeys((settings.lineup.parent, settings.dags / "lineups"))
        raise LineUpError(f"no line-up {name!r} in {' or '.join(map(str, folders))}; there are {', '.join(paths)}")
    return paths[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dates:
    """The line-up that a form suggests, and its days."""

    lineup: str
    first: str
    online_start: str

    @classmethod
    def suggested(cls) -> Dates:
        """Those of the line-up that the form suggests, or of the next one where that can't be read."""
        for name, path in lineup_paths().items():
            try:
                lineup = load_lineup(path)
            except BadInput:
                continue  # a broken file must not take the forms with it
            source, online = lineup.dataset.source, lineup.online_start
            first = source.origin if isinstance(source, SimulatedSource) else source.first
            return cls(lineup=name, first=(first or online.shift(-HISTORY)).name, online_start=online.name)
        raise LineUpError(f"no line-up can be read among {list(lineup_paths().values())}")

    def online(self, days: int) -> str:
        """The day so many days after the first online one."""
        return Window.of(self.online_start).shift(days).name


def variant_names() -> list[str]:
    """Every variant of every line-up, unchecked: a broken file must not take the forms with it."""
    names: dict[str, None] = {}
    for path in lineup_paths().values():
        try:
            document = read_yaml(path, "a line-up")
            names |= {str(variant["name"]): None for variant in document["variants"]}
        except (BadInput, KeyError, TypeError):
            continue
    return list(names)
