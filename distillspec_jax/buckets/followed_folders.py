"""Folders in buckets that the first of several hosts publishes, as the others read them."""

from __future__ import annotations

from distillspec_jax.buckets.commits import Commit
from distillspec_jax.buckets.published_folders import PublishedFolder
from distillspec_jax.buckets.stores import told


class FollowedFolder(PublishedFolder):
    """A folder that another host of the run publishes; this one has a copy, and publishes nothing.

    What is written to the copy is gone when the run `follow`s again.

    Args:
      address: of the folder.
      host: the number of this host, which is not the first; hosts on one machine are told apart by it.

    Raises:
      UsageError: as `PublishedFolder`.
    """

    def __init__(self, address: str, host: int) -> None:
        self._suffix = f"-{host}"
        super().__init__(address)

    def follow(self) -> None:
        """See `Publication.follow`."""
        commit = self._committed() or Commit()
        with told(self._what):
            self._listed = dict(commit.files)
            self._equalise(commit)

    def publish(self) -> None:
        """Does nothing."""

    def publish_behind(self) -> None:
        """Does nothing."""

    def _fetch(self) -> None:
        self._place.check_bucket()
