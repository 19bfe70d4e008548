"""The templates of pages, which lie beside this module: strict, and with everything escaped."""

from __future__ import annotations

import importlib.resources

import jinja2


def template(name: str) -> jinja2.Template:
    """Reads a template by the name of its file."""
    source = importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({name: source}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
