"""Lines that ask: requests of generate, prompts of sweeps and advice, rows of training files."""

from __future__ import annotations

from tests.attack.case import EITHER, REFUSED, Case, call
from tests.attack.cases.commands import FINETUNE
from tests.attack.cases.schemas import VALUES, WHOLE

ASKED = "generate --model=target --input=asked.jsonl --output=out --max_new_tokens=4 --batch_size=2"
READERS = (
    ASKED,
    "generate --model=target --drafter=draft --input=asked.jsonl --output=out --max_new_tokens=4 --num_samples=2",
    "sweep --target=target --drafter=d=draft --inputs=asked.jsonl --output_dir=out --metric=rouge",
    "advise --target=target --drafter=draft --inputs=asked.jsonl --output=out",
)
OPTIONS = ("temperature", "top_k", "top_p", "max_new_tokens")
"""Fields of a line that `generate` goes by; sweeps and advice have settings of their own."""
FIELDS = (
    "inputs",
    "id",
    "targets",
    *OPTIONS,
    "sample",
    "outputs",
    "tokens",
)
LINES: tuple[tuple[str, str], ...] = (
    # content, how it may end
    ('{"inputs": 5}', REFUSED),
    ('{"input": "a"}', REFUSED),
    ('{"inputs": "a", "id": 1}\n{"inputs": "b", "id": 1}', REFUSED),
    ('{"inputs": "a", "inputs": 5}', REFUSED),
    ('{"inputs": "' + "a " * 100_000 + '"}', REFUSED),
    ('{"inputs": "' + "a" * 10_000_000 + '"}', REFUSED),
    ('{"inputs": "\\ud83d"}', REFUSED),
    ('{"inputs": "\\u0000"}', EITHER),
    ('{"inputs": "\\u001b[31m"}', EITHER),
    ('{"inputs": ""}', EITHER),
    ('{"inputs": "\\u2028"}', EITHER),
    ('{"inputs": "a", "temperature": -1}', REFUSED),
    ('{"inputs": "a", "temperature": "hot"}', REFUSED),
    ('{"inputs": "a", "temperature": true}', REFUSED),
    ('{"inputs": "a", "temperature": 1e400}', REFUSED),
    ('{"inputs": "a", "temperature": 1e-310}', EITHER),
    ('{"inputs": "a", "top_k": 1.5}', REFUSED),
    ('{"inputs": "a", "top_k": 1000000000000}', EITHER),
    ('{"inputs": "a", "top_k": -1}', REFUSED),
    ('{"inputs": "a", "top_p": 2}', REFUSED),
    ('{"inputs": "a", "top_p": 0}', REFUSED),
    ('{"inputs": "a", "max_new_tokens": 0}', REFUSED),
    ('{"inputs": "a", "max_new_tokens": 100000000}', REFUSED),
    ('{"inputs": "a", "max_new_tokens": 2147483647}', REFUSED),
    ('{"inputs": "a", "max_new_tokens": ' + "9" * 30 + "}", REFUSED),
    ('{"inputs": "a", "max_new_tokens": ' + "9" * 5000 + "}", REFUSED),
    ('{"inputs": "a", "max_new_tokens": null}', REFUSED),
    ('{"inputs": "a", "deep": ' + "[" * 100_000 + "]" * 100_000 + "}", REFUSED),
    ('{"inputs": "a", "deep": ' + "[" * 900 + "]" * 900 + "}", EITHER),
    ('{"inputs": "a", "number": NaN}', REFUSED),
    ('{"inputs": "a", "number": Infinity}', REFUSED),
    ('{"inputs": "a", "number": ' + "9" * 5000 + "}", REFUSED),
    ('{"inputs": "a", "text": "\\udfff"}', REFUSED),
    ('{"inputs": "a"', REFUSED),
    ('{"inputs": "a"},', REFUSED),
    ('["a"]', REFUSED),
    ('"a"', REFUSED),
    ("inputs: a", REFUSED),
    ('{"inputs": "a"}\r\n{"inputs": "b"}\r\n', EITHER),
    ('{"inputs": "a"}\r{"inputs": "b"}', REFUSED),
    ("\ufeff" + '{"inputs": "a"}', EITHER),
    ('{"inputs": "\udcff"}', REFUSED),
    ("\x00" * 1000, REFUSED),
)
ROWS: tuple[str, ...] = (
    "",
    "\n",
    "{}",
    '{"inputs": 1, "targets": 2}',
    '{"inputs": "a"}',
    '{"inputs": "a", "targets": "b"',
    '{"inputs": "a", "targets": null}',
    '{"inputs": "\\ud800", "targets": "b"}',
    '{"inputs": "\udcff", "targets": "b"}',
    '{"inputs": "a", "targets": ' + "[" * 100_000,
    '{"inputs": "a", "targets": ' + "9" * 5000 + "}",
    "[1]",
)


def cases() -> list[Case]:
    found = []
    for line in READERS:
        for text, may in LINES:
            asks = line in READERS[:2] or not any(f'"{option}"' in text for option in OPTIONS)
            may = may if asks else EITHER
            found.append(call("requests", line, ("write", "asked.jsonl", text), may=may))
    for name in FIELDS:
        for value in VALUES:
            found.append(call("requests", ASKED, ("field", "asked.jsonl:2", name, value), may=EITHER))
    found += [
        call("requests", line, ("write", "asked.jsonl", text), may=EITHER)
        for text in WHOLE
        for line in READERS[2:]
    ]
    for text, may in LINES:
        from_stdin = "generate --model=target --output=out --max_new_tokens=4 --batch_size=2"
        found.append(call("requests", from_stdin, stdin=text, may=may))
    for name in ("train.jsonl", "valid.jsonl"):
        for text in ROWS:
            line = f"{FINETUNE} --gin.MODEL_DIR=out"
            found.append(call("requests", line, ("write", name, text), may=REFUSED))
    return found
