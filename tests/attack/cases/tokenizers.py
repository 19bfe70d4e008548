"""Vocabularies of others: tokenizer.json and SentencePiece models that lie, explode or never end."""

from __future__ import annotations

from tests.attack.case import EITHER, REFUSED, Case, call

READ = "generate --model=chatty --input=asked.jsonl --output=out --max_new_tokens=4 --batch_size=2"
MADE = "convert --from=hf --input=hf --output=out"
GIVEN = "convert --from=t5x --input=t5x --mlp_activations=gelu,linear --tokenizer=given --output=out"

EDITS: tuple[tuple[str, str, str], ...] = (
    # part of tokenizer.json, Python that makes another of `it`, how it may end
    ("", "{}", REFUSED),
    ("", "{'model': {}}", REFUSED),
    ("version", "'9.9'", EITHER),
    ("version", "5", REFUSED),
    ("model", "None", REFUSED),
    ("model", "{'type': 'Nothing'}", REFUSED),
    (
        "model",
        "{'type': 'WordPiece', 'vocab': {'a': 0}, 'unk_token': '[UNK]', 'continuing_subword_prefix': '##', 'max_input_chars_per_word': 100}",
        REFUSED,
    ),
    ("model", "{'type': 'WordLevel', 'vocab': {'a': 0}, 'unk_token': '[UNK]'}", REFUSED),
    ("model", "{'type': 'Unigram', 'vocab': [], 'unk_id': 0}", REFUSED),
    ("model", "{'type': 'Unigram', 'vocab': [['a', 0.0]], 'unk_id': 99}", REFUSED),
    ("model", "{'type': 'Unigram', 'vocab': [['a', float('-1e308')]], 'unk_id': 0}", EITHER),
    ("model.vocab", "{}", REFUSED),
    ("model.vocab", "{k: -1 for k in it}", REFUSED),
    ("model.vocab", "{k: 4_000_000_000 + v for k, v in it.items()}", REFUSED),
    ("model.vocab", "{k: 2 ** 40 + v for k, v in it.items()}", REFUSED),
    ("model.vocab", "{k: 0 for k in it}", EITHER),
    ("model.vocab", "{k: v + 1000 for k, v in it.items()}", EITHER),
    ("model.vocab", "{k: v for k, v in it.items() if v % 2}", EITHER),
    ("model.vocab", "{'\\ud800': 0}", REFUSED),
    ("model.merges", "[['a', 'nothing here']]", REFUSED),
    ("model.merges", "['a']", REFUSED),
    ("model.merges", "[['a', 'b', 'c']]", REFUSED),
    ("model.merges", "[]", EITHER),
    ("model.merges", "it * 1000", EITHER),
    ("model.unk_token", "'[UNK]'", EITHER),
    ("model.dropout", "5", EITHER),
    ("model.dropout", "0.5", EITHER),
    ("model.cache_capacity", "2 ** 60", EITHER),
    ("added_tokens", "[]", EITHER),
    ("added_tokens", "[it[0] | {'id': 4_000_000_000}]", EITHER),
    ("added_tokens", "[it[0] | {'id': -1}]", REFUSED),
    ("added_tokens", "[it[0] | {'content': ''}]", EITHER),
    ("added_tokens", "[it[0] | {'content': 'x' * 1_000_000}]", EITHER),
    ("added_tokens", "it * 1000", EITHER),
    ("added_tokens", "[it[0] | {'id': 280 + i, 'content': 't%d' % i} for i in range(20_000)]", EITHER),
    ("normalizer", "{'type': 'Nothing'}", REFUSED),
    ("normalizer", "{'type': 'Replace', 'pattern': {'Regex': '('}, 'content': 'x'}", REFUSED),
    ("normalizer", "{'type': 'Replace', 'pattern': {'Regex': '(a+)+b'}, 'content': 'x'}", EITHER),
    ("normalizer", "{'type': 'Replace', 'pattern': {'Regex': '(.*)*(.*)*(.*)*x'}, 'content': 'x'}", EITHER),
    ("normalizer", "{'type': 'Replace', 'pattern': {'String': ''}, 'content': 'xx'}", EITHER),
    (
        "normalizer",
        "{'type': 'Sequence', 'normalizers': [{'type': 'Replace', 'pattern': {'Regex': '.'}, 'content': 'ab' * 50}] * 8}",
        REFUSED,
    ),
    (
        "normalizer",
        "{'type': 'Sequence', 'normalizers': [{'type': 'Replace', 'pattern': {'String': 'a'}, 'content': 'a' * 1000}] * 4}",
        REFUSED,
    ),
    ("normalizer", "{'type': 'Prepend', 'prepend': 'x' * 1_000_000}", EITHER),
    ("normalizer", "{'type': 'Precompiled', 'precompiled_charsmap': 'AAAA'}", EITHER),
    ("normalizer", "{'type': 'Precompiled', 'precompiled_charsmap': '!'}", REFUSED),
    ("pre_tokenizer", "{'type': 'Nothing'}", REFUSED),
    (
        "pre_tokenizer",
        "{'type': 'Split', 'pattern': {'Regex': '(?=(a+)+$)b'}, 'behavior': 'Isolated', 'invert': False}",
        EITHER,
    ),
    (
        "pre_tokenizer",
        "{'type': 'Split', 'pattern': {'Regex': '((a*)*)*b'}, 'behavior': 'Isolated', 'invert': False}",
        EITHER,
    ),
    (
        "pre_tokenizer",
        "{'type': 'Split', 'pattern': {'Regex': '(' * 10_000}, 'behavior': 'Isolated', 'invert': False}",
        REFUSED,
    ),
    (
        "pre_tokenizer",
        "{'type': 'Split', 'pattern': {'Regex': ''}, 'behavior': 'Isolated', 'invert': False}",
        EITHER,
    ),
    (
        "pre_tokenizer",
        "{'type': 'Split', 'pattern': {'Regex': 'a{1000000}'}, 'behavior': 'Isolated', 'invert': False}",
        EITHER,
    ),
    ("pre_tokenizer", "{'type': 'Sequence', 'pretokenizers': []}", EITHER),
    ("pre_tokenizer", "None", EITHER),
    (
        "post_processor",
        "{'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': '[CLS]', 'type_id': 0}}, {'Sequence': {'id': 'A', 'type_id': 0}}], 'pair': [], 'special_tokens': {}}",
        REFUSED,
    ),
    (
        "post_processor",
        "{'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': 'x', 'type_id': 0}}], 'pair': [], 'special_tokens': {'x': {'id': 'x', 'ids': [4_000_000_000], 'tokens': ['x']}}}",
        REFUSED,
    ),
    ("post_processor", "{'type': 'BertProcessing', 'sep': ['[SEP]', 9999], 'cls': ['[CLS]', 9998]}", EITHER),
    ("post_processor", "{'type': 'Sequence', 'processors': []}", EITHER),
    ("post_processor", "None", EITHER),
    ("decoder", "{'type': 'Nothing'}", REFUSED),
    ("decoder", "{'type': 'Replace', 'pattern': {'Regex': '(.*)*x'}, 'content': ''}", EITHER),
    ("decoder", "{'type': 'Replace', 'pattern': {'Regex': '.'}, 'content': 'y' * 1_000_000}", EITHER),
    ("decoder", "{'type': 'Strip', 'content': 'a', 'start': 2 ** 60, 'stop': 2 ** 60}", EITHER),
    ("decoder", "{'type': 'Sequence', 'decoders': [{'type': 'ByteFallback'}] * 1000}", EITHER),
    ("decoder", "None", EITHER),
    (
        "truncation",
        "{'direction': 'Right', 'max_length': 0, 'strategy': 'LongestFirst', 'stride': 0}",
        EITHER,
    ),
    (
        "truncation",
        "{'direction': 'Right', 'max_length': 4, 'strategy': 'LongestFirst', 'stride': 9}",
        EITHER,
    ),
    (
        "padding",
        "{'strategy': {'Fixed': 1_000_000_000}, 'direction': 'Right', 'pad_to_multiple_of': None, 'pad_id': 0, 'pad_type_id': 0, 'pad_token': 'x'}",
        EITHER,
    ),
)
CONTENTS: tuple[tuple[str, str], ...] = (
    ("", REFUSED),
    ("{", REFUSED),
    ("{}", REFUSED),
    ("[]", REFUSED),
    ("null", REFUSED),
    ("mine", REFUSED),
    ("\x00" * 1000, REFUSED),
    ("\x0a" * 1000, REFUSED),
    ("{" * 100_000, REFUSED),
    ('{"a":' * 100_000, REFUSED),
    ('{"version": "1.0", "model": ' + "[" * 100_000, REFUSED),
    ("\udcff" * 100, REFUSED),
)


def cases() -> list[Case]:
    found = []
    for part, change, may in EDITS:
        prepared = (("json", "chatty/tokenizer.json", part, change), ("resign", "chatty"))
        found.append(call("tokenizers", READ, *prepared, may=may))
        found.append(call("tokenizers", MADE, ("json", "hf/tokenizer.json", part, change), may=EITHER))
    for content, may in CONTENTS:
        found.append(
            call(
                "tokenizers", READ, ("write", "chatty/tokenizer.json", content), ("resign", "chatty"), may=may
            )
        )
        found.append(call("tokenizers", MADE, ("write", "hf/tokenizer.json", content), may=EITHER))
        found.append(call("tokenizers", GIVEN, ("write", "given", content), may=may))
    for ids in ("99999", "-1", "1.5", "", "9" * 30, "1,1", "0"):
        found.append(call("tokenizers", f"{MADE} --eos_ids={ids}", may=EITHER))
    found.append(call("tokenizers", GIVEN, may=REFUSED))
    found.append(call("tokenizers", GIVEN, ("mkdir", "given"), may=REFUSED))
    return found
