"""What watches at the other end of a leash: ends a home's services when the leash's holder is gone."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.local.services.laptop import down
from pipeline.local.services.leash import was_released
from pipeline.spec.settings import Settings

if not was_released():
    down(Settings(home=Path(sys.argv[1])), say=lambda line: None)
