"""The traffic: pools of prompts from the embedded tasks, topics of the leads, and a stream of them."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.drift.setting import START, Setting
from distillspec_jax.data import catalog
from distillspec_jax.errors import UsageError

POOLS: Mapping[str, str] = {
    START: "gsm_symbolic",
    "arithmetic": "gsm_symbolic",
    "German": "office_help_ende",
    "leads, first": "wiki_leads",
    "leads, last": "wiki_leads",
}
"""The task of each pool; no prompt is in two pools."""
_WORDS = 2_000
_SHOWN = 12
_SEED = 20_260


@dataclasses.dataclass(frozen=True)
class Topics:
    """Texts ordered by topic.

    Attributes:
      order: indices, from one end to the other.
      words: those that weigh most at either end.
    """

    order: np.ndarray
    words: tuple[list[str], list[str]]


def topics(texts: Sequence[str]) -> Topics:
    """Orders texts along the first principal direction of their TF-IDF vectors.

    Words that three texts in ten have are left out; of the others, those that most texts have are taken.
    """
    split = [re.findall(r"[a-z]{3,}", text.lower()) for text in texts]
    spread = collections.Counter(word for words in split for word in set(words))
    known = [word for word, count in spread.most_common() if count < 0.3 * len(texts)][:_WORDS]
    places = {word: i for i, word in enumerate(known)}
    weight_NV = np.zeros((len(texts), len(known)), np.float32)
    for row_V, words in zip(weight_NV, split, strict=True):
        for word, count in collections.Counter(words).items():
            if word in places:
                row_V[places[word]] = (1 + np.log(count)) * np.log(len(texts) / spread[word])
    weight_NV /= np.maximum(np.linalg.norm(weight_NV, axis=1, keepdims=True), 1e-9)
    weight_NV -= weight_NV.mean(0)
    values, vectors = np.linalg.eigh((weight_NV.T @ weight_NV).astype(np.float64))
    first_V = vectors[:, np.argmax(values)]
    first_V *= np.sign(first_V[np.argmax(np.abs(first_V))])  # the sign of an eigenvector means nothing
    ends = [known[i] for i in np.argsort(first_V)]
    return Topics(np.argsort(weight_NV @ first_V, kind="stable"), (ends[:_SHOWN], ends[::-1][:_SHOWN]))


def pools(setting: Setting) -> tuple[dict[str, list[str]], tuple[list[str], list[str]]]:
    """Draws the prompts of every pool, as a model reads them; different ones.

    Returns:
      The pools, and the words at either end of the topics.

    Raises:
      UsageError: a task has fewer prompts than are asked for.
    """
    by_task: dict[str, list[str]] = {}
    for task in dict.fromkeys(POOLS.values()):
        spec = catalog.find_task(task)
        rows = [row["inputs"] for split in ("train", "validation") for row in catalog.read_rows(spec, split)]
        by_task[task] = [spec.prefix + text for text in dict.fromkeys(rows)]
    leads = topics(by_task["wiki_leads"])
    half = len(leads.order) // 2
    ends = {"leads, first": leads.order[:half], "leads, last": leads.order[half:]}
    found: dict[str, list[str]] = {}
    taken: collections.Counter[str] = collections.Counter()
    rng = np.random.default_rng(_SEED)
    order = {task: rng.permutation(len(texts)) for task, texts in by_task.items()}
    for pool, count in setting.pools.items():
        task = POOLS[pool]
        if pool in ends:
            # The far ends: the drift is as long as the topics are.
            chosen = ends[pool][:count] if pool == "leads, first" else ends[pool][-count:]
        else:
            chosen = order[task][taken[task] : taken[task] + count]
            taken[task] += count
        if len(chosen) < count:
            raise UsageError(f"{task} has {len(chosen):,} prompts for pool {pool!r}, not {count:,}")
        found[pool] = [by_task[task][i] for i in chosen]
    return found, leads.words


def stream(setting: Setting, seed: int) -> tuple[list[str], np.ndarray]:
    """Draws a stream of requests, with replacement within a pool.

    Returns:
      Names of the pools, and for each request its pool and its number in that, `[R, 2]`.
    """
    names = [name for name in setting.pools if name != START]
    rng = np.random.default_rng([_SEED, seed])
    drawn = []
    for phase in setting.phases:
        share_U = np.linspace(0.0, 1.0, phase.requests) if phase.begins != phase.ends else np.zeros(1)
        later_U = rng.random(phase.requests) < share_U
        pool_U = np.where(later_U, names.index(phase.ends), names.index(phase.begins))
        sizes = np.array([setting.pools[name] for name in names])
        drawn.append(np.stack([pool_U, rng.integers(sizes[pool_U])], axis=1))
    return names, np.concatenate(drawn)
