"""The top level's calls: what they pass on, and what they refuse. What they do is tested where it is done."""

import math
import subprocess
import sys

import jax
import pytest

import distillspec_jax as ds
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation import distill as job
from distillspec_jax.distillation import divergences
from distillspec_jax.distillation.divergences import JensenShannon
from distillspec_jax.distillation.sources import Fixed
from distillspec_jax.evaluation import results
from distillspec_jax.generation import text_generator
from distillspec_jax.models import pretrained
from tests import pair
from tests.evaluation import simulated


@pytest.fixture
def passed_on(tmp_path, monkeypatch):
    """The arguments of the last call of the job, by name; it answers with a model that is there."""
    arguments = {}

    def record(target, draft, model_dir, data, loop, **more):
        arguments.update(more, target=target, draft=draft, model_dir=model_dir, data=data, loop=loop)
        arguments["mesh in force"] = jax.sharding.get_abstract_mesh()
        return pair.write(tmp_path / "made", pair.draft())

    monkeypatch.setattr(job, "distill", record)
    return arguments


def test_every_public_name_is_there_and_costs_nothing_before_it_is_used():
    assert all(hasattr(ds, name) for name in ds.__all__)
    assert (ds.Generation, ds.Pretrained) == (text_generator.Generation, pretrained.Pretrained)
    alone = "import sys, distillspec_jax; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", alone], check=True)


def test_distill_names_a_task_and_its_divergence(passed_on):
    made = ds.distill("t", "d", task="wiki_leads", output="o", divergence="jsd", steps=7)
    assert isinstance(made, ds.Pretrained)
    assert passed_on["data"] == DataConfig("wiki_leads")
    assert divergences.divergence(passed_on["divergence"]) == JensenShannon(0.5)
    assert (passed_on["model_dir"], passed_on["loop"].total_steps) == ("o", 7)


def test_the_mesh_of_a_script_is_none_of_ours(passed_on):
    """JAX would refuse to compute with arrays that lie on other devices than those of the mesh in force."""
    mesh = jax.make_mesh((1,), ("x",))
    with jax.set_mesh(mesh):
        ds.distill("t", "d", task="wiki_leads", output="o")
        assert jax.sharding.get_abstract_mesh() == mesh.abstract_mesh
    assert passed_on["mesh in force"].empty


def test_distill_takes_data_and_values_of_ones_own(passed_on):
    data = DataConfig("wiki_leads", {"inputs": 8, "targets": 8}, target_set="texts")
    ds.distill(pair.target(), "d", data=data, output="o", divergence=JensenShannon(0.1), source=Fixed())
    assert passed_on["data"] is data
    assert (passed_on["divergence"], passed_on["source"]) == (JensenShannon(0.1), Fixed())
    assert passed_on["target"] == pair.target().name


@pytest.mark.parametrize("given", [{}, {"task": "wiki_leads", "data": DataConfig("wiki_leads")}])
def test_distill_wants_a_task_or_data(given):
    with pytest.raises(ds.UsageError, match="either task or data"):
        ds.distill("t", "d", output="o", **given)


def test_distill_names_the_nearest_divergence():
    with pytest.raises(ds.UsageError, match=r"unknown divergence 'jds'.*jsd"):
        ds.distill("t", "d", task="wiki_leads", output="o", divergence="jds")


ROWS = [row for row in simulated.rows(prompts=12, block_sizes=(3,)) if row.temperature == 1]


def texts(row):
    """The prompts of a row as `generate` returns them."""
    one = row.per_prompt
    columns = (one.emitted, one.target_calls, one.accepted, one.tested)
    return [ds.Generation(str(i), "", *counts, "eos") for i, counts in enumerate(zip(*columns, strict=True))]


def test_intervals_count_texts_as_they_count_rows():
    row = ROWS[-1]
    one = row.per_prompt
    found = ds.interval(row, "acceptance_tested")
    assert found.value == sum(one.accepted) / sum(one.tested)
    assert ds.interval(texts(row), "acceptance_tested") == found == row.interval("acceptance_tested")
    assert f"{found:.2f}" == f"{found.value:.2f} ({found.low:.2f}–{found.high:.2f})"
    assert f"{ds.interval(texts(row)[:3]):.3f}" == f"{sum(one.emitted[:3]) / sum(one.target_calls[:3]):.3f}"
    assert math.isnan(ds.interval(texts(row), "acceptance_drafted").value), "nobody counted what was drafted"


def test_two_systems_are_compared_prompt_by_prompt():
    ours, theirs = ROWS[-1], ROWS[1]
    found = ds.compare(ours, theirs)
    assert found.value == pytest.approx(ours.block_efficiency / theirs.block_efficiency)
    assert found == ds.compare(texts(ours), texts(theirs))
    alone = ds.interval(ours).high / ds.interval(theirs).low
    assert found.high < alone, "hard prompts are hard for both: pairing takes that out"
    with pytest.raises(ds.UsageError, match="of different prompts"):
        ds.compare(texts(ours), texts(theirs)[1:])
    with pytest.raises(ds.UsageError, match=r"unknown ratio 'acceptance'.*acceptance_tested"):
        ds.compare(ours, theirs, "acceptance")
    with pytest.raises(ds.UsageError, match="no texts"):
        ds.interval([])


def test_results_of_several_files_and_of_a_sweeps_folder_are_read_in_order(tmp_path):
    for name, row in zip(("a", results.RESULTS), ROWS, strict=False):
        results.append(tmp_path / name, row)
    assert ds.read_results(str(tmp_path), tmp_path / "a") == [ROWS[1], ROWS[0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda target: ds.generate(target, "one"), r"texts is one text: give a list of them, \[text\]"),
        (lambda target: ds.generate(target, ["one", None]), r"texts\[1\] is None: must be a text"),
        (
            lambda target: ds.sweep(target, [target], output="o"),
            "drafters: give a mapping of labels to models",
        ),
        (
            lambda target: ds.sweep(target, {}, output="o", block_sizes=3),
            r"block_sizes is 3: give a list, \[3\]",
        ),
    ],
)
def test_arguments_of_another_kind_are_named(call, message):
    with pytest.raises(ds.UsageError, match=message):
        call(pair.target())


def test_a_sweep_reads_a_file_instead_of_a_task(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"text": "say"}\n')
    call = {"inputs": tmp_path / "mine.jsonl", "output": str(tmp_path / "sweep")}
    with pytest.raises(ds.UsageError, match=r"mine\.jsonl"):  # it has come as far as the line without inputs
        ds.sweep(pair.target(), {"draft": pair.draft()}, **call)
