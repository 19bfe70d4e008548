"""The T5X fixture, unpacked once."""

import tarfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "t5x_tiny.tar.gz"


@pytest.fixture(scope="session")
def t5x_tiny(tmp_path_factory) -> Path:
    """`checkpoint_0/`, `config.txt` and `expected.npz`, as T5X wrote them; read only."""
    folder = tmp_path_factory.mktemp("t5x")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "t5x_tiny"
