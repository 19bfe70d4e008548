"""The server as clients see it: the openai package, and raw HTTP for what that would not send."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from distillspec_jax.acceptance import COUNTS
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.engines.registry import ENGINES
from distillspec_jax.evaluation.served_lines import Answers
from distillspec_jax.files import json_lines, read_lines
from distillspec_jax.generation.text_generator import TextGenerator
from distillspec_jax.serving.request_log import RequestLog
from distillspec_jax.serving.routing import Route
from tests import pair
from tests.serving import served
from tests.serving.served import Served

TEXTS = ["one", "two two", "a third text", "and the fourth", "5", "six or seven"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served") / "served.jsonl"


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[Served]:
    made = served.maker()
    with (
        RequestLog(str(log), texts=True) as lines,
        served.serving(made, {"draft": served.batch(made)}, Route("draft"), log=lines) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def offline() -> TextGenerator:
    return TextGenerator(pair.target(), pair.draft(), block_size=2, batch_size=2)


def test_texts_are_those_of_generate_whoever_else_is_served(
    client: openai.OpenAI, offline: TextGenerator
) -> None:
    expected = {
        (text, temperature, seed): next(iter(offline.stream([text], temperature=temperature, seed=seed)))
        for text in TEXTS
        for temperature, seed in ((0.0, 0), (1.0, 7))
    }

    def ask(case: tuple[str, float, int]) -> Any:
        text, temperature, seed = case
        return client.completions.create(
            model="tiny", prompt=text, temperature=temperature, seed=seed, max_tokens=served.NEW_TOKENS
        )

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = dict(zip(expected, pool.map(ask, expected), strict=True))
    for case, answer in answers.items():
        (choice,), generation = answer.choices, expected[case]
        assert choice.text == generation.outputs
        assert choice.finish_reason == {"eos": "stop", "length": "length"}[generation.finish_reason]
        assert answer.usage.completion_tokens == generation.emitted_tokens
        assert answer.usage.completion_tokens_details.accepted_prediction_tokens == generation.accepted


def test_prompts_of_a_request_share_no_noise_unless_a_seed_asks_for_it(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": TEXTS[:1] * 4, "temperature": 1.0}  # no limit, either
    assert len({choice.text for choice in client.completions.create(**asked).choices}) > 1
    assert len({choice.text for choice in client.completions.create(**asked, seed=7).choices}) == 1


def test_a_stream_has_the_same_text_in_parts_and_the_counts_at_its_end(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": TEXTS[:2], "seed": 7, "n": 2, "max_tokens": 8}
    whole = client.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    usage = None
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage
        for choice in chunk.choices:
            assert choice.index not in reasons
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI, offline: TextGenerator) -> None:
    (generation,) = offline.stream(["one"], temperature=1.0, seed=3)
    stop = generation.outputs[2:4]
    answer = client.completions.create(
        model="tiny", prompt="one", seed=3, stop=[stop, "never said"], max_tokens=8
    )
    assert answer.choices[0].text == generation.outputs[: generation.outputs.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < generation.emitted_tokens


def test_log_probabilities_are_those_of_the_target(client: openai.OpenAI, offline: TextGenerator) -> None:
    import jax
    import numpy as np

    (generation,) = offline.stream(["two two"], temperature=1.0, seed=5)
    whole = client.completions.create(model="tiny", prompt="two two", seed=5, logprobs=3, max_tokens=8)
    found = whole.choices[0].logprobs
    target, tokens = pair.target(), np.array([generation.tokens])
    prompt = np.array([offline.form.ids("two two", "")])
    batch = {
        "encoder_input_tokens": prompt,
        "decoder_input_tokens": np.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
    }
    logits = np.array(target.model.logits(target.params, batch))[0, :, : offline.tokenizer.vocab_size]
    logits[:, offline.tokenizer.vocabulary.padding_ids] = -np.inf
    log_p = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(found.token_logprobs, log_p[np.arange(len(tokens[0])), tokens[0]], atol=1e-4)
    assert "".join(found.tokens).removesuffix("</s>") == generation.outputs
    for top, row in zip(found.top_logprobs, log_p, strict=True):
        assert sorted(top.values(), reverse=True) == pytest.approx(
            sorted(row)[: -1 - len(top) : -1], abs=1e-4
        )
    pieces = client.completions.create(
        model="tiny", prompt="two two", seed=5, logprobs=3, max_tokens=8, stream=True
    )
    streamed = [
        one
        for chunk in pieces
        for choice in chunk.choices
        for one in (choice.logprobs and choice.logprobs.tokens) or ()
    ]
    assert streamed == found.tokens


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"prompt": None}, 400, "prompt"),
        ({"prompt": []}, 400, "prompt is empty"),
        ({"prompt": [2] * 31 + [0]}, 400, "32 tokens and ends in id 0, which takes one more"),
        ({"prompt": "word " * 40}, 400, "must have at most 32 here"),  # it named a flag of other commands
        ({"prompt": [1, 99_999]}, 400, "holds the id 99999"),
        ({"prompt": ["a", 1]}, 400, "prompt holds 1"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "field temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"n": 0}, 400, "n is 0"),
        ({"n": 65}, 400, "65 outputs"),
        ({"seed": -1}, 400, "seed is -1"),
        ({"max_tokens": 0}, 400, "max_tokens is 0"),
        ({"max_tokens": 9}, 400, "at most 8"),
        ({"stop": [""]}, 400, "none of them empty"),
        ({"logprobs": 21}, 400, "from 0 to 20"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty is not supported"),
        ({"temprature": 1}, 400, "did you mean 'temperature'"),
        ({"model": "gpt-4"}, 404, "'gpt-4' is not served here"),
    ],
)
def test_what_cannot_be_served_is_refused_in_openais_form(
    server: Served, change: dict[str, Any], status: int, said: str
) -> None:
    answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "one", **change})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert said in error["message"]
    assert "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 400), (b"\xff\xfe", 400), (b'{"prompt": "' + b"x" * 5000 + b'"}', 413)],
)
def test_garbage_is_refused(server: Served, content: bytes, status: int) -> None:
    assert httpx.post(f"{server.url}/v1/completions", content=content).status_code == status


def test_other_routes(server: Served, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "distillspec_jax"
    assert httpx.get(f"{server.url}/health").text == "ok\n"
    assert httpx.get(f"{server.url}/ready").status_code == 200
    assert httpx.get(f"{server.url}/v1/completions").status_code == 405
    assert httpx.get(f"{server.url}/nowhere").json()["error"]["message"] == "Not Found"
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}])


def test_who_leaves_gives_the_slot_back(server: Served, client: openai.OpenAI) -> None:
    for _ in range(6):
        with client.completions.create(model="tiny", prompt="one", stream=True, n=4, max_tokens=8) as stream:
            next(iter(stream))
        address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        with socket.create_connection(address) as raw:
            body = json.dumps({"prompt": "one", "n": 8}).encode()
            raw.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
    answer = client.completions.create(model="tiny", prompt="one", temperature=0, max_tokens=8)
    assert answer.choices[0].finish_reason
    until = time.monotonic() + 30
    while server.service.worker.loads != (0, 0) or server.service._open:
        assert time.monotonic() < until, "outputs are left that nobody waits for"


def test_the_counters_and_the_log_are_the_sums_of_the_requests(
    server: Served, client: openai.OpenAI, log: Path, tmp_path: Path
) -> None:
    client.completions.create(model="tiny", prompt=TEXTS, seed=11, max_tokens=8)
    lines = [line for _, line in json_lines(read_lines(log), log)]
    answers = Answers(by=("temperature", "top_k", "top_p"))  # no distribution is set aside
    units = list(answers.units([(f"{log}:{i}", line) for i, line in enumerate(lines)]))
    assert answers.engine == "distillspec"
    text = urllib.request.urlopen(f"{server.url}/metrics").read().decode()
    from distillspec_jax.evaluation.engines import scrapes

    engine, (scrape,) = scrapes.of_text(text.splitlines(), "scrape", None)
    assert engine in ENGINES
    assert engine.name == "distillspec"
    sums: dict[str, float] = {}
    for series, value in scrape.values.items():
        if series.position is None:
            sums[series.name] = sums.get(series.name, 0) + value
    for name in set(COUNTS) - {"tested_at", "accepted_at"}:
        assert (
            sums[name]
            == sum(line[name] for line in lines)
            == sum(getattr(unit.record, name) for unit in units)
        )
    for i in range(2):
        for name in ("tested_at", "accepted_at"):
            (value,) = [v for s, v in scrape.values.items() if (s.name, s.position) == (name, i)]
            assert value == sum(line[name][i] for line in lines)


def test_samples_of_a_prompt_are_one_unit_where_its_text_is_not_logged(
    client: openai.OpenAI, log: Path
) -> None:
    """They were taken for independent prompts, by which a rollout advanced too soon."""
    before = len(read_lines(log)) - 1
    client.completions.create(model="tiny", prompt=[[2, 3], [4, 5]], n=4, max_tokens=2)
    lines = list(json_lines(read_lines(log)[before:], log))
    assert all("inputs" not in line for _, line in lines)
    prompts = {unit.prompt for unit in Answers().units(lines)}
    assert (len(lines), len(prompts)) == (8, 2)
    assert None not in prompts


def test_drafts_change_while_requests_run_and_none_is_lost(
    server: Served, client: openai.OpenAI, offline: TextGenerator, log: Path
) -> None:
    expected = {text: next(iter(offline.stream([text]))).outputs for text in TEXTS}
    before = len(read_lines(log))

    def ask(number: int) -> tuple[str, str]:
        text = TEXTS[number % len(TEXTS)]
        answer = client.completions.create(
            model="tiny", prompt=text, temperature=0, max_tokens=8, user=f"user {number}"
        )
        return answer.choices[0].text, expected[text]

    batches = {name: served.batch(server.maker) for name in ("v2", "v3")}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(20)]
        server.service.worker.serve(Route("draft", "v2", 0.5), batches)
        asked += [pool.submit(ask, number) for number in range(20, 60)]
        concurrent.futures.wait(asked[:50])
        server.service.worker.serve(Route("v2"), batches)
        asked += [pool.submit(ask, number) for number in range(60, 70)]
        for one in asked:
            found, wanted = one.result(60)
            assert found == wanted
    versions = [line["draft_version"] for _, line in json_lines(read_lines(log)[before - 1 :], log)]
    assert len(versions) == 70
    assert versions[-1] == "v2"
    assert 0 < versions.count("draft") < 50, "the old draft served until the new one came"
    assert "v3" not in versions, "no request was sent there"


def test_a_batch_that_fails_ends_its_requests_and_serves_the_next(
    server: Served, client: openai.OpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    from distillspec_jax.decoding.online import OnlineBatch

    visit, calls = OnlineBatch.visit, []

    def broken(self: OnlineBatch) -> Any:
        calls.append(self)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return visit(self)

    OnlineBatch.visit = broken  # type: ignore[method-assign]
    try:
        with pytest.raises(openai.InternalServerError, match="failed at this request"):
            client.completions.create(model="tiny", prompt="one", seed=7, max_tokens=8)
        assert client.completions.create(model="tiny", prompt="one", seed=7, max_tokens=8).choices[0].text
    finally:
        OnlineBatch.visit = visit  # type: ignore[method-assign]
    assert "out of memory" in capsys.readouterr().err


def test_a_log_goes_on_and_is_never_written_over_another_file(tmp_path: Path, log: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine\n")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        RequestLog(str(notes))
    assert notes.read_text() == "mine\n"
    before = log.read_text()
    RequestLog(str(log)).close()
    assert log.read_text() == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '{WHOLE}\n{"id": "cmpl-1", "time"',
            "{WHOLE}\n",
        ),  # with the next line, no line that watch could read
        ("{WHOLE}", "{WHOLE}\n"),
        ('{"id": "chatcmpl-1", "ti', ""),
    ],
)
def test_a_last_line_that_a_kill_cut_short_does_not_spoil_the_next(
    tmp_path: Path, before: str, after: str
) -> None:
    whole = '{"id": "cmpl-0", "finish_reason": "eos", "draft_version": "v1"}'
    path = tmp_path / "served.jsonl"
    path.write_text(before.replace("{WHOLE}", whole))
    RequestLog(str(path)).close()
    assert path.read_text() == after.replace("{WHOLE}", whole)
