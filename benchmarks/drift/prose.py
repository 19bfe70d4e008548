"""The words of the page around its numbers: how the study was done, and what it does not show."""

from __future__ import annotations

from typing import Any

METHOD = """\
- **Stream**: {requests:,} requests: {stretches}. *Arithmetic* is `gsm_symbolic`, *German*
  `office_help_ende`, *leads* are `wiki_leads`, whose articles are ordered along the first principal
  direction of their TF-IDF vectors. The two ends of that order are the pools: from articles with
  *{first_words}* to articles with *{last_words}*. Seeds: {seeds}.
- **Prompts**: {prompts:,} different ones ({pools}). Requests are drawn from a pool with replacement, so
  a prompt comes again. `redistill` sees the log up to then and no more, and never trains on the fifth
  of all prompts ({held_out:,}) that it holds out by a hash: *prompts never trained on*. On the others a
  draft may have been trained when they come again, as in any service where users repeat themselves.
- **Models**: the zoo's T5 target, in a service of prompts of up to {inputs} tokens and answers of up to
  {targets}, γ = {block_size}, T = 0. The draft of the start is the zoo's supervised one, distilled for
  {start_steps} steps on arithmetic alone, on prompts that are not in the stream.
- **Policies**: an operator looks every {look} requests. *On alarm*: `watch` with its defaults, against
  the profile beside the draft; once an alarm is raised and {waits:,} requests have come since the drop
  that it tells, `redistill` reads those. *At fixed intervals* it reads the requests of the interval. A
  version that passes serves all requests from then on, and is what is watched next. One recipe for all:
  forward KL on the log's texts, {steps} steps of {batch_size} rows{pilot}, {old_share:.0%} of them old
  prompts; {judged} held-out prompts, new and old each, and up to four times as many where those cannot
  tell; on the old ones a loss of up to {margin:.0%}, else the defaults of `redistill`.{defaults}
- **What is simulated**: decoding. At T = 0 the target's text of a prompt does not depend on the draft.
  So it is written once, by the target alone, and one teacher-forced pass of a draft over it gives every
  round. Of {decoded:,} prompts that the real sampler decoded with the draft of the start, {equal:,}
  have the same tokens and the same counts, position by position. Log, alarm, registry, prompts,
  training, gate and promotion are the package's own.
- **A call** of the target for a request, with its drafts, was measured on these prompts, 16 together,
  in processor time."""

LIMITS = """\
- The pair is tiny: a target of 6.7 M parameters, whose calls are cheap, and a training of a minute or
  less. Requests until paid back scale with the cost of a training over that of a call; both are of this
  machine.
- A schedule does not know when the traffic turns. Here the one of 5,000 comes 500 requests after each
  of the first two turns, by luck; with another phase it would come later.
- A new draft serves at once: no time passes while it is trained, and the stages of `rollout` are left
  out, for all policies alike.
- The profile of a version is of the held-out prompts that were new when it was distilled. Where they
  are harder than what was asked before, a loss on the earlier traffic does not show against it: `watch`
  needs a reference by segment for that (`--by`)."""


DEFAULTS = """ With the defaults for the share
  of old prompts (30 %) and the tolerated loss (3 %) the first draft after the first turn ({policy},
  request {at:,}) was refused by the {judged} alone: {reason}. A draft that this small has
  learnt one task alone loses some of it with the next."""


def method(tried: dict[str, Any] | None, numbers: dict[str, Any]) -> str:
    """Fills the numbers in.

    Args:
      tried: the row of a redistillation with the default share and margin, where there is one.
    """
    steps = numbers["pilot_steps"]
    # A training this short is no longer than a pilot.
    pilot = f" after a pilot of {steps} steps" if steps else " and no pilot before so short a training"
    defaults = "" if tried is None else DEFAULTS.format(**{**numbers, **tried})
    return METHOD.format(pilot=pilot, defaults=defaults, **numbers)
