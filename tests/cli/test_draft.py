"""`distillspec draft` from its command line."""

import pytest

from distillspec_jax.cli.main import main


def test_choices_are_printed_and_one_is_written(target_dir, tmp_path, capsys):
    assert main(["draft", f"--target={target_dir}"]) == 0
    printed = capsys.readouterr().out
    assert "α = 0.7" in printed
    assert main(["draft", f"--target={target_dir}", "--layers=0", f"--output={tmp_path}/draft"]) == 0
    assert f"{tmp_path}/draft: t5, " in capsys.readouterr().out
    narrow = f"{tmp_path}/narrow"
    factorised = ["--layers=0", "--embedding_rank=2", f"--output={narrow}"]
    assert main(["draft", f"--target={target_dir}", *factorised]) == 0
    assert "rank 2 keeps " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layers=0"], "--output goes with --layers or --draft"),
        (["--output=x"], "--output goes with --layers or --draft"),
        (["--layers=0", "--draft=x", "--output=x"], "--layers makes a draft and --draft names one"),
        (["--draft=x", "--embedding_rank=2", "--output=x"], "it goes with --layers, before training"),
        (["--layers=0", "--embedding_rank=999", "--output=x"], "embedding_rank is 999, must be at least 1"),
        (["--draft=x", "--output=x"], "--draft needs --shortlist and --texts"),
        (["--layers=0", "--shortlist=9", "--output=x"], "--shortlist and --texts go together"),
        (["--shortlist=9", "--texts=tests"], "tests holds no target-generated set"),
        (["--layers=9", "--output=x"], "layers are 9, must be some of 0 to "),
        (["--layers=0", "--output=tests"], "tests holds something already"),
    ],
)
def test_a_bad_call_is_refused_in_one_line(target_dir, flags, said, capsys):
    assert main(["draft", f"--target={target_dir}", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
