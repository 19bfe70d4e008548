"""Optax optimizers and learning-rate schedules, under the names that gin files use."""

from __future__ import annotations

from typing import Any

import jax
import optax
from optax import contrib

from distillspec_jax.errors import UsageError, check_number


def warmup_cosine(
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 100,
    hold_until: int = 0,
    final_fraction: float = 0.1,
) -> optax.Schedule:
    """Linear warm-up, an optional plateau, then a cosine cool-down: the paper's schedule.

    Args:
      learning_rate: the peak.
      total_steps: the step at which the cool-down ends.
      warmup_steps: steps from 0 to the peak; at most half of the run.
      hold_until: the cool-down starts at this step (the paper: half of the run), or after warm-up.
      final_fraction: final learning rate, as a fraction of the peak.

    Raises:
      UsageError: an argument is not a number, or the learning rate is zero.
    """
    _check_rate(learning_rate)
    check_number("warmup_steps", warmup_steps, 0)
    check_number("hold_until", hold_until, 0)
    check_number("final_fraction", final_fraction, 0, whole=False)
    warmup_steps = min(warmup_steps, max(total_steps // 2, 1))
    start = max(hold_until, warmup_steps)
    pieces = [
        optax.linear_schedule(0.0, learning_rate, warmup_steps),
        optax.constant_schedule(learning_rate),
        optax.cosine_decay_schedule(learning_rate, max(total_steps - start, 1), final_fraction),
    ]
    return optax.join_schedules(pieces, [warmup_steps, start])


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.98,
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """AdamW after global-norm clipping; no weight decay by default, as in the paper."""
    chosen = optax.adamw(_checked(learning_rate), b1=b1, b2=b2, weight_decay=weight_decay)
    return _clipped(chosen, clip_norm)


def adafactor(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float | None = None, clip_norm: float | None = None
) -> optax.GradientTransformation:
    """Adafactor (the paper's optimizer) with T5X's step-size scaling by parameter norm."""
    return _clipped(optax.adafactor(_checked(learning_rate), weight_decay_rate=weight_decay), clip_norm)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.0,
    beta: float = 0.95,
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """Muon (arXiv 2502.16982) for projection matrices, AdamW for embeddings, norms and position biases.

    Matrix updates are scaled to AdamW's typical root mean square, so both use the same learning rate.
    """
    chosen = contrib.muon(
        _checked(learning_rate),
        weight_decay=weight_decay,
        beta=beta,
        adam_b2=0.98,
        muon_weight_dimension_numbers=_projections,
        consistent_rms=0.2,
    )
    return _clipped(chosen, clip_norm)


def _projections(params: Any) -> Any:
    """Makes a tree like `params`: Muon's dimensions of projections (per scanned layer), None elsewhere."""

    def dimensions(path: tuple[Any, ...], leaf: Any) -> contrib.MuonDimensionNumbers | None:
        names = [getattr(key, "key", None) for key in path]
        if names[-1:] != ["kernel"] or "logits_dense" in names:
            return None
        return contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(dimensions, params)


def _clipped(
    optimizer: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformation:
    return optax.chain(*([optax.clip_by_global_norm(clip_norm)] if clip_norm else []), optimizer)


def _checked(learning_rate: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    if not callable(learning_rate):
        _check_rate(learning_rate)
    return learning_rate


def _check_rate(learning_rate: Any) -> None:
    check_number("LEARNING_RATE", learning_rate, 0, whole=False)
    if not learning_rate:
        raise UsageError(f"LEARNING_RATE={learning_rate}: must be positive")
