"""The table of drafts by whose texts: sums a text, against a pair of tables by hand; nothing is loaded."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import causes
from distillspec_jax.vocabulary import T5_IDS
from tests.distillation.bigram import Bigram, chain, prompts, table

V, WIDTH = 6, 5
NETWORK = Bigram(V)


def model(params, name):
    return SimpleNamespace(model=NETWORK, params=params, name=name)


def distribution(params):
    weight = np.exp(np.asarray(params["table"], np.float64)[:, 1:])  # padding is never drawn
    return weight / weight.sum(-1, keepdims=True)


def test_each_draft_is_measured_on_each_kind_of_text():
    target, first = model(chain([3, 0, 1, 4, 2, 4], V), "t"), model(table(1, V), "a")
    second = model(chain([5, 0, 1, 4, 2, 5], V), "b")  # 5 5 5 5 5 without an end
    batch = prompts(6, WIDTH, empty=(5,)) | {"decoder_target_tokens": np.full((6, WIDTH), 2, np.int32)}
    found = {
        (row["texts"], row["draft"]): row for row in causes.rows(target, [first, second], [batch], T5_IDS)
    }
    assert list(found)[:2] == [("references", "a"), ("references", "b")]
    assert {texts for texts, _ in found} == {"references", "target", "a", "b"}
    assert {row["number"] for row in found.values()} == {5}
    # The target's text is 0 -> 3 -> 4 -> 2 -> EOS: the draft's tables after 0, 3, 4 and 2.
    row, q = found["target", "a"], distribution(first.params)
    overlap = np.mean([q[before, after - 1] for before, after in ((0, 3), (3, 4), (4, 2), (2, 1))])
    entropy = -(q * np.log(q)).sum(-1)[[0, 3, 4, 2]].mean()
    assert row["acceptance"][0] == pytest.approx(overlap, rel=1e-5)
    assert row["draft_entropy"][0] == pytest.approx(entropy, rel=1e-5)
    assert (row["target_entropy"][0], row["ended"][0]) == (pytest.approx(0, abs=1e-5), 1)
    assert (row["tokens"][0], found["b", "a"]["tokens"][0]) == (4, WIDTH)
    assert (found["b", "b"]["ended"][0], found["b", "b"]["acceptance"][0]) == (0, pytest.approx(0, abs=1e-5))
    assert "| target | a | " in causes.table(list(found.values()))
