"""Packaging entry point. All metadata is in pyproject.toml; here is only what it cannot say.

The gin files live beside the package, where a user looks for them, and travel inside it, so that an installed
wheel finds `--gin_file=runs/finetune.gin` from any folder (`distillspec_jax.cli.bindings` looks in both
places).
"""

from setuptools import find_packages, setup

GIN_CONFIGS = "distillspec_jax.gin_configs"

setup(
    packages=[*find_packages(include=["distillspec_jax", "distillspec_jax.*"]), GIN_CONFIGS],
    package_dir={GIN_CONFIGS: "gin_configs"},
    package_data={
        "distillspec_jax": [
            "data/corpora/*",
            "tokenization/vocabulary/*",
            "reports/*.j2",
            "reports/*.js",
            "zoo/**/*",
            "py.typed",
        ],
        GIN_CONFIGS: ["**/*.gin"],
    },
)
