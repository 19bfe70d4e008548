"""The launch scripts, run against stand-ins for the schedulers that they talk to."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from distillspec_jax.cli.main import COMMANDS

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
JOBS = [path for path in SCRIPTS if path.name != "slurm_here.sh"]
"""Those that run a command."""

# Notes its arguments and DISTILLSPEC_MULTIHOST, and exits with the next status of its plan. The status `wait`
# stands for a job that has SIGTERM sent to the script and runs until it gets it, then saves and exits 75;
# `75/137` for tasks of which the first exits 75, for which the others are killed.
STAND_IN = """#!/usr/bin/env bash
here="$(dirname "$0")"
printf '%s' "$(basename "$0") multihost=${DISTILLSPEC_MULTIHOST:-}" >> "$here/calls"
[[ -n "${SRUN_CPUS_PER_TASK:-}" ]] && printf ' cpus=%s' "$SRUN_CPUS_PER_TASK" >> "$here/calls"
printf ' %q' "$@" >> "$here/calls"; echo >> "$here/calls"
plan="$here/plan.$(basename "$0")"
status="$(head -n 1 "$plan" 2>/dev/null || echo 0)"
[[ -f "$plan" ]] && sed -i 1d "$plan"
if [[ "$status" == wait ]]; then
  trap 'exit 75' TERM
  kill -TERM "$PPID"
  while true; do command -p sleep 0.01; done
fi
if [[ "$status" == */* ]]; then
  echo "srun: error: node1: task 0: Exited with exit code ${status%/*}" >&2
  status="${status#*/}"
fi
exit "${status:-0}"
"""


@pytest.fixture
def launch(tmp_path):
    """Runs a script with stand-ins on the PATH: its exit status, and the calls that they received."""

    def run(script: str, *argv: str, plan: dict[str, list[int | str]] | None = None, **environment: str):
        for name in ("distillspec", "srun", "scontrol", "gcloud", "sleep"):
            (tmp_path / name).write_text(STAND_IN)
            (tmp_path / name).chmod(0o755)
            statuses = (plan or {}).get(name, [])
            (tmp_path / f"plan.{name}").write_text("".join(f"{status}\n" for status in statuses))
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "SRUN", "DISTILLSPEC"))
        }
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", str(LAUNCH / script), *argv],
            env={**kept, **environment, "PATH": path},
            capture_output=True,
        )
        calls = tmp_path / "calls"
        return done.returncode, calls.read_text().splitlines() if calls.exists() else []

    return run


def test_the_scripts_are_there():
    names = ["local.sh", "slurm.sbatch", "slurm_array.sbatch", "slurm_here.sh", "tpu_pod.sh"]
    assert [path.name for path in SCRIPTS] == names


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_scripts_parse_and_name_commands_that_exist(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    named = re.findall(r"^#\s+(?:launch/local\.sh )?(\w+) --gin_file=", text, re.MULTILINE)
    assert named
    assert set(named) <= COMMANDS.keys()
    files = set(re.findall(r"--gin_file=(\S+)", text))
    assert files & {"runs/finetune.gin", "runs/distill.gin", "runs/collect.gin"}
    assert not [file for file in files if not (path.parents[1] / "gin_configs" / file).is_file()]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_without_a_command_they_say_how(path, launch):
    assert launch(path.name) == (2, [])


def test_local_goes_on_after_preemption(launch):
    status, calls = launch("local.sh", "distill", "--gin.NAME=a b", plan={"distillspec": [75, 75, 0]})
    assert status == 0
    job = r"distillspec multihost= distill --gin.NAME=a\ b"
    assert calls == [job, "sleep multihost= 1", job, "sleep multihost= 2", job]


@pytest.mark.parametrize("failure", [1, 2, 130, 134])
def test_local_does_not_repeat_a_failure(launch, failure):
    status, calls = launch("local.sh", "distill", plan={"distillspec": [failure]})
    assert (status, len(calls)) == (failure, 1)


def test_one_of_several_hosts_goes_on_when_it_was_aborted(launch):
    plan = {"distillspec": [134, 137, 1]}
    status, calls = launch("local.sh", "distill", plan=plan, DISTILLSPEC_MULTIHOST="1")
    assert (status, len(calls)) == (1, 5)


@pytest.mark.parametrize(("job", "sleep", "started"), [(["wait", 0], [], 1), ([75, 0], ["wait"], 1)])
def test_a_signal_to_local_reaches_the_job_or_the_pause_and_ends_it(launch, job, sleep, started):
    status, calls = launch("local.sh", "distill", plan={"distillspec": job, "sleep": sleep})
    assert (status, sum(call.startswith("distillspec") for call in calls)) == (75, started)


def test_local_gives_up_in_the_end(launch):
    named = {"MAX_RESTARTS": "2", "RESTART_PAUSE": "200"}
    status, calls = launch("local.sh", "distill", plan={"distillspec": [75] * 9}, **named)
    assert (status, len(calls)) == (75, 5)
    assert calls[1::2] == ["sleep multihost= 200", "sleep multihost= 300"]


def test_slurm_requeues_only_a_preempted_job(launch):
    job = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4", "SLURM_CPUS_PER_TASK": "8"}
    status, calls = launch("slurm.sbatch", "distill", "--gin.NAME=a b", plan={"srun": [75, 2]}, **job)
    assert status == 75
    assert calls[0].startswith(
        "srun multihost=1 cpus=8 --kill-on-bad-exit=1 distillspec distill --gin.NAME=a"
    )
    assert calls[1] == "scontrol multihost=1 cpus=8 requeue 17"


def test_slurm_does_not_requeue_for_ever(launch):
    job = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "100"}
    status, calls = launch("slurm.sbatch", "distill", plan={"srun": [75]}, **job)
    assert (status, len(calls)) == (75, 1)


def test_slurm_requeues_where_one_preempted_task_had_the_others_killed(launch):
    job = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4"}
    status, calls = launch("slurm.sbatch", "distill", plan={"srun": ["75/137"]}, **job)
    assert (status, calls[1:]) == (75, ["scontrol multihost=1 cpus=1 requeue 17"])


@pytest.mark.parametrize("result", [0, 2, 137, "2/137", "75/2"])
def test_slurm_leaves_other_ends_alone(launch, result):
    status, calls = launch(
        "slurm.sbatch", "distill", plan={"srun": [result]}, SLURM_JOB_ID="17", SLURM_NTASKS="1"
    )
    assert status == int(str(result).split("/")[-1])
    assert calls == ["srun multihost= cpus=1 --kill-on-bad-exit=1 distillspec distill"]


@pytest.mark.parametrize(("result", "restarts"), [(143, ""), (75, "19")])
def test_a_killed_or_preempted_task_of_an_array_goes_back_into_the_queue(launch, result, restarts):
    """By its name in the array: the number of one of the tasks is the array's, and means all of them."""
    task = {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "18", "SLURM_ARRAY_TASK_ID": "7"}
    job = {**task, "SLURM_RESTART_COUNT": restarts, "SLURM_CPUS_PER_TASK": "8"}
    plan = {"srun": [result, 0]}
    status, calls = launch("slurm_array.sbatch", "collect", "--shard=auto/8", plan=plan, **job)
    assert (status, calls[1:]) == (result, ["scontrol multihost= cpus=8 requeue 18_7"])
    assert calls[0] == "srun multihost= cpus=8 distillspec collect --shard=auto/8"


def test_a_job_without_an_array_goes_back_by_its_number(launch):
    _, calls = launch("slurm_array.sbatch", "collect", plan={"srun": [137]}, SLURM_JOB_ID="18")
    assert calls[1:] == ["scontrol multihost= cpus=1 requeue 18"]


@pytest.mark.parametrize(("result", "restarts"), [(0, ""), (1, ""), (2, ""), (137, "20")])
def test_other_ends_of_a_task_are_left_alone(launch, result, restarts):
    job = {"SLURM_JOB_ID": "18", "SLURM_RESTART_COUNT": restarts}
    status, calls = launch("slurm_array.sbatch", "collect", plan={"srun": [result]}, **job)
    assert (status, len(calls)) == (result, 1)


@pytest.fixture
def on_a_host(launch, tmp_path):
    """What `tpu_pod.sh` has a host do, with a job that hangs up on itself: its result and its log."""
    job = tmp_path / "host" / "check out" / "launch" / "local.sh"
    job.parent.mkdir(parents=True)
    says = """printf '%s|' $DISTILLSPEC_MULTIHOST "$TFDS_DATA_DIR" ${TPU_WORKER_ID-none} "$@"; echo >&2"""
    job.write_text(f"#!/usr/bin/env bash\nkill -HUP $$\n{says}\nexit 3\n")
    job.chmod(0o755)

    (tmp_path / "curl").write_text("#!/usr/bin/env bash\necho 3\n")
    (tmp_path / "curl").chmod(0o755)

    def run(*flags, **streams):
        named = {"TPU_NAME": "slice", "ZONE": "z", "REMOTE_DIR": "'check out'", "TFDS_DATA_DIR": "/d $x"}
        status, calls = launch("tpu_pod.sh", "distill", "--gin.NAME=a b", "--gin.X='c'", *flags, **named)
        command = shlex.split(calls[-1])[-1].removeprefix("--command=")
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path / "host", env=environment, text=True, **streams
        )
        assert status == 0
        return done, (job.parents[1] / "distillspec.log").read_text()

    return run


def test_a_tpu_pod_calls_every_host(launch):
    named = {"TPU_NAME": "slice", "ZONE": "z", "GCLOUD_FLAGS": "--project=p --tunnel-through-iap"}
    status, (call,) = launch("tpu_pod.sh", "distill", **named)
    expected = ["slice", "--zone=z", "--worker=all", "--project=p", "--tunnel-through-iap"]
    assert (status, shlex.split(call)[-6:-1]) == (0, expected)
    assert shlex.split(call)[-1].startswith("--command=cd distillspec && ")


def test_a_host_of_a_tpu_pod_runs_the_local_script_and_keeps_a_log(on_a_host):
    done, log = on_a_host(capture_output=True)
    assert (done.returncode, done.stdout) == (3, log)
    assert log == "1|/d $x|none|distill|--gin.NAME=a b|--gin.X='c'|\n"


def test_a_host_of_a_tpu_pod_asks_for_the_number_of_its_shard(on_a_host):
    _, log = on_a_host("--shard=auto/8", capture_output=True)
    assert log.startswith("1|/d $x|3|distill|")
    assert log.endswith("--shard=auto/8|\n")


def test_a_host_of_a_tpu_pod_goes_on_when_nobody_listens(on_a_host):
    reader, writer = os.pipe()
    os.close(reader)
    _, log = on_a_host(stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    assert log.endswith("--gin.X='c'|\n")
