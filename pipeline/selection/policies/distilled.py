"""Distilled: a few examples of a window, with what a model that has closed the window says in the place of their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.selection.policies.piloted import InProportion
from pipeline.selection.policy import Candidates
from pipeline.spec.config import HINDSIGHT, Read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Distilled(InProportion):
    """A distilled window: examples kept in proportion to sqrt(p (1 - p)), each with the soft label p, weighted by what it stands for.

    p is what the pilot predicts once it has closed the window, hence after it has learned from all of its rows: no luck of a
    label is left in what a student learns from the few. sqrt(p (1 - p)) is how far a label is from p on average: the gradient's
    expected length. Labels are distilled and examples are real, so that any architecture can learn from them (label
    distillation: Sucholutsky & Schonlau 2021; soft labels as the heart of dataset distillation: Qin et al. 2024). No student can
    train on a window before the pilot has.
    """

    kind: Literal["distilled"] = "distilled"
    softens: ClassVar[bool] = True
    pilot_age: Literal[-1] = -1
    """The pilot is asked as it is once it has closed the window."""

    def reads(self) -> dict[str, Read]:
        """The logits of the pilot that has closed the window."""
        return {"pilot": Read(self.pilot, HINDSIGHT, "logit")}

    def log_score(self, rows: Candidates) -> NDArray[np.float64]:
        """(N,) log sqrt(p (1 - p))."""
        import numpy as np

        logit = rows.signals["pilot"].astype(np.float64)
        return -(np.logaddexp(0.0, logit) + np.logaddexp(0.0, -logit)) / 2

    def soft_label(self, rows: Candidates) -> NDArray[np.float32]:
        """p."""
        import numpy as np
        from scipy.special import expit

        found: NDArray[np.float32] = expit(rows.signals["pilot"].astype(np.float64)).astype(np.float32)
        return found
