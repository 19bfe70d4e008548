"""Named algorithms as gin files, the paper's and later ones: each is what it says, and trains."""

import json
import math

import gin
import pytest

from distillspec_jax import acceptance_profile, checkpoint, model_card
from distillspec_jax.cli import bindings
from distillspec_jax.cli.gin_flags import GinFlags
from distillspec_jax.cli.main import main
from distillspec_jax.distillation import divergences, sources
from distillspec_jax.distillation.block_efficiency import BlockEfficiency
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.distillation.distill import distill
from distillspec_jax.distillation.one_pass import OnePass
from distillspec_jax.distillation.token_selection import TokenSelection

ON_POLICY, TARGET = sources.OnPolicy(), sources.TargetGenerated()
ALGORITHMS = {
    "seqkd": (divergences.HardLabels(), TARGET),
    "supervised_kd": (divergences.ForwardKL(), sources.Fixed()),
    "imitkd": (divergences.ForwardKL(), sources.Mixture((sources.Fixed(), ON_POLICY), (0.5, 0.5))),
    "f_distill": (divergences.TotalVariation(), sources.Mixture((TARGET, ON_POLICY), (0.5, 0.5))),
    "gkd": (divergences.JensenShannon(0.5), ON_POLICY),
    "distillspec": (divergences.ForwardKL(), ON_POLICY),
    "lk_hybrid": (divergences.LKHybrid(3.0), TARGET),
    "adaspec": (divergences.ForwardKL(), sources.Fixed()),
    "block_efficiency": (divergences.TotalVariation(), TARGET),
    "pard": (divergences.ForwardKL(), TARGET),
}
WEIGHTINGS = {"adaspec": TokenSelection("r", 0.4), "block_efficiency": BlockEfficiency(7)}


def test_there_is_a_file_for_each():
    folder = bindings.packaged_configs() / "experiments" / "algorithms"
    assert {path.stem for path in folder.glob("*.gin")} == set(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_divergence_and_source_are_those_of_its_paper(name):
    macros = {"TARGET": "t", "DRAFT": "d", "MODEL_DIR": "m", "MIXTURE_OR_TASK_NAME": "x", "TRAIN_STEPS": "1"}
    macros |= {"REFERENCE": "r"} if name == "adaspec" else {}
    files = (f"experiments/algorithms/{name}.gin",)
    bindings.bind(distill, GinFlags(files, tuple(macros.items())), given=("gin",))
    bound = gin.get_bindings(distill)
    assert (bound["divergence"], bound["source"]) == ALGORITHMS[name]
    assert bound["normalization"] == ("token" if name == "adaspec" else "sequence")
    assert bound["weighting"] == WEIGHTINGS.get(name)
    assert bound["one_pass"] == (OnePass(None, 8, 8) if name == "pard" else None)
    assert bound["deployment"] == (Deployment(1.0) if name == "distillspec" else None)


QUICK = ("seqkd", "f_distill", "pard")
"""Between them all sources but the data alone, and what no other test trains by."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ALGORITHMS]
)
def test_each_trains_two_steps(name, my_task, target_dir, draft_dir, tmp_path, capsys):
    argv = [
        "distill",
        f"--gin_file=experiments/algorithms/{name}.gin",
        *my_task,
        f"--gin.TARGET={target_dir}",
        f"--gin.DRAFT={draft_dir}",
        f"--gin.MODEL_DIR={tmp_path / 'run'}",
        "--gin.TRAIN_STEPS=2",
        "--check_prompts=4",
    ]
    if name == "distillspec":
        argv.append("--gin.OWN_TEXTS=2")
    if name == "pard":
        argv.append("--gin.MASK_ID=2")
    if name == "adaspec":
        argv.append(f"--gin.REFERENCE={draft_dir}")
    if name != "distillspec":  # nothing held out: neither evaluations nor a check
        argv += ["--gin.TASK_NAME=unseen", "--gin.VALIDATION_FILE=None"]
    assert main(argv) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (trained,) = (line for line in lines if line["split"] == "train")
    assert trained["step"] == 2
    assert trained["loss"] > 0
    assert math.isfinite(trained["loss"])
    captured = capsys.readouterr()
    assert model_card.read_card(tmp_path / "run").mask_id == (2 if name == "pard" else None)
    if name == "pard":
        again = [flag for flag in argv if not flag.startswith(("--gin_file=experiments", "--gin.MASK_ID"))]
        again += ["--gin_file=runs/distill.gin", f"--gin.DRAFT={tmp_path / 'run'}", "--gin.MODEL_DIR=x"]
        for more, said in (
            ([], "ONE_PASS=None: "),
            (
                [
                    "--gin.ONE_PASS=@one_pass.OnePass()",
                    "--gin.WEIGHTING=@block_efficiency.BlockEfficiency()",
                ],
                "ONE_PASS and WEIGHTING=@BlockEfficiency() do not go together",
            ),
        ):
            assert main([*again, *more]) == 2
            assert said in capsys.readouterr().err
    if name != "distillspec":
        assert captured.err.endswith("they need TARGET and held-out prompts, a validation split\n")
        return
    best = tmp_path / "run" / "best"
    assert captured.out == f"{best}\n"
    assert " positions of 4 prompts tested under T1: accepted 0." in captured.err
    found = json.loads((best / "agreement.json").read_text())
    assert found["recorded"] == pytest.approx(found["recomputed"], abs=1e-4)
    profile = acceptance_profile.read(best / "profile.json")
    assert (profile.prompts, profile.task, profile.step) == (4, "mine", checkpoint.latest_step(best))
    assert [cell.temperature for cell in profile.cells] == [0.0, 1.0]
    metric = "acceptance_expected_T1"
    own = {"acceptance_own_T1", "target_entropy_own_T0", "draft_entropy_T1"}
    assert all(own <= line.keys() for line in lines if line["split"] == "eval")
    evaluated = {line["step"]: line[metric] for line in lines if line["split"] == "eval"}
    assert [*evaluated] == [0, 2]
    step = max(evaluated, key=evaluated.__getitem__)
    chosen = {"step": step, "metric": metric, "value": evaluated[step]}
    assert json.loads((best / "selection.json").read_text()) == chosen
