"""Commands that write to a bucket, killed and gone on with elsewhere. The bucket is in memory."""

import json

import pytest

from distillspec_jax.buckets import copies
from distillspec_jax.cli import errors
from distillspec_jax.cli.main import main
from distillspec_jax.data.target_set import TargetSet
from distillspec_jax.generation.text_generator import TextGenerator
from distillspec_jax.models import pretrained
from tests import bucket as toy
from tests import pair
from tests.bucket import ADDRESS, Killed

ROWS = 5


@pytest.fixture(scope="module")
def target_dir(tmp_path_factory):
    return pair.write(tmp_path_factory.mktemp("pair") / "target", pair.target())


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILLSPEC_CACHE", str(tmp_path / "here"))
    lines = [json.dumps({"id": i, "inputs": f"text {i}"}) + "\n" for i in range(ROWS)]
    found = toy.Bucket(monkeypatch)
    found.put({"prompts.jsonl": "".join(lines).encode()})
    yield found
    found.empty()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    def go():
        toy.forget()
        monkeypatch.setenv("DISTILLSPEC_CACHE", str(tmp_path / "elsewhere"))

    return go


def generate(target_dir, output, *more):
    flags = ["--batch_size=1", "--max_new_tokens=8", f"--input={ADDRESS}/prompts.jsonl"]
    return main(["generate", f"--model={target_dir}", f"--output={output}", *flags, *more])


def test_lines_are_one_object_and_go_on_elsewhere(bucket, elsewhere, target_dir, tmp_path, monkeypatch):
    assert generate(target_dir, tmp_path / "out.jsonl") == 0
    stream = TextGenerator.stream

    def killed(self, *arguments, **options):
        for number, generation in enumerate(stream(self, *arguments, **options)):
            if number == 2:
                raise Killed
            yield generation

    with monkeypatch.context() as patch:
        patch.setattr(TextGenerator, "stream", killed)
        with pytest.raises(Killed):
            generate(target_dir, f"{ADDRESS}/out.jsonl")
    partial = bucket.store.cat("/bucket/out.jsonl.partial").decode()
    assert partial.count("\n") == 2
    elsewhere()
    assert generate(target_dir, f"{ADDRESS}/out.jsonl", "--resume") == 0
    assert bucket.store.cat("/bucket/out.jsonl") == (tmp_path / "out.jsonl").read_bytes()
    assert sorted(name for name in bucket.store.store if "out" in name) == ["/bucket/out.jsonl"]


def test_an_output_that_is_read_or_is_another_file_is_refused(bucket, target_dir, capsys):
    bucket.put({"notes.txt": b"mine\n"})
    for name, said in (("prompts.jsonl", "this run reads it"), ("notes.txt", "no earlier output")):
        before = bucket.store.cat(f"/bucket/{name}")
        assert generate(target_dir, f"{ADDRESS}/{name}") == errors.USAGE
        assert f"cannot save to {ADDRESS}/{name}: " in (err := capsys.readouterr().err)
        assert said in err
        assert bucket.store.cat(f"/bucket/{name}") == before


def test_shards_are_merged_to_the_bytes_of_one_process(bucket, elsewhere, target_dir, tmp_path, capsys):
    assert generate(target_dir, tmp_path / "out.jsonl") == 0
    assert generate(target_dir, f"{ADDRESS}/out.jsonl", "--shard=1/2") == 0
    assert main(["merge", f"{ADDRESS}/out.jsonl"]) == errors.USAGE
    assert f"{ADDRESS}/out.jsonl-00000-of-00002 is missing" in capsys.readouterr().err
    elsewhere()
    assert generate(target_dir, f"{ADDRESS}/out.jsonl", "--shard=0/2") == 0
    assert main(["merge", f"{ADDRESS}/out.jsonl"]) == 0
    assert capsys.readouterr().out.endswith(f"{ADDRESS}/out.jsonl\n")
    assert bucket.store.cat("/bucket/out.jsonl") == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.slow
def test_a_set_is_read_where_it_was_published(bucket, elsewhere, target_dir, tmp_path, capsys):
    def collect(output):
        flags = ["--task=wiki_leads", "--split=test", "--limit=2", "--max_new_tokens=8", "--batch_size=1"]
        assert main(["collect", f"--model={target_dir}", f"--output={output}", *flags]) == 0

    collect(tmp_path / "texts")
    collect(f"{ADDRESS}/texts")
    assert capsys.readouterr().out.splitlines()[-1] == f"{ADDRESS}/texts"
    elsewhere()
    assert TargetSet(f"{ADDRESS}/texts").texts == TargetSet(tmp_path / "texts").texts


def test_a_converted_model_appears_whole_or_not_at_all(bucket, elsewhere, target_dir, capsys):
    with bucket.failing(3, Killed()), pytest.raises(Killed):
        main(["convert", "--to=hf", f"--input={target_dir}", f"--output={ADDRESS}/hf"])
    toy.forget()
    with pytest.raises(Exception, match="nothing is there"):
        copies.local(f"{ADDRESS}/hf")
    elsewhere()
    assert main(["convert", "--to=hf", f"--input={target_dir}", f"--output={ADDRESS}/hf"]) == 0
    assert f"{ADDRESS}/hf: t5" in capsys.readouterr().out
    assert main(["convert", "--to=hf", f"--input={target_dir}", f"--output={ADDRESS}/hf"]) == errors.USAGE
    assert f"{ADDRESS}/hf holds something already" in capsys.readouterr().err
    back = ["--from=hf", f"--input={ADDRESS}/hf", f"--output={ADDRESS}/back"]
    assert main(["convert", *back]) == 0
    toy.forget()
    assert pretrained.read_card(f"{ADDRESS}/back").family == "t5"
