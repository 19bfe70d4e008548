"""The JobSet manifests: by their own sense, and by the public schema where JOBSET_CRD names a copy of it.

The schema is config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of github.com/kubernetes-sigs/jobset,
whose Job template is that of Kubernetes itself.
"""

import os
from pathlib import Path

import jsonschema
import pytest
import yaml

from distillspec_jax import shards
from distillspec_jax.cli.main import COMMANDS
from tests.test_documents import flags_of

MANIFESTS = Path(__file__).parents[1] / "launch" / "kubernetes"
NAMES = ("gpu.yaml", "shards.yaml", "tpu.yaml")


def read(name):
    (found,) = yaml.safe_load_all((MANIFESTS / name).read_text())
    return found


def jobs(name):
    """The replicated jobs of a manifest by name: Job, and its only container."""
    found = {}
    for job in read(name)["spec"]["replicatedJobs"]:
        spec = job["template"]["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        found[job["name"]] = (job, spec, container)
    return found


def test_the_manifests_are_there():
    assert sorted(path.name for path in MANIFESTS.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_they_call_commands_that_exist_with_flags_that_exist(name):
    for _, _, container in jobs(name).values():
        command, *arguments = container["args"]
        assert (container["command"], command in COMMANDS) == (["distillspec"], True)
        flags = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
        assert {flag for flag in flags if not flag.startswith("--gin.")} <= flags_of(command)
        files = [a.removeprefix("--gin_file=") for a in arguments if a.startswith("--gin_file=")]
        assert all((MANIFESTS.parents[1] / "gin_configs" / file).is_file() for file in files)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_not_tried_again_and_mounts_have_volumes(name):
    for job, spec, container in jobs(name).values():
        if job["name"] != "merge":
            assert spec["completionMode"] == "Indexed"
            rule = spec["podFailurePolicy"]["rules"][0]
            assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
            assert rule["onExitCodes"]["containerName"] == container["name"]
        volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        # A Job with a policy for failures must leave its pods alone when they end.
        assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_hosts_of_gpus_know_each_other():
    _, spec, container = jobs("gpu.yaml")["workers"]
    name = read("gpu.yaml")["metadata"]["name"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert spec["parallelism"] == spec["completions"] == int(environment["JAX_NUM_PROCESSES"])
    assert environment["JAX_COORDINATOR_ADDRESS"] == f"{name}-workers-0-0.{name}:8476"
    assert environment["DISTILLSPEC_MULTIHOST"] == "1"


def test_a_slice_has_as_many_chips_as_its_topology():
    _, spec, container = jobs("tpu.yaml")["slice"]
    pods = spec["template"]["spec"]
    rows, columns = map(int, pods["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert spec["parallelism"] == spec["completions"]
    assert spec["completions"] * container["resources"]["limits"]["google.com/tpu"] == rows * columns


def test_every_pod_has_a_shard_and_the_merge_comes_after_all(monkeypatch):
    found = jobs("shards.yaml")
    _, spec, container = found["shards"]
    (shard,) = [a.removeprefix("--shard=") for a in container["args"] if a.startswith("--shard=")]
    for index in range(spec["completions"]):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        assert shards.parse(shard) == shards.Shard(index, spec["completions"])
    merge, _, merger = found["merge"]
    assert merge["dependsOn"] == [{"name": "shards", "status": "Complete"}]
    assert f"--gin.OUTPUT={merger['args'][-1]}" in container["args"]


def strict(schema):
    """A schema of Kubernetes as JSON Schema, in which a field that it does not name is an error."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(one) for name, one in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not open_ended:
        found["additionalProperties"] = False
    return found


@pytest.mark.skipif("JOBSET_CRD" not in os.environ, reason="JOBSET_CRD names no copy of the public schema")
@pytest.mark.parametrize("name", NAMES)
def test_they_are_jobsets_by_the_public_schema(name):
    definition = yaml.safe_load(Path(os.environ["JOBSET_CRD"]).read_text())
    versions = {one["name"]: one["schema"]["openAPIV3Schema"] for one in definition["spec"]["versions"]}
    manifest = read(name)
    group, version = manifest["apiVersion"].split("/")
    assert (group, manifest["kind"]) == (definition["spec"]["group"], definition["spec"]["names"]["kind"])
    jsonschema.Draft7Validator(strict(versions[version])).validate(manifest)
    manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["paralelism"] = 1  # the schema is read
    with pytest.raises(jsonschema.ValidationError, match="paralelism"):
        jsonschema.Draft7Validator(strict(versions[version])).validate(manifest)
