import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.models import fingerprints

PARAMS = {
    "a": {"kernel": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)},
    "b": np.zeros(2, np.float32),
}


def with_kernel(kernel):
    return {"a": {"kernel": kernel}, "b": PARAMS["b"]}


def test_equal_parameters_have_equal_fingerprints():
    copies = {"b": jnp.zeros(2), "a": {"kernel": jnp.asarray(PARAMS["a"]["kernel"])}}
    assert fingerprints.of_params(copies) == fingerprints.of_params(PARAMS)


@pytest.mark.parametrize(
    "changed",
    [
        with_kernel(
            np.nextafter(
                PARAMS["a"]["kernel"], 2, where=np.eye(3, 4, 2, bool), out=PARAMS["a"]["kernel"].copy()
            )
        ),
        with_kernel(PARAMS["a"]["kernel"].reshape(4, 3)),
        with_kernel(PARAMS["a"]["kernel"][::-1]),
        with_kernel(-PARAMS["a"]["kernel"]),
        {"a": {"weight": PARAMS["a"]["kernel"]}, "b": PARAMS["b"]},
    ],
    ids=["last bits", "shape", "order", "sign", "name"],
)
def test_any_change_shows(changed):
    assert fingerprints.of_params(changed) != fingerprints.of_params(PARAMS)


def test_outputs_and_settings():
    assert fingerprints.of_tokens([3, 4, 1]) == fingerprints.of_tokens((3, 4, 1))
    assert fingerprints.of_tokens([3, 4, 1]) != fingerprints.of_tokens([4, 3, 1])
    assert fingerprints.of_json({"a": 1, "b": 2.0}) == fingerprints.of_json({"b": 2.0, "a": 1})
    assert fingerprints.of_json({"a": 1}) != fingerprints.of_json({"a": 1.5})
