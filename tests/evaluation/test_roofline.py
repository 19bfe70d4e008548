"""Predictions for devices that are not there: against sizes counted by hand, and limits in closed form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from distillspec_jax.cli.main import main
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import devices, launches, roofline
from distillspec_jax.evaluation.devices import DEVICES, Device
from distillspec_jax.evaluation.roofline import NetworkSizes
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from tests import pair

T5 = EncoderDecoder(
    T5Config(
        vocab_size=64,
        emb_dim=16,
        num_heads=4,
        head_dim=4,
        num_encoder_layers=2,
        num_decoder_layers=3,
        mlp_dim=32,
    )
)
LLAMA = DecoderOnly(
    DecoderOnlyConfig(
        vocab_size=64,
        emb_dim=16,
        num_heads=4,
        num_kv_heads=2,
        head_dim=4,
        num_layers=2,
        mlp_dim=32,
        max_positions=64,
    )
)
MEMORY = Device(bandwidth=1e6, flops=1e30, memory=1e12, interconnect=1e30, source="bound by memory")
PRODUCTS = Device(bandwidth=1e30, flops=1e6, memory=1e12, interconnect=1e30, source="bound by products")


def test_a_token_reads_the_decoder_but_not_what_made_the_prompts_keys() -> None:
    found = NetworkSizes.of(T5, prompt_tokens=10, text_tokens=6)
    layer = (
        4 * 16 * 16 + 2 * 16 * 16 + 3 * 16 * 32
    )  # self-attention, queries and outputs of the other, gated MLP
    norms, positions = 3 * 3 * 16 + 16, 32 * 4
    assert found.read == 3 * layer + norms + positions + 64 * 16  # and the readout, apart from the embedding
    assert found.cached == 2 * 3 * 4 * 4 * (10 + 6)
    assert found.attended == 2.0 * found.cached
    assert (found.layers, found.crosses) == (3, True)
    assert found.all > found.read + 64 * 16


def test_heads_that_share_keys_attend_more_often_than_they_read() -> None:
    found = NetworkSizes.of(LLAMA, prompt_tokens=10, text_tokens=6)
    assert found.cached in (2 * 2 * 2 * 4 * (10 + 6), 2 * 2 * 2 * 4 * (10 + 5)), (
        "the last prompt token is pending"
    )
    assert found.attended == 2 * 2.0 * found.cached
    assert found.read == found.all - 64 * 16, "all but the embedding, of which a token reads one row"


def test_where_memory_decides_a_block_costs_a_token_and_elsewhere_its_tokens() -> None:
    target, draft = (NetworkSizes.of(one, 10, 6) for one in (T5, LLAMA))
    costs = {
        device: roofline.round_costs(target, draft, device, batch_size=1, block_sizes=[4])
        for device in (MEMORY, PRODUCTS)
    }
    c = {
        MEMORY: (draft.read + draft.cached) / (target.read + target.cached),
        PRODUCTS: (2 * draft.read + draft.attended) / (2 * target.read + target.attended),
    }
    # The first of four calls of the draft reads two tokens.
    for device, drafted, verify in ((MEMORY, 4, 1.0), (PRODUCTS, 5, 5.0)):
        ratio = costs[device].seconds[4] / costs[device].seconds[0]
        assert ratio == pytest.approx(drafted * c[device] + verify)
    reach = [0.8**i for i in range(1, 5)]
    found = roofline.predict(target, draft, MEMORY, reach, batch_size=1, block_sizes=[4])
    # arXiv 2211.17192, theorem 3.8.
    assert found.speedup == pytest.approx((1 - 0.8**5) / (1 - 0.8) / (4 * c[MEMORY] + 1))
    assert found.tokens_per_s == pytest.approx(found.plain_tokens_per_s * found.speedup)
    never = roofline.predict(target, draft, PRODUCTS, reach, batch_size=1, block_sizes=[4])
    assert never.break_even is None, "a block of five costs five tokens, whatever is accepted"


def test_chips_share_bytes_and_add_wires() -> None:
    target = NetworkSizes.of(T5, 10, 6)
    one, four = (target.call(2, 1, itemsize=2, chips=chips) for chips in (1, 4))
    assert one.wire_bytes == 0
    # Nine sums of two rows of 16 numbers, each 3/4 sent and 3/4 received.
    assert four.wire_bytes == 9 * 2 * 16 * 2 * 2 * 3 / 4
    assert four.seconds(MEMORY, 4) == pytest.approx(one.seconds(MEMORY) / 4)
    assert roofline.Work(1, 1, 1, 0, 0, 0, 0, 0, 1, 8e9).seconds(DEVICES["v5e"]) == pytest.approx(0.04)


def test_what_does_not_fit_is_refused_with_the_bytes_missing() -> None:
    target = NetworkSizes.of(T5, 10, 6)
    tight = Device(1e9, 1e9, 2.0 * (2 * target.all + 2 * target.cached), 1e9, "")
    assert (
        roofline.predict(target, target, tight, [0.5], batch_size=1, block_sizes=[1]).memory == tight.memory
    )
    with pytest.raises(UsageError, match="GB are missing; use more --chips"):
        roofline.predict(target, target, tight, [0.5], batch_size=2, block_sizes=[1])


def test_a_measured_device_is_looked_up_by_tokens_and_by_what_is_read_between(tmp_path: Path) -> None:
    written = {
        **dict.fromkeys(("bandwidth", "flops", "memory", "interconnect"), 1e3),
        "source": "by hand",
        "dtype": "float32",
        "products": [[8, 1, 100, 8.0], [8, 1, 400, 2.0], [8, 4, 100, 4.0], [8, 4, 400, 1.0]],
        "attention": [[1, 1, 5.0]],
        "launch": 0.5,
        "logits": 10.0,
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(written))
    mine = devices.find(str(path))
    assert mine.product_seconds(16.0, 0.0, 64, 1, 200) == pytest.approx(4.0), "halfway in the logarithm"
    assert mine.product_seconds(16.0, 0.0, 8, 2, 1e9) == pytest.approx(16 / 2**0.5), "beyond the end it stays"
    assert mine.attention_seconds(10.0, 0.0, 8, 3) == pytest.approx(2.0)

    draft = NetworkSizes.of(LLAMA, 10, 6, listed=24)
    assert draft.read == NetworkSizes.of(LLAMA, 10, 6).read - 16 * 40, "columns of other ids are not read"
    counted = launches.of_rounds(LLAMA, LLAMA, batch_size=2, block_sizes=[1, 3])
    assert counted[3] > counted[1] > counted[0] > 2 * 8, "each layer has four products, two sums, two writes"
    few, costly = (
        roofline.round_costs(
            NetworkSizes.of(LLAMA, 10, 6), draft, one, batch_size=2, block_sizes=[3], launches=counted
        ).seconds
        for one in (dataclasses.replace(mine, launch=0.0, logits=0.0), mine)
    )
    # A distribution for every token of the target and of the draft.
    assert costly[0] - few[0] == pytest.approx(counted[0] * 0.5 + 2 * 64 / 10)
    assert costly[3] - few[3] == pytest.approx(counted[3] * 0.5 + 2 * (4 * 64 + 3 * 24) / 10)

    slow = dataclasses.replace(mine, readouts=((16.0, 1.0, 100.0, 0.5),))
    work = draft.call(1, 1, itemsize=4)
    read = 16 * 24 * 4  # of the listed columns
    assert work.readout == read
    less = mine.product_seconds(read, 0.0, 16, 1, work.bytes)
    assert slow.product_seconds(read, 0.0, 16, 1, work.bytes) == less
    assert work.seconds(slow) - work.seconds(mine) == pytest.approx(read / 0.5 - less)

    # A draft's first call reads weights stored for half as many tokens; verdicts have a speed of their own.
    first = dataclasses.replace(
        slow, first_products=((16.0, 1.0, 100.0, 0.25),), first_readouts=((16.0, 1.0, 100.0, 0.125),)
    )
    known = work.weights / 0.25 + work.readout / 0.125
    attended = mine.attention_seconds(work.caches, work.attended, 1, work.queries)
    assert work.seconds(first, first=True) == pytest.approx(known + attended)
    assert work.seconds(first) == work.seconds(slow) == work.seconds(slow, first=True)
    both = [
        roofline.round_costs(NetworkSizes.of(LLAMA, 10, 6), draft, one, batch_size=2, block_sizes=[3]).seconds
        for one in (slow, dataclasses.replace(first, verdicts=((1.0, 1.0, 5.0),)))
    ]
    two = draft.call(2, 2, itemsize=2)
    extra = two.seconds(first, reuse=1e9, first=True) - two.seconds(slow, reuse=1e9)
    assert both[1][0] == both[0][0]
    assert both[1][3] - both[0][3] == pytest.approx(extra + 2 * (4 * 64 + 3 * 24) / 10)

    for field, wrong in (("bandwidth", -1), ("products", [[1, 2]]), ("launch", "fast"), ("flops", None)):
        path.write_text(json.dumps({**written, field: wrong}))
        with pytest.raises(UsageError, match=f"mine.json.*{field}"):
            devices.find(str(path))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, draft = (pair.write(tmp_path / one.name, one) for one in (pair.target(), pair.draft()))
    flags = ["advise", f"--target={target}", f"--drafter={draft}", "--device=v5e", "--batch_size=1,8"]
    one_pass = dataclasses.replace(pair.draft(), card=dataclasses.replace(pair.draft().card, mask_id=3))
    masked = pair.write(tmp_path / "masked", one_pass)
    written = tmp_path / "found.json"
    assert main([*flags, "--acceptance=0.7", f"--output={written}"]) == 0
    assert (
        "32 tokens of prompt and room for 8 of text, bfloat16; acceptance 0.7, assumed"
        in capsys.readouterr().out
    )
    assert [one["batch_size"] for one in json.loads(written.read_text())["predictions"]] == [1, 8]
    for more, said in (
        ([], "has no profile.json: give --acceptance=RATE"),
        (["--acceptance=1.5"], "must lie in [0, 1]"),
        (["--acceptance=0.7", "--device=v5"], "did you mean 'v5e'"),
        (["--acceptance=0.7", "--device=mine.jsn"], "or a file NAME.json"),
        (["--acceptance=0.7", "--chips=0"], "--chips=0: must be at least 1"),
        (["--acceptance=0.7", "--rule=block"], "--rule is for measuring here"),
        (["--acceptance=0.7", "--drafter=lookup"], "--drafter=lookup: predictions are for a draft model"),
        (["--acceptance=0.7", "--max_new_tokens=0"], "--max_new_tokens=0: must be at least 1"),
        (["--acceptance=0.7", "--dtype=int4"], "--dtype=int4"),
        (["--acceptance=0.7", f"--drafter={masked}"], "proposes a block in one call"),
    ):
        assert main([*flags, *more]) == 2
        assert said in capsys.readouterr().err
    assert main(["advise", f"--target={target}", f"--drafter={draft}", "--acceptance=0.5"]) == 2
    assert "--acceptance needs --device" in capsys.readouterr().err
