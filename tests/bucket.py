"""A bucket in memory that counts, fails and kills."""

import contextlib

import fsspec

from distillspec_jax.buckets import copies

ADDRESS = "memory://bucket"
WRITES = ("put_file", "pipe_file", "rm_file")


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Bucket:
    """The bucket, as the next run finds it.

    Attributes:
      written: names of the objects that were written or removed, in order.
      fail: is called before each of those with their number, counted from 1, and may raise.
    """

    def __init__(self, patch):
        self.store, self.written, self.fail = fsspec.filesystem("memory"), [], lambda number: None
        self.empty()
        for name in WRITES:
            patch.setattr(self.store, name, self._counted(getattr(self.store, name), name))

    def _counted(self, action, name):
        def counted(*arguments, **options):
            self.written.append(arguments[1 if name == "put_file" else 0])
            self.fail(len(self.written))
            return action(*arguments, **options)

        return counted

    def empty(self):
        """Removes all objects."""
        self.store.store.clear()
        self.store.pseudo_dirs[:] = ["", "/bucket"]
        forget()

    @contextlib.contextmanager
    def failing(self, at, error, times=1):
        """Fails at the write of a number, counted from here, and at some after it."""
        first = len(self.written) + at

        def fail(number):
            if first <= number < first + times:
                raise error

        self.fail = fail
        try:
            yield
        finally:
            self.fail = lambda number: None

    def put(self, files):
        """Writes objects by their names, as somebody else."""
        for name, content in files.items():
            self.store.pipe(f"/bucket/{name}", content)
        forget()

    def names(self, below):
        """The names of all objects below a path."""
        root = f"/bucket/{below}/"
        return sorted(name.removeprefix(root) for name in self.store.store if name.startswith(root))


def forget():
    """Makes what follows another process, which has read nothing yet."""
    copies._copied.cache_clear()
