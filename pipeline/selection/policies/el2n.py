"""EL2N: the further a model was off an example, the likelier it stays."""

from __future__ import annotations

from typing import ClassVar, Literal

from pipeline.selection.policies.piloted import InProportion


class El2n(InProportion):
    """Keep examples in proportion to the error |p - y| of a model (Paul et al. 2021, EL2N), weighted by what they stand for.

    An example is kept with pi = clip(c |p - y|, floor, 1), c such that the window's mean of pi is `rate`. The paper
    keeps the examples with the largest error and uses no weights, which shifts the click rate that a model learns.
    """

    kind: Literal["el2n"] = "el2n"
    signal: ClassVar[str] = "error"
