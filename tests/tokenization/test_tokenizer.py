import hashlib
import io

import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from distillspec_jax.data import catalog, train_vocabulary
from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization.tokenizer import EMBEDDED_MODEL, Tokenizer, embedded_tokenizer
from tests.data.hub import CORPUS

# Mostly what default SentencePiece settings destroy, and pieces that a text could be taken for.
NASTY = st.text(
    st.sampled_from("a B7\n\r\t ½äß😀\u2581\u00a0\u200d\u0000#=<>") | st.characters(codec="utf-8")
)


@given(NASTY)
@example("")
@example(" leading, trailing ")
@example("two  spaces\n\n\ttab\r\n")
@example("\u2581")
@example("a\u2581\u2581 b\u2581")
@example("½ cup, 3½ miles 😀 👩‍👩‍👧 Größenänderung €")
@example("<unk> </s> <pad> <0x41> \u2047")
@example("e\u0301 \ufb01 \u3000")  # what NFKC would fold
def test_decode_undoes_encode_exactly(text):
    tokenizer = embedded_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id} & set(ids)


def test_every_embedded_test_row_survives():
    tokenizer = embedded_tokenizer()
    newlines = 0
    for spec in catalog.EMBEDDED_TASKS.values():
        for row in catalog.read_rows(spec, "test"):
            newlines += row["targets"].count("\n")
            for text in row.values():
                assert tokenizer.decode(tokenizer.encode(text)) == text
    assert newlines >= 500  # every gsm_symbolic answer has one


def test_special_ids_and_size():
    tokenizer = embedded_tokenizer()
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.vocab_size) == (0, 1, 2, 4096)


def test_newline_and_digits_are_pieces_of_their_own():
    tokenizer = embedded_tokenizer()
    assert len(tokenizer.encode("\n")) == 1
    assert len(tokenizer.encode("2024")) == 4


def test_the_first_piece_of_a_text_keeps_its_space_where_decoding_does():
    """By default SentencePiece puts a space before every text, and takes it off again."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    spaced, embedded = Tokenizer.from_bytes(model.getvalue()), embedded_tokenizer()
    first, *rest = ids = spaced.encode("the cat")
    assert spaced.piece_bytes(first)[:1] == b" "
    spelt = spaced.first_piece_bytes(first) + b"".join(map(spaced.piece_bytes, rest))
    assert spelt == spaced.decode(ids).encode() == b"the cat"
    assert spaced.first_piece_bytes(2) == spaced.decode([2]).encode()  # the unknown piece keeps its space
    assert all(embedded.first_piece_bytes(i) == embedded.piece_bytes(i) for i in range(embedded.vocab_size))


def test_decode_stops_at_eos_and_drops_padding():
    tokenizer = embedded_tokenizer()
    word = tokenizer.encode("Apache")
    assert tokenizer.decode([0, *word, 0, 1, *word]) == "Apache"
    high, low = tokenizer.encode("½")
    assert tokenizer.decode([high, 0, low]) == "½"
    assert tokenizer.decode([]) == tokenizer.decode([1, *word]) == ""


def test_ids_of_padded_embedding_rows_read_as_unknown():
    tokenizer = embedded_tokenizer()
    assert tokenizer.decode([4096]) == tokenizer.decode([tokenizer.unk_id]) == tokenizer.decode([-1]) != ""


def test_half_a_character_reads_as_replacement():
    tokenizer = embedded_tokenizer()
    assert tokenizer.decode(tokenizer.encode("½")[:1]) == "\ufffd"


def test_bytes_carry_the_whole_tokenizer():
    original = embedded_tokenizer()
    copy = Tokenizer.from_bytes(original.model_bytes)
    assert copy == original
    assert copy.encode("Größe ½\n") == original.encode("Größe ½\n")
    assert copy.fingerprint == hashlib.sha256(EMBEDDED_MODEL.read_bytes()).hexdigest()


def test_lone_surrogate_is_refused_by_position():
    with pytest.raises(UsageError, match=r"'\\ud800' at character 2"):
        embedded_tokenizer().encode("ab\ud800")


def test_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.model.*No such file"):
        Tokenizer.from_file(tmp_path / "absent.model")
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(UsageError, match=r"text\.model.*: neither a SentencePiece model .*b'not a mod"):
        Tokenizer.from_file(tmp_path / "text.model")
    with pytest.raises(UsageError, match="neither a SentencePiece model nor"):
        Tokenizer.from_bytes(b"")


def test_training_a_vocabulary_is_deterministic_and_lossless():
    lines = [row["inputs"] for row in catalog.read_rows(catalog.GSM_SYMBOLIC, "validation")]
    model = train_vocabulary.train(lines, vocabulary_size=500)
    assert train_vocabulary.train(lines, vocabulary_size=500) == model
    tokenizer = Tokenizer.from_bytes(model)
    assert tokenizer.vocab_size == 500
    assert tokenizer.decode(tokenizer.encode("tea  ½\n\tplus Ω\u2581")) == "tea  ½\n\tplus Ω\u2581"
    assert tokenizer.fingerprint != embedded_tokenizer().fingerprint


@pytest.mark.slow
def test_the_shipped_vocabulary_is_the_one_that_the_script_makes():
    assert train_vocabulary.train(train_vocabulary.training_lines()) == EMBEDDED_MODEL.read_bytes()
