"""tokenizer.json files behind the same class as SentencePiece models, against the library itself."""

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization import confinement
from distillspec_jax.tokenization.prompt_reader import Reader
from distillspec_jax.tokenization.tokenizer import Tokenizer
from tests.data.hub import BOS, CORPUS, EOS, byte_level


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_bytes(byte_level(), [EOS])


def bytes_with_fallback(prepended: bool = False) -> bytes:
    """As Llama's: spaces are written U+2581, and what no piece spells is spelt in bytes.

    Args:
      prepended: a text begins with a space more, which decoding takes off.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    )
    library = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if prepended else "never")
    library.train_from_iterator(CORPUS, trainer)
    strip = [decoders.Strip(" ", 1, 0)] if prepended else []
    library.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    content = json.loads(library.to_str())
    # Byte pieces are pieces, not special tokens.
    content["added_tokens"] = content["added_tokens"][:3]
    return json.dumps(content).encode()


@given(st.text())
def test_a_text_comes_back_and_ids_are_the_librarys(tokenizer, text):
    ids = tokenizer.encode(text)
    assert (
        ids == tokenizers.Tokenizer.from_str(byte_level().decode()).encode(text, add_special_tokens=False).ids
    )
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(("kind", "eos"), [(byte_level, EOS), (bytes_with_fallback, 2)])
def test_pieces_spell_the_text(kind, eos):
    tokenizer = Tokenizer.from_bytes(kind(), [eos])
    for text in ("the cat sat", "Grüße 🙂"):
        assert b"".join(map(tokenizer.piece_bytes, tokenizer.encode(text))) == text.encode()
    assert tokenizer.piece_bytes(eos) == b""
    assert tokenizer.piece(tokenizer.encode(" the")[0]) in " the"


def with_metaspace() -> bytes:
    content = json.loads(bytes_with_fallback(prepended=True))
    content["decoder"] = json.loads(decoders.Metaspace(prepend_scheme="always").__getstate__())
    return json.dumps(content).encode()


@pytest.mark.parametrize("kind", [lambda: bytes_with_fallback(prepended=True), with_metaspace])
def test_the_first_piece_loses_the_space_that_decoding_takes_off(kind):
    tokenizer = Tokenizer.from_bytes(kind(), [2])
    first, *rest = ids = tokenizer.encode("the cat")
    assert tokenizer.piece_bytes(first)[:1] == b" "
    spelt = tokenizer.first_piece_bytes(first) + b"".join(map(tokenizer.piece_bytes, rest))
    assert spelt == tokenizer.decode(ids).encode() == b"the cat"


def test_a_text_ends_where_it_is_told(tokenizer):
    cat, dog = tokenizer.encode("cat"), tokenizer.encode("dog")
    assert tokenizer.decode([*cat, EOS, *dog]) == "cat"
    other = Tokenizer.from_bytes(byte_level(), [BOS])
    assert other.decode([*cat, EOS, *dog]) == "catdog"  # special, and so no text
    assert (other.eos_id, other.eos_ids) == (BOS, (BOS,))
    assert other.decode([*cat, 99_999]) == "cat"


def test_nothing_is_padding(tokenizer):
    assert tokenizer.encode("!") == [0]
    assert tokenizer.padding_ids == ()


def test_prompts_begin_as_the_library_begins_them(tokenizer):
    assert tokenizer.first_ids == [BOS]
    cat = tokenizer.encode("the cat")
    assert Reader(tokenizer, ends_with_eos=False).prompt("the cat") == [BOS, *cat]
    assert Reader(tokenizer).prompt("the cat") == [BOS, *cat, EOS]
    plain = Tokenizer.from_bytes(byte_level(bos=False), [EOS])
    assert plain.first_ids == []
    assert Reader(plain, ends_with_eos=False).prompt("") == [EOS]


def test_what_is_no_tokenizer_is_named():
    with pytest.raises(UsageError, match=r"not a tokenizer\.json: "):
        Tokenizer.from_bytes(b'{"version": "1.0"}', [1])
    with pytest.raises(UsageError, match="does not tell which of its tokens ends a text"):
        Tokenizer.from_bytes(byte_level())


def changed(**parts) -> bytes:
    return json.dumps(json.loads(byte_level()) | parts).encode()


def of_words(**words: int) -> bytes:
    """One word a token, and no word for what is unknown."""
    return json.dumps({"model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}}).encode()


def pattern(expression: str) -> dict:
    return {"type": "Replace", "pattern": {"Regex": expression}, "content": "aaaaaaaaaa"}


def test_a_tokenizer_that_could_not_serve_is_refused_in_one_line():
    """Ids of billions made tables of as many rows; the others raised what no handler caught."""
    for content, said in (
        (of_words(a=4_000_000_000), "its largest id is 4000000000, of 1 tokens"),
        (changed(model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]), "its largest id is -1"),
        (of_words(b=0), "WordLevel error: Missing"),
        (byte_level()[:100], "not a tokenizer.json: "),
        (b"{" * 100_000, "not a tokenizer.json: "),
    ):
        with pytest.raises(UsageError) as caught:
            Tokenizer.from_bytes(content, [0])
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("normalizer", "text", "said"),
    [
        (pattern("(x+x+)+y"), "x" * 60, "Onig: Regex search error: retry-limit"),
        (pattern("(x+x+)+y"), ("x" * 19 + "z") * 300, "it takes more than 0 s"),
        ({"type": "Sequence", "normalizers": [pattern("a")] * 9}, "a", "it needs more than "),
    ],
    ids=["backtracks", "backtracks often", "explodes"],
)
def test_a_text_that_a_tokenizer_cannot_bear_is_named(normalizer, text, said, monkeypatch):
    """The first had no end, and the second ended the process that called it."""
    content = changed(normalizer=normalizer)
    if said.startswith("it needs"):
        monkeypatch.setattr(confinement, "SECONDS", 30)  # a slow machine's time is not what ends it
        with pytest.raises(UsageError, match=f"the tokenizer cannot be read: {said}"):
            Tokenizer.from_bytes(content, [EOS])
        return
    monkeypatch.setattr(confinement, "SECONDS", 0)
    tokenizer = Tokenizer.from_bytes(content, [EOS])
    with pytest.raises(
        UsageError, match=f"^the tokenizer cannot encode a text of {len(text):,} characters: {said}"
    ):
        tokenizer.encode(text)
    assert tokenizer.encode("the cat") == Tokenizer.from_bytes(byte_level(), [EOS]).encode("the cat")
