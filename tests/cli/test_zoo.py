"""How the zoo is built, a family at a time."""

import dataclasses
import json

import gin
import numpy as np
import pytest

from distillspec_jax import checkpoint
from distillspec_jax.cli import bindings
from distillspec_jax.cli.flags import CommandParser
from distillspec_jax.data.catalog import EMBEDDED_TASKS
from distillspec_jax.distillation.collect import collect
from distillspec_jax.distillation.distill import distill
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.held_out import HeldOut
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models import zoo_manifest as models_zoo
from distillspec_jax.models.zoo_manifest import FAMILIES, ROLES, member
from distillspec_jax.showcase import zoo_building, zoo_export
from distillspec_jax.showcase.recipes import RECIPES
from distillspec_jax.training.finetune import finetune
from tests import pair

SIZES = {"t5": {"target": 6_690_048, "draft": 918_528}, "decoder": {"target": 3_672_320, "draft": 688_512}}


@pytest.fixture(autouse=True)
def forget():
    yield
    gin.clear_config()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", zoo_building.STAGES, ids=lambda stage: stage[1])
def test_every_stage_binds_to_its_job(family, stage):
    command, name, parents = stage
    flags = CommandParser(command, "", gin=True).parse(
        zoo_building.stage_flags(family, name, parents, "there")
    )
    job = {"finetune": finetune, "distill": distill}[command]
    bindings.bind(job, flags.gin, given=("gin",))
    settings = gin.get_bindings(job)
    assert settings["model_dir"] == f"there/{member(family, name)}"
    known = {"initial_checkpoint_path": "INITIAL_CHECKPOINT_PATH", "target": "TARGET", "draft": "DRAFT"}
    for setting, macro in known.items():
        if macro in parents:
            assert settings[setting] == f"there/{member(family, parents[macro])}"
    if command == "finetune":
        config = settings["model"].config
        count = checkpoint.count_parameters(registry.shapes(settings["model"]))
        assert count == SIZES[family][name.removesuffix("_first")]
        assert (config.dropout_rate, settings["dropout_rate"]) == (0.0, 0.1 if name == "target" else None)


@pytest.mark.parametrize("task", zoo_building.GREEDY_STEPS)
def test_the_parts_of_a_draft_for_temperature_0_go_on_from_each_other(task):
    collected, trained = (
        zoo_building.greedy_stages(task, "there")[:2],
        zoo_building.greedy_stages(task, "there")[2:],
    )
    assert [command for command, _ in collected] == ["collect", "collect"]
    steps, draft = 0, "there/distilled"
    for command, argv in trained:
        flags = CommandParser(command, "", gin=True).parse(argv)
        bindings.bind(distill, flags.gin, given=("gin",))
        settings = gin.get_bindings(distill)
        assert (settings["draft"], settings["target"]) == (draft, None)
        assert settings["data"].target_set == "there/greedy_texts/" + task
        draft, steps = settings["model_dir"], steps + settings["loop"].total_steps
        gin.clear_config()
    assert draft == f"there/{models_zoo.greedy(task)}"
    assert steps == sum(zoo_building.GREEDY_STEPS[task])


def test_a_family_is_exported_beside_the_others(tmp_path, monkeypatch):
    target = pair.target()
    for role in ROLES:
        folder = tmp_path / "trained" / member("decoder", role)
        pair.write(folder, target)
        (folder / "metrics.jsonl").write_text("{}\n")
    found = HeldOut(np.ones(6), np.full(6, 2), [], np.ones(6), {"score": 3.0})
    monkeypatch.setattr(zoo_export.held_out, "measure", lambda *_, **__: found)
    monkeypatch.setattr(zoo_export.held_out, "copy_baseline", lambda *_, **__: (np.ones(6), {"score": 1.0}))
    monkeypatch.setattr(zoo_export, "_agreement", lambda *_: [])
    monkeypatch.setattr(zoo_export, "SHORTLIST_PROMPTS", 2)
    root = tmp_path / "zoo"
    root.mkdir()
    before = {"models": {"target": {"parameters": 1}}, "aliases": {"wiki_leads/target": "target"}}
    (root / "zoo.json").write_text(json.dumps(before))
    shown = zoo_export.export("decoder", ROLES, str(tmp_path / "trained"), str(root), limit=None)
    manifest = json.loads((root / "zoo.json").read_text())
    assert list(manifest["models"]) == ["target", *(member("decoder", role) for role in ROLES)]
    assert manifest["models"]["target"] == {"parameters": 1}
    assert manifest["aliases"]["wiki_leads/target"] == "target"
    assert manifest["aliases"]["gsm_symbolic/decoder_draft"] == "decoder_draft"
    assert manifest["aliases"]["gsm_symbolic/decoder_shortlisted"] == "decoder_distilled"
    lists = models_zoo.read_shortlists(root)
    assert list(lists) == [f"{task}/decoder_shortlisted" for task in EMBEDDED_TASKS]
    assert all(len(ids) == 1024 and {*pair.SPOKEN} < {*ids} for ids in lists.values())
    assert "| wiki_leads | decoder_distilled | 0.500" in shown
    assert "| target |" not in shown
    assert checkpoint.latest_step(root / "decoder_draft") == 1
    zoo_export.check_destination(["decoder_draft", "new"], str(root))
    pair.write(tmp_path / "mine" / "target", target)
    with pytest.raises(UsageError, match="mine/target holds something already"):  # it was deleted
        zoo_export.check_destination(["target"], str(tmp_path / "mine"))

    # And a draft for temperature 0 beside them: its task's alone, with its task's list.
    for name in ("target", models_zoo.greedy("wiki_leads")):
        folder = tmp_path / "trained" / name
        pair.write(folder, target)
        (folder / "metrics.jsonl").write_text("{}\n")
    pair.write(root / "target", target)
    collect(
        target,
        models_zoo.greedy_texts(str(tmp_path / "trained"), "wiki_leads"),
        "wiki_leads",
        limit=2,
        temperature=0.0,
    )
    shown = zoo_export.export_greedy(["wiki_leads"], str(tmp_path / "trained"), str(root), limit=None)
    manifest = json.loads((root / "zoo.json").read_text())
    assert manifest["aliases"]["wiki_leads/greedy"] == "greedy_wiki_leads"
    assert manifest["aliases"]["wiki_leads/target"] == "target"
    assert list(manifest["models"]["greedy_wiki_leads"]["quality"]) == ["wiki_leads"]
    said = models_zoo.read_shortlists(root)["wiki_leads/greedy"]
    assert len(said) < 16
    assert 1 in said
    assert "| wiki_leads | greedy_wiki_leads | 0.500" in shown


def test_a_recipe_is_of_a_family():
    recipe = RECIPES["wiki_leads"]
    assert (recipe.target, recipe.draft) == ("zoo:wiki_leads/target", "zoo:wiki_leads/draft")


def test_a_shortlist_is_the_tasks():
    cards = [pretrained.read_card(f"zoo:{task}/shortlisted") for task in EMBEDDED_TASKS]
    assert len({tuple(card.shortlist) for card in cards}) == len(EMBEDDED_TASKS)
    assert pretrained.read_card("zoo:wiki_leads/distilled") == dataclasses.replace(cards[0], shortlist=[])
