"""Prepared TFDS data sets for seqio, which would otherwise start to download a missing one."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillspec_jax.data.tensorflow_setup import seqio, tfds
from distillspec_jax.errors import UsageError


class PreparedTfds(seqio.TfdsDataSource):
    """seqio's source, but it checks that the data set is prepared before using it."""

    @property
    def tfds_dataset(self) -> Any:
        """seqio's loader, which every read uses.

        Raises:
          UsageError: TFDS does not know the data set, or it is not prepared; the message has the command.
        """
        loader = super().tfds_dataset
        try:
            builder = loader.builder
        except tfds.core.DatasetNotFoundError as error:
            raise UsageError(f"TFDS {tfds.__version__} has no data set {loader.name!r}") from error
        if not builder.is_prepared():
            raise UsageError(_how_to_prepare(loader.name, loader.data_dir, builder))
        return loader


def _how_to_prepare(name: str, data_dir: str, builder: Any) -> str:
    # Not `tfds build`, which needs Apache Beam even for a data set that does not.
    call = f"tfds.builder('{name}', data_dir='{data_dir}').download_and_prepare()"
    command = f'python -c "import tensorflow_datasets as tfds; {call}"'
    if importlib.util.find_spec("importlib_resources") is None:  # TFDS builds need it but do not declare it
        command = f"pip install importlib_resources && {command}"
    first = ""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        lines = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        first = f"; what TFDS cannot download belongs into {data_dir}/downloads/manual before: {lines}"
    return f"data set {name!r} is not prepared in {data_dir}: run `{command}`{first}"


def provider(name: str, data_dir: str | Path, slices: Mapping[str, str]) -> PreparedTfds:
    """Makes the seqio source of a data set without reading it.

    Args:
      name: with its version, e.g. `wmt14_translate/de-en:1.0.0`.
      data_dir: the folder of prepared TFDS data sets.
      slices: maps a split to a TFDS split (`train[:-512]`).
    """
    return PreparedTfds(name, tfds_data_dir=str(data_dir), splits=dict(slices), read_only=True)
