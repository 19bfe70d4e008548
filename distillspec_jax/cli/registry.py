"""`distillspec registry`: versions of drafts, and which of them serve."""

from __future__ import annotations

import sys

from distillspec_jax.cli import errors
from distillspec_jax.cli.flags import CommandParser, one_of
from distillspec_jax.errors import UsageError
from distillspec_jax.terminal import say

HELP = """Keeps drafts in a folder of immutable versions, with one file that says which of them serve. A
server that polls the registry follows within a second.

  distillspec registry init --registry=drafts --target=runs/target --draft=runs/distilled   # it serves
  distillspec registry add --registry=drafts --draft=runs/distilled_2    # the next of v1, v2, ...; it waits
  distillspec registry list --registry=drafts
  distillspec registry show v2 --registry=drafts       # its lineage; without a version every change so far
  distillspec registry check --registry=drafts         # every file of every version is as it was added
  distillspec registry promote v2 --registry=drafts --reason="swept on last week's prompts"
  distillspec registry rollback --registry=drafts --reason="slow since noon"

rollback withdraws the candidate of a rollout, if there is one; else the previous stable version serves again.
`distillspec rollout` gives a version a growing share of the requests, in stages.
"""

ACTIONS = ("init", "add", "list", "show", "check", "promote", "rollback")
_FLAGS = {
    "init": {"version", "target", "draft", "assume_same_vocabulary"},
    "add": {"version", "target", "draft", "assume_same_vocabulary"},
    "list": set[str](),
    "show": {"version"},
    "check": {"version", "target"},
    "promote": {"version", "reason"},
    "rollback": {"reason"},
}
"""Flags that an action takes, beside --registry."""
_NEEDED = {"init": ("target", "draft"), "add": ("draft",), "promote": ("version",)}


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = CommandParser("registry", HELP)
    add = parser.add_argument
    add("action", type=one_of(*ACTIONS), metavar="ACTION", help=", ".join(ACTIONS))
    add("version", nargs="?", metavar="VERSION", help="the version; for init and add: its new name")
    add("--registry", required=True, metavar="DIR", help="the registry's folder")
    add("--target", metavar="MODEL", help="the target of these drafts; for add and check: to compare with")
    add("--draft", metavar="MODEL", help="a checkpoint directory or zoo:NAME to copy")
    add("--reason", metavar="TEXT", help="a reason to store in the history")
    add(
        "--assume_same_vocabulary",
        action="store_true",
        help="accept a draft whose tokenizer, or whose target's, is unknown",
    )
    flags = parser.parse(argv)
    action = flags.action
    for name in ("version", "target", "draft", "reason", "assume_same_vocabulary"):
        shown = "VERSION" if name == "version" else f"--{name}"
        if getattr(flags, name) and name not in _FLAGS[action]:
            raise UsageError(f"registry {action} takes no {shown}: leave it out")
        if not getattr(flags, name) and name in _NEEDED.get(action, ()):
            raise UsageError(f"registry {action} needs {shown}")

    from distillspec_jax.operations.draft_registry import DraftRegistry

    if action in ("init", "add"):
        from distillspec_jax.operations import admission

        vouched = flags.assume_same_vocabulary
        if action == "init":
            made = admission.create(flags.registry, flags.target, flags.draft, flags.version, vouched)
            say(f"{flags.registry}: {made.state().stable} serves")
            return 0
        registry = DraftRegistry(flags.registry)
        version = admission.add(
            registry, flags.draft, flags.version, target=flags.target, assume_same_vocabulary=vouched
        )
        say(f"{flags.registry}: {version} added, {registry.state().stable} serves")
        return 0
    registry = DraftRegistry(flags.registry)
    if action in ("promote", "rollback"):
        reason = flags.reason or "no reason was given"
        done = registry.promote(flags.version, reason) if action == "promote" else registry.roll_back(reason)
        say(f"{flags.registry}: revision {done.revision}, {done.action}: {done.stable} serves")
        return 0

    from distillspec_jax.operations import listing

    if action == "list":
        listing.print_versions(registry)
    elif action == "show":
        say(*listing.described(registry, flags.version).split("\n"))
    else:
        if flags.target is not None:
            from distillspec_jax.operations import admission

            admission.check_target(registry, flags.target)
        for version in [flags.version] if flags.version else registry.named():
            found = registry.check(version)
            say(f"{version}: {len(found.files)} files as they were added")
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="registry"))
