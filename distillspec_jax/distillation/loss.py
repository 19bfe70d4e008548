"""The distillation loss: a divergence averaged over each sequence's own length (paper, Eq. 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from distillspec_jax.distillation import chunks
from distillspec_jax.distillation.divergences import Divergence, TotalVariation, of_vocabulary
from distillspec_jax.distillation.one_pass import OnePass, acceptances, of_targets
from distillspec_jax.distillation.sources import DataSource, Networks
from distillspec_jax.distillation.weighting import Frozen, Logits, Weighting
from distillspec_jax.errors import find
from distillspec_jax.metrics import Mean
from distillspec_jax.models.interface import Batch, LanguageModel
from distillspec_jax.shapes import Array, Params
from distillspec_jax.training.step import LossFn, row_tokens
from distillspec_jax.vocabulary import Vocabulary

_total_variation = TotalVariation()


def by_sequence(mask_BT: Array) -> tuple[Array, Array]:
    """Weighs all sequences equally (Eq. 2): each token gets one over its sequence's length.

    EOS counts, padding does not.

    Returns:
      The weight of each token, `[B, T]`, and the number of nonempty sequences.
    """
    length_B = jnp.sum(mask_BT, axis=1)
    weight_BT = mask_BT / jnp.maximum(length_B, 1.0)[:, None]
    return weight_BT, jnp.sum((length_B > 0).astype(jnp.float32))


def by_token(mask_BT: Array) -> tuple[Array, Array]:
    """Weighs all tokens equally, so long sequences count more: a pooled mean, which differs from Eq. 2.

    Returns:
      The weight of each token, `[B, T]`, and the number of tokens.
    """
    return mask_BT, jnp.sum(mask_BT)


NORMALIZATIONS: Mapping[str, Callable[[Array], tuple[Array, Array]]] = {
    "sequence": by_sequence,
    "token": by_token,
}


def find_normalization(name: str) -> Callable[[Array], tuple[Array, Array]]:
    """Looks up a normalization by name.

    Raises:
      UsageError: the name is unknown.
    """
    return find("normalization", name, NORMALIZATIONS)


def make_distillation_loss(
    draft: LanguageModel,
    target: LanguageModel,
    target_params: Params,
    divergence: Divergence,
    source: DataSource,
    *,
    vocabulary: Vocabulary,
    dropout: bool = False,
    normalization: str = "sequence",
    weighting: Weighting | None = None,
    reference: Frozen | None = None,
    one_pass: OnePass | None = None,
    initial_params: Params | None = None,
) -> LossFn:
    """Makes a loss for `training.step`; it carries the target's parameters as arguments, not constants.

    The logits of a large batch are never materialised all at once (`chunks`).

    Args:
      draft, target: the pair; their logits have the same width.
      target_params: frozen.
      divergence: computed per token.
      source: gives the sequences that the loss is computed on.
      vocabulary: shared by both. Distributions exclude the padded rows of an embedding; truncated ones also
        exclude padding ids.
      dropout: draw the draft's dropout masks from the step's key. Sampling uses no dropout.
      normalization: key of `NORMALIZATIONS`.
      weighting: weighs tokens by the networks' predictions; None: all tokens count equally.
      reference: the draft that `weighting` compares with; its logits have the same width.
      one_pass: append tails of masks to the texts and include them in the loss.
      initial_params: the draft's before training, if the source samples from them (`Stale`).

    The metric `acceptance_on_batch` is the pooled 1 - TVD on the training sequences. These are the draft's
    own samples or references, so it is neither Eq. 3's alpha (see `expected_acceptance.py`) nor a sampler's
    acceptance rate. With `one_pass`, `acceptance_of_masks` is the same for masks, given all preceding tokens.

    Raises:
      UsageError: the normalization is unknown.
    """
    normalize, divergence = find_normalization(normalization), of_vocabulary(divergence, vocabulary)

    def logits(model: LanguageModel, params: Params, hidden: Array) -> Array:
        return model.readout(params, hidden)[..., : vocabulary.size]

    def loss_of_part(
        draft_logits: Array, part: dict[str, Array], target_params: Params
    ) -> tuple[Array, Array]:
        mask, tokens = part["mask"], part["tokens"]
        draft_logits = draft_logits[..., : vocabulary.size]
        target_logits = logits(target, target_params, part["target_hidden"])
        loss = divergence(target_logits, draft_logits, mask, tokens)
        tvd = _total_variation(target_logits, jax.lax.stop_gradient(draft_logits), mask, tokens)
        return jnp.sum(loss * part["weight"]), tvd

    def weigh(
        frozen: tuple[Params, Params, Params], hidden_BTM: Array, given: dict[str, Array], batch: Batch
    ) -> tuple[Array, Array, dict[str, Mean]]:
        """Weighs the tokens of a batch; computes the logits of all of them, one part at a time."""
        mask_BT = given["mask"]
        if weighting is None:
            return *normalize(mask_BT), {}
        target_params, params, reference_params = frozen
        seen = given | {"hidden": hidden_BTM}
        if reference is not None:
            seen["reference_hidden"] = reference.model.hidden(reference_params, batch)

        def score(part: dict[str, Array]) -> Array:
            said = Logits(
                logits(target, target_params, part["target_hidden"]),
                logits(draft, params, part["hidden"]),
                None
                if reference is None
                else logits(reference.model, reference_params, part["reference_hidden"]),
            )
            return weighting.score(divergence, said, part["mask"], part["tokens"])

        count = chunks.parts(mask_BT.shape[0], mask_BT.shape[1], draft.vocab_size)
        score_BT = chunks.of_tokens(score, seen, count)
        return weighting.weigh(score_BT, mask_BT, normalize)

    def loss_fn(
        fixed: tuple[Params, Params, Params], params: Params, batch: Batch, key: Array
    ) -> tuple[Array, Array, dict[str, Mean]]:
        target_params, reference_params, initial_params = fixed
        source_key, dropout_key, tails_key = jax.random.split(key, 3)
        frozen = jax.lax.stop_gradient(params)
        networks = Networks(draft, frozen, target, target_params, vocabulary, initial_params)
        batch = source(networks, batch, source_key)
        target_hidden_BTM = target.hidden(target_params, batch)
        if one_pass is not None:  # from here on T includes the masks
            batch, about_BT = one_pass.with_tails(batch, tails_key)
            target_hidden_BTM = of_targets(target_hidden_BTM, about_BT)
        mask_BT = batch["decoder_loss_weights"]
        hidden_BTM = draft.hidden(params, batch, dropout_key=dropout_key if dropout else None)
        given = {
            "target_hidden": target_hidden_BTM,
            "tokens": batch["decoder_target_tokens"],
            "mask": mask_BT,
        }
        weight_BT, weight_sum, seen = weigh(
            (target_params, frozen, reference_params), jax.lax.stop_gradient(hidden_BTM), given, batch
        )
        loss_sum, tvd_BT = chunks.loss_of_hidden(
            lambda hidden: draft.readout(params, hidden),
            loss_of_part,
            hidden_BTM,
            given | {"weight": weight_BT},
            target_params,
            chunks.parts(mask_BT.shape[0], mask_BT.shape[1], draft.vocab_size),
        )
        metrics = {
            **acceptances("acceptance_on_batch", 1.0 - tvd_BT, mask_BT, batch),
            "row_tokens": row_tokens(mask_BT),
        }
        return loss_sum, weight_sum, metrics | seen

    reference_params = None if reference is None else reference.params
    return jax.tree_util.Partial(loss_fn, (target_params, reference_params, initial_params))
