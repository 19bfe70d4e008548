"""Who is let in, how much may wait, and what is decided without a model."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path

import httpx2 as httpx
import pytest

from distillspec_jax.cli import errors, serve
from distillspec_jax.errors import UsageError
from distillspec_jax.serving.access import Access
from distillspec_jax.serving.routing import Route, position
from distillspec_jax.serving.text_stream import TextStream
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
from tests.serving import served

TOKEN = "a-token-of-20-letters"


@pytest.fixture
def tokens_file(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.write_text(f"# ours\n{TOKEN}\n\nanother-token-of-27-letters\n")
    return str(path)


def test_tokens_and_a_full_queue(tokens_file: str) -> None:
    made = served.maker()
    with served.serving(
        made, {"none": made.batch([])}, Route("none"), outputs=4, tokens_file=tokens_file
    ) as server:
        url, body = f"{server.url}/v1/completions", {"prompt": "one", "seed": 7, "max_tokens": 8}
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
            refused = httpx.post(url, json=body, headers=header)
            assert refused.status_code == 401
            assert refused.json()["error"]["type"] == "authentication_error"
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/metrics").status_code == 200
        header = {"authorization": f"bearer {TOKEN}"}
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(
                pool.map(lambda _: httpx.post(url, json={**body, "n": 2}, headers=header), range(32))
            )
        statuses = {answer.status_code for answer in answers}
        assert statuses == {200, 429}
        assert (
            len({answer.json()["choices"][1]["text"] for answer in answers if answer.status_code == 200}) == 1
        )
        full = next(answer for answer in answers if answer.status_code == 429)
        assert int(full.headers["retry-after"]) >= 1
        assert full.json()["error"]["type"] == "rate_limit_error"
        counted = httpx.get(f"{server.url}/metrics").text
        refusals = sum(answer.status_code == 429 for answer in answers)
        assert f'refused_requests_total{{model_name="tiny",status="429"}} {refusals}.0' in counted
        server.service.worker.close()  # as a batch that cannot be reset would end it
        server.service.worker.join(60)
        assert httpx.get(f"{server.url}/ready").status_code == 503
        late = httpx.post(url, json=body, headers=header, timeout=60)
        assert (late.status_code, late.json()["error"]["message"]) == (503, "the server is not ready")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no token"),
        ("# nothing\n", "holds no token"),
        ("short\n", ":1: a token has at least 16"),
        ("ä" * 9 + " " + "b" * 9, ":1:"),
    ],
)
def test_a_file_of_tokens_that_protects_nothing_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(UsageError, match=said):
        Access(str(path))
    with pytest.raises(UsageError, match="No such file"):
        Access(str(tmp_path / "missing"))


def test_a_share_of_the_keys_goes_to_the_candidate_and_keeps_going_there() -> None:
    keys = [f"user {i}" for i in range(20_000)]
    small, large = Route("v1", "v2", 0.1), Route("v1", "v2", 0.5)
    first = {key for key in keys if small.draft(key) == "v2"}
    assert len(first) / len(keys) == pytest.approx(0.1, abs=0.01)
    assert first < {key for key in keys if large.draft(key) == "v2"}
    assert {Route("v1", "v2", 1.0).draft(key) for key in keys} == {"v2"}
    assert {Route("v1", "v2", 0.0).draft(key) for key in keys} == {Route("v1").draft("x")} == {"v1"}
    others = {key for key in keys if position("v3", key) < 0.1}
    assert len(first & others) / len(keys) == pytest.approx(0.01, abs=0.005), (
        "another order for each candidate"
    )


@pytest.mark.parametrize(
    ("candidate", "share"), [("v2", 1.1), ("v2", -0.1), (None, 0.1), ("v2", float("nan"))]
)
def test_an_impossible_share_is_refused(candidate: str | None, share: float) -> None:
    with pytest.raises(UsageError, match="share"):
        Route("v1", candidate, share)


def test_no_draft_beside_a_draft_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """`none` was dropped without a word."""
    argv = ["--model=nowhere", "--drafter=none", "--drafter=lookup"]
    assert errors.run(serve.main, argv, command="serve") == 2
    assert "--drafter=none beside --drafter=lookup: choose one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("Zürich and Köln are 東京 🚀.", (), "Zürich and Köln are 東京 🚀."),
        ("Zürich and Köln are 東京 🚀.", ("Köln",), "Zürich and "),
        ("one two three two", ("wo t", "two"), "one "),
        ("aaab", ("aab",), "a"),
        ("never", ("verily", "ERs"), "never"),
    ],
)
def test_a_stream_hands_out_whole_characters_and_nothing_of_a_stop_string(
    text: str, stop: tuple[str, ...], expected: str
) -> None:
    tokenizer = embedded_tokenizer()
    ids = tokenizer.encode(text)
    for size in (1, 2, 5):
        stream, said = TextStream(tokenizer, stop), []
        for begin in range(0, len(ids), size):
            said.append(stream.push(ids[begin : begin + size], done=begin + size >= len(ids)))
            assert expected.startswith("".join(said)), "what was sent cannot be taken back"
        assert "".join(said) == stream.sent == expected
        assert stream.stopped == (expected != text)
        # The last token that counts is the one that completes the stop string.
        if stream.stopped:
            assert not any(one in tokenizer.decode(stream.tokens[:-1]) for one in stop)
            assert any(one in tokenizer.decode(stream.tokens) for one in stop)
