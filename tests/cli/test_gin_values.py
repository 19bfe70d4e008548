"""What gin binds fits what it is bound to, or is named before anything is made."""

import pytest

from tests.cli.gin_toy import CONFIG, complaint


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--gin.MODEL=@gin_toy.Model", "MODEL is the class Model: write @gin_toy.Model()"),
        (
            "--gin.gin_toy.train.name={'a': [@gin_toy.Model(), @b/gin_toy.Model]}",
            "train.name is the class Model: write @b/gin_toy.Model()",
        ),
        ("--gin.gin_toy.Model.width=@gin_toy.Model", "Model.width is the class Model: write @gin_toy."),
    ],
)
def test_a_class_without_its_parentheses(write, flag, says):
    assert complaint(f"--gin_file={write('a.gin', CONFIG)}", "--gin.MODEL_DIR=x", flag).startswith(says)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--gin.gin_toy.Model.width='wide'", "Model.width='wide': must be a whole number"),
        ("--gin.gin_toy.Model.width=True", "Model.width=True: must be a whole number"),
        ("--gin.MODEL_DIR='\\ud800'", "MODEL_DIR='\\ud800': holds a lone surrogate, no valid Unicode"),
        ("--gin.MODEL=@gin.macro", "@gin.macro is no value: write %NAME"),
        ("--gin.TRAIN_STEPS=3.0", "TRAIN_STEPS=3.0: must be a whole number"),
        ("--gin.MODEL_DIR=['x']", "MODEL_DIR=['x']: must be a text in quotes"),
        ("--gin.gin_toy.train.name=3", "train.name=3: must be a text in quotes or None"),
        ("--gin.MODEL=@gin_toy.schedule()", "schedule.peak='x': must be a number"),
        (
            "--gin.gin_toy.Model.width=@gin_toy.Model()",
            "Model.width is made of itself: MODEL -> gin_toy.Model -> gin_toy.Model",
        ),
    ],
)
def test_a_value_of_another_type_is_named_where_it_was_given(write, flag, says):
    """Each went on to wherever it was first used, and was a traceback there."""
    config = write("a.gin", CONFIG + "gin_toy.schedule.peak = 'x'\n")
    given = () if flag.startswith("--gin.MODEL_DIR") else ("--gin.MODEL_DIR=x",)
    assert complaint(f"--gin_file={config}", *given, flag) == says


def test_a_function_without_its_parentheses(write):
    config = write("a.gin", CONFIG)
    message = complaint(f"--gin_file={config}", "--gin.MODEL_DIR=x", "--gin.MODEL=@gin_toy.schedule")
    assert message == "MODEL is the function schedule: write @gin_toy.schedule()"
