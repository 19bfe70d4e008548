"""The words around the numbers of the page: setting, method and limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.drift.rows import Row

INTRODUCTION = """\
A simulated service answers {requests:,} requests, which switch task {switches} times and then shift their
topic gradually. Its draft is distilled again never, on the alarm of `watch`, or at fixed intervals, with
{steps} steps each time. Results are ratios of tokens per target call, with 95 % intervals over prompts."""

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
  {targets}, γ = {block_size}, T = 0. The initial draft is the zoo's supervised one, distilled for
  {start_steps} steps on arithmetic alone, on prompts that are not in the stream.
- **Policies**: an operator looks every {look} requests. *On alarm*: `watch` with its defaults, against
  the profile beside the draft; once an alarm is raised and {waits:,} requests have come since the
  estimated drop, `redistill` reads those. *At fixed intervals* it reads the requests of the interval. A
  version that passes serves all requests from then on, and is watched next. All use one recipe:
  forward KL on the log's texts, {steps} steps of {batch_size} rows{pilot}, {old_share:.0%} of them old
  prompts; {judged} held-out prompts, new and old each, and up to four times as many if those are
  inconclusive; on the old ones a loss of up to {margin:.0%} is allowed; else `redistill`'s
  defaults.{defaults}
- **What is simulated**: decoding. At T = 0 the target's text for a prompt does not depend on the draft.
  So the target writes it once, and one teacher-forced pass of a draft over it gives every round. Of
  {decoded:,} prompts that the real sampler decoded with the initial draft, {equal:,}
  have the same tokens and the same counts, position by position. Log, alarm, registry, prompts,
  training, gate and promotion are the package's own.
- **The time of a target call**, drafting included, was measured on these prompts, 16 at a time, in
  processor seconds."""

LIMITS = """\
- The pair is tiny: a target of 6.7 M parameters, whose calls are cheap, and a training of a minute or
  less. Requests until payback scale with the cost of a training over that of a call; both were measured
  on this machine.
- A schedule does not know when the traffic switches. Here the one of 5,000 comes 500 requests after each
  of the first two switches, by luck; with another phase it would come later.
- A new draft serves at once: training takes no simulated time, and the stages of `rollout` are skipped,
  for all policies.
- The profile of a version covers the held-out prompts that were new when it was distilled. If they are
  harder than the earlier traffic, a loss on the earlier traffic does not show: for that, `watch` needs a
  reference by segment (`--by`)."""


DEFAULTS = """ With the defaults for the share
  of old prompts (30 %) and the tolerated loss (3 %) the first draft after the first switch ({policy},
  request {at:,}) was refused on the {judged} prompts of each kind alone: {reason}. A draft this small that
  has learnt one task loses some of it with the next."""


def introduction(phases: Sequence[Row], steps: int) -> str:
    """Says what the stream does and what is compared."""
    pools = [pool for phase in phases for pool in (phase["begins"], phase["ends"])]
    return INTRODUCTION.format(
        requests=sum(phase["requests"] for phase in phases),
        switches=sum(a != b for a, b in zip(pools[1::2], pools[2::2], strict=False)),
        steps=steps,
    )


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
