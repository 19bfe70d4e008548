"""The tasks of arXiv 2310.08461, on published data that does not come with the package. No TensorFlow here.

XSum, CNN/DailyMail, WMT14 English to German, GSM8K and LM1B are read through TFDS. TFDS lacks the 23
BIG-Bench-Hard tasks (in 27 files), which are read from their authors' files. If data is missing, the error
names the command that fetches it.

Prefixes are T5's where T5 has one. GSM8K and BIG-Bench-Hard share one, so a pair trained on the first
transfers to the second in a familiar format. Lengths and metrics have not been checked against the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distillspec_jax.data.task_spec import TaskSpec
from distillspec_jax.data.text_sources import Files, TextSource, Tfds, default_data_dir

_WHOLE = {"train": "train", "validation": "validation", "test": "test"}
# TFDS has no validation split for these two; the rows held out here are our choice, not the paper's.
_GSM8K_SLICES = {"train": "train[:-512]", "validation": "train[-512:]", "test": "test"}
_LM1B_SLICES = {"train": "train", "validation": "test[:2048]", "test": "test[2048:]"}
_SOLVE = "solve: "

XSUM = TaskSpec(
    name="xsum",
    description="the one-sentence summary of a BBC article",
    prefix="summarize: ",
    inputs_field="document",
    targets_field="summary",
    source=Tfds("xsum:1.1.0", _WHOLE),
    metric="rouge2",
    feature_lengths={"inputs": 1024, "targets": 64},
    licence="unknown (BBC articles)",
)
CNN_DAILYMAIL = TaskSpec(
    name="cnn_dailymail",
    description="the highlights of a CNN or Daily Mail article",
    prefix="summarize: ",
    inputs_field="article",
    targets_field="highlights",
    source=Tfds("cnn_dailymail:3.4.0", _WHOLE),
    metric="rouge2",
    feature_lengths={"inputs": 2048, "targets": 128},
    licence="Apache-2.0",
)
WMT14_ENDE = TaskSpec(
    name="wmt14_ende",
    description="news sentences from English to German",
    prefix="translate English to German: ",
    inputs_field="en",
    targets_field="de",
    source=Tfds("wmt14_translate/de-en:1.0.0", _WHOLE),
    metric="bleu",
    feature_lengths={"inputs": 80, "targets": 80},
    licence="of its parts (Europarl, Common Crawl, News Commentary)",
)
GSM8K = TaskSpec(
    name="gsm8k",
    description="grade-school arithmetic with worked steps, as released (calculator annotations included)",
    prefix=_SOLVE,
    inputs_field="question",
    targets_field="answer",
    source=Tfds("gsm8k:1.0.0", _GSM8K_SLICES),
    metric="number",
    feature_lengths={"inputs": 256, "targets": 320},
    licence="MIT",
)
LM1B = TaskSpec(
    name="lm1b",
    description="the rest of a sentence of the One Billion Word benchmark from its first 8 words",
    prefix="",
    inputs_field="text",
    targets_field="text",
    source=Tfds("lm1b:1.1.0", _LM1B_SLICES),
    metric="none",
    feature_lengths={"inputs": 32, "targets": 128},
    licence="Apache-2.0",
    prompt_words=8,
)

BBH_SUBSETS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)
"""23 tasks: logical_deduction and tracking_shuffled_objects come in three sizes each."""

_BBH_FOLDER = Path("downloads/manual/BIG-Bench-Hard")
_BBH_FETCH = f"git clone https://github.com/suzgunmirac/BIG-Bench-Hard {{data_dir}}/{_BBH_FOLDER}"


def _bbh(name: str, subsets: tuple[str, ...]) -> TaskSpec:
    paths = tuple(_BBH_FOLDER / "bbh" / f"{subset}.json" for subset in subsets)
    source: TextSource = Files(
        {"test": paths}, default_data_dir(), f"{_BBH_FETCH} (TFDS has no such data set)"
    )
    about = "all of BIG-Bench-Hard, task by task in turns" if len(subsets) > 1 else f"BIG-Bench-Hard: {name}"
    return TaskSpec(
        name=name,
        description=f"{about}; zero-shot, to be decoded and not trained on",
        prefix=_SOLVE,
        inputs_field="input",
        targets_field="target",
        source=source,
        metric="answer",
        feature_lengths={"inputs": 512, "targets": 320},
        licence="MIT",
    )


TASKS: Mapping[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        XSUM,
        CNN_DAILYMAIL,
        WMT14_ENDE,
        GSM8K,
        LM1B,
        _bbh("bbh", BBH_SUBSETS),
        *(_bbh(f"bbh_{subset}", (subset,)) for subset in BBH_SUBSETS),
    )
}
