"""`python -m distillspec_jax.showcase.smollm2_export --draft=runs/smollm2/open` puts that draft into the zoo.

`experiments/smollm2/open.gin` trains it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distillspec_jax.interop import packaged
from distillspec_jax.models import pretrained, zoo_manifest
from distillspec_jax.showcase import smollm2


def main() -> None:
    """Writes its folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draft", required=True)
    parser.add_argument("--output", type=Path, default=zoo_manifest.ROOT / smollm2.FAMILY / "draft")
    flags = parser.parse_args()
    packaged.ship(pretrained.load(flags.draft), pretrained.load(smollm2.TARGET), flags.output)


if __name__ == "__main__":
    main()
