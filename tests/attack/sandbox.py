"""A mount namespace of the attack's own: all is read-only but one folder in memory, and `/dev` is made up.

Only root can have it on Linux. Elsewhere the attack runs in a temporary folder, without the cases that need
devices, small disks or other users' files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MARK = "DISTILLSPEC_ATTACK_FOLDER"
"""In the environment within the namespace: the folder that can be written."""
ROOTED = "DISTILLSPEC_ATTACK_ROOTED"
"""Set there too: this is the namespace."""

_SCRIPT = r"""
set -eu
folder=$1; shift
keep=$1; shift
mount -t tmpfs -o size=3g,mode=755 attack "$folder"
if [ -n "$keep" ]; then mount --bind "$keep" "$keep"; fi
mkdir "$folder/dev"
mount -t tmpfs -o size=64m,mode=755 attack-dev "$folder/dev"
cd "$folder/dev"
mknod null c 1 3; mknod zero c 1 5; mknod full c 1 7
mknod random c 1 8; mknod urandom c 1 9
chmod 666 null zero full random urandom
ln -s /proc/self/fd fd; ln -s fd/0 stdin; ln -s fd/1 stdout; ln -s fd/2 stderr
mkdir -m 1777 shm
mount --move "$folder/dev" /dev
cd "$folder"
# Within this namespace alone, whose mounts nobody else sees.
cut -d ' ' -f 2 /proc/mounts | grep -vE '^/(dev|proc)(/|$)' | grep -vxF -e "$folder" -e "${keep:-$folder}" |
  while read -r place; do mount -o remount,bind,ro "$place" 2>/dev/null || true; done
if touch /attack-was-here 2>/dev/null; then
  rm -f /attack-was-here
  echo "the namespace can be written" >&2
  exit 3
fi
exec "$@"
"""


def possible() -> bool:
    """Whether such a namespace can be had."""
    if not sys.platform.startswith("linux") or os.geteuid() or not shutil.which("unshare"):
        return False
    tried = ["unshare", "--mount", "--propagation=private", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def within(folder: Path, argv: Sequence[str], keep: str = "", files: Sequence[int] = ()) -> int:
    """Runs a command in a namespace in which `folder` is memory and the only place to write.

    Args:
      keep: another folder that stays as it is: the cache of compiled programs.
      files: open descriptors that the command inherits.
    """
    enter = [
        "unshare",
        "--mount",
        "--propagation=private",
        "bash",
        "-c",
        _SCRIPT,
        "attack",
        str(folder),
        keep,
    ]
    environment = {
        **os.environ,
        MARK: str(folder),
        ROOTED: "1",
        "TMPDIR": str(folder),
        "MPLCONFIGDIR": str(folder),
    }
    return subprocess.run([*enter, *argv], env=environment, pass_fds=files, check=False).returncode
