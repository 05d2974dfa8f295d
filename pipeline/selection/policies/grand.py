"""GraNd: the longer the gradient with which an example would move a model's last layer, the likelier it stays."""

from __future__ import annotations

from typing import ClassVar, Literal

from pipeline.selection.policies.piloted import InProportion


class Grand(InProportion):
    """Keep examples in proportion to the length of the loss's gradient in a model's last layer (Paul et al. 2021, GraNd).

    For clicks that is |p - y| sqrt(1 + |h|^2), with h what comes into the layer: unlike `el2n` it distinguishes examples of one error by
    how much of the model they light up. An example is kept with pi = clip(c |g|, floor, 1), c such that the window's mean of pi is
    `rate`, and weighted by 1 / pi: of all ways to sample at one rate this one has the least variance of the layer's mean gradient
    (Katharopoulos & Fleuret 2018). The paper takes a mean over several new models, keeps the largest, and uses no weights.
    """

    kind: Literal["grand"] = "grand"
    signal: ClassVar[str] = "gradient_norm"
