"""The quick part of `make attack`: the known losses, and seeded cases of every other group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.cases import GROUPS

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads memory and time from /proc"
)

SEED = 1
KNOWN = Path(__file__).with_name("known.txt")
"""Cases that do not hold yet, a line each; what is lost is never among them."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    path = tmp_path_factory.mktemp("attack") / "outcomes.jsonl"
    subprocess.run(
        [sys.executable, "-m", "tests.attack", "--quick", f"--seed={SEED}", f"--outcomes={path}"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    records = (json.loads(line) for line in path.read_text().splitlines())
    return [one for one in records if "case" in one]


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_is_lost_and_every_call_ends_in_one_line_or_well(outcomes, group):
    tried = [one for one in outcomes if one["group"] == group]
    assert tried
    failed = {one["case"]: one["reasons"] for one in tried if one["fate"] == "failed"}
    assert [one["case"] for one in tried if one["lost"]] == []
    assert {case: why for case, why in failed.items() if case not in KNOWN.read_text().splitlines()} == {}
