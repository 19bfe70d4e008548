import dataclasses
import gzip
import json
import subprocess
import sys

import pytest

from distillspec_jax.data import catalog
from distillspec_jax.data.text_sources import Files
from distillspec_jax.errors import UsageError

ROWS = {
    "wiki_leads": (7643, 400, 400),
    "office_help_ende": (24007, 500, 500),
    "gsm_symbolic": (9000, 500, 500),
}


def spec_over(path, **changes):
    settings = {
        "name": "letters",
        "description": "",
        "prefix": "say: ",
        "inputs_field": "question",
        "targets_field": "answer",
        "source": Files.one_each({"train": path}),
        "metric": "none",
        "feature_lengths": {"inputs": 8, "targets": 8},
        "licence": "none",
    }
    return catalog.TaskSpec(**{**settings, **changes})


@pytest.mark.parametrize("name", catalog.EMBEDDED_TASKS)
def test_every_split_is_readable_whole_and_disjoint(name):
    spec = catalog.find_task(name)
    splits = [[tuple(row.values()) for row in catalog.read_rows(spec, split)] for split in catalog.SPLITS]
    assert tuple(map(len, splits)) == ROWS[name]
    assert all(inputs and targets for rows in splits for inputs, targets in rows)
    assert len({row for rows in splits for row in rows}) == sum(map(len, splits))


@pytest.mark.parametrize("name", catalog.EMBEDDED_TASKS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_default_lengths_hold_99_percent(name, split):
    spec = catalog.find_task(name)
    tokenizer = catalog.tokenizer(spec)
    rows = list(catalog.read_rows(spec, split))
    fitting = {"inputs": 0, "targets": 0}
    for row in rows:
        fitting["inputs"] += (
            len(tokenizer.encode(spec.prefix + row["inputs"])) < spec.feature_lengths["inputs"]
        )
        fitting["targets"] += len(tokenizer.encode(row["targets"])) < spec.feature_lengths["targets"]
    assert fitting["targets"] >= 0.99 * len(rows)
    assert fitting["inputs"] >= (0.8 if name == "wiki_leads" else 0.99) * len(rows)
    assert all(length % 32 == 0 for length in spec.feature_lengths.values())


def test_a_lead_is_one_text_however_much_of_it_is_given():
    text, continued = (catalog.find_task(name) for name in ("wiki_text", "wiki_continued"))
    tokenizer = catalog.tokenizer(text)
    rows = list(zip(catalog.read_rows(text, "test"), catalog.read_rows(continued, "test"), strict=True))
    assert len(rows) == ROWS["wiki_leads"][2]
    assert all(row["inputs"] == "" for row, _ in rows)
    assert all(row["targets"] == more["inputs"] + more["targets"] for row, more in rows)
    assert {len(more["inputs"].split()) for _, more in rows} == {8}
    fitting = sum(len(tokenizer.encode(row["targets"])) < text.feature_lengths["targets"] for row, _ in rows)
    assert fitting >= 0.99 * len(rows)
    first, more = rows[0]
    whole = tokenizer.encode(first["targets"])
    assert tokenizer.encode(more["inputs"]) + tokenizer.encode(more["targets"]) == whole


def test_mixture_covers_every_task_and_its_lengths():
    assert set(catalog.EMBEDDED_MIXTURE_RATES) == set(catalog.EMBEDDED_TASKS)
    for feature, length in catalog.EMBEDDED_MIXTURE_LENGTHS.items():
        assert length == max(spec.feature_lengths[feature] for spec in catalog.EMBEDDED_TASKS.values())
    for name, rate in catalog.EMBEDDED_MIXTURE_RATES.items():
        assert rate == min(ROWS[name][0], 12_000)


@pytest.mark.parametrize(
    "name, primary", [("wiki_leads", "rougeL"), ("office_help_ende", "bleu"), ("gsm_symbolic", "exact_match")]
)
def test_primary_metric(name, primary):
    assert catalog.find_task(name).primary_metric == primary


def test_unknown_task_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown task 'wiki_lead': did you mean 'wiki_leads'\?"):
        catalog.find_task("wiki_lead")


def test_unknown_split_names_the_nearest():
    with pytest.raises(UsageError, match=r"'gsm_symbolic' has no split 'valid': did you mean 'validation'\?"):
        next(catalog.read_rows(catalog.GSM_SYMBOLIC, "valid"))


@pytest.mark.parametrize("compressed", [False, True])
def test_rows_are_the_two_fields_in_order(tmp_path, compressed):
    text = '{"question": "½", "answer": "a\\nb", "id": 7}\n\n{"answer": "d", "question": ""}\n'
    path = tmp_path / ("rows.jsonl.gz" if compressed else "rows.jsonl")
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    assert list(catalog.read_rows(spec_over(path), "train")) == [
        {"inputs": "½", "targets": "a\nb"},
        {"inputs": "", "targets": "d"},
    ]


@pytest.mark.parametrize(
    "line, complaint",
    [
        ('{"question": "x", "answer"}', r"malformed JSON \(Expecting ':' delimiter, column 27\)"),
        ('{"question": "x", "anwser": "y"}', r"no field 'answer': did you mean 'anwser'\?"),
        ('{"question": 3, "answer": "y"}', "field 'question' must be text, got int"),
        ('{"question": "x", "answer": null}', "field 'answer' must be text, got NoneType"),
        ('["x", "y"]', "expected a JSON object, got list"),
        ('{"question": "\\ud800", "answer": "y"}', "field 'question' holds a lone surrogate"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "x", "answer": "y"}) + "\n\n" + line + "\n")
    with pytest.raises(UsageError, match=rf"rows\.jsonl:3: {complaint}"):
        list(catalog.read_rows(spec_over(path), "train"))


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"'letters': cannot read .*absent\.jsonl.*No such file"):
        list(catalog.read_rows(spec_over(tmp_path / "absent.jsonl"), "train"))
    (tmp_path / "latin.jsonl").write_bytes('{"question": "é"}'.encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.jsonl:1: not UTF-8"):
        list(catalog.read_rows(spec_over(tmp_path / "latin.jsonl"), "train"))
    (tmp_path / "plain.jsonl.gz").write_text("{}")
    with pytest.raises(UsageError, match=r"plain\.jsonl\.gz.*gzip"):
        list(catalog.read_rows(spec_over(tmp_path / "plain.jsonl.gz"), "train"))
    whole = gzip.compress(b'{"question": "x", "answer": "y"}\n' * 99)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(UsageError, match=r"cut\.jsonl\.gz"):
        list(catalog.read_rows(spec_over(tmp_path / "cut.jsonl.gz"), "train"))


def test_a_task_name_means_one_task(tmp_path):
    spec = spec_over(tmp_path / "rows.jsonl", name="test_catalog_one")
    catalog.add_task(spec)
    catalog.add_task(dataclasses.replace(spec))
    assert catalog.find_task("test_catalog_one") is spec
    with pytest.raises(UsageError, match="'test_catalog_one' is taken"):
        catalog.add_task(dataclasses.replace(spec, prefix="other: "))


@pytest.mark.parametrize(
    "lengths",
    [{"inputs": 8}, {"inputs": 8, "targets": 1}, {"inputs": 8, "targets": 8.5}, {"input": 8, "targets": 8}],
)
def test_impossible_lengths(lengths):
    with pytest.raises(UsageError, match=r"length.*(inputs|targets)"):
        catalog.check_lengths(lengths)


def test_the_text_modules_leave_tensorflow_out():
    modules = ("catalog", "text_sources", "text_metrics", "examples", "train_vocabulary")
    code = "import sys\nimport distillspec_jax.tokenization.tokenizer\n"
    code += "\n".join(f"import distillspec_jax.data.{module}" for module in modules)
    code += "\nprint(sorted({'tensorflow', 'seqio', 'jax', 'gin'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
