"""The array-name suffixes, and the type aliases used in signatures.

Numeric code names an array's axes in its suffix, e.g. `logits_BTV`:

    B  rows of a batch              V  vocabulary ids
    T  tokens of a sequence         S  cache slots
    K  tokens appended in one call  H  attention heads
    G  draft positions (gamma)      D  width of a head, or of the model
    N  candidate blocks a row       P  prompts

Pytrees (parameters, states) carry no suffix.
"""

from typing import Any

import jax

Array = jax.Array
Params = Any
"""A nested dict of arrays with T5X's unscanned parameter names."""
