"""Access control: bearer tokens from a file, one per line."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from distillspec_jax import outputs
from distillspec_jax.errors import UsageError

_SHORTEST = 16


class Access:
    """The accepted tokens; only their digests are kept.

    Args:
      path: a file of tokens, one per line; `#` begins a comment. None: every request is accepted.

    Raises:
      UsageError: the file cannot be read, has no token, or has one that is too short to be secret.
    """

    def __init__(self, path: str | None) -> None:
        self._digests: list[bytes] | None = None
        if path is None:
            return
        outputs.reads(path)
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"tokens {path!r}: {getattr(error, 'strerror', None) or error}") from error
        tokens = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
        tokens = [(number, token) for number, token in tokens if token and not token.startswith("#")]
        for number, token in tokens:
            if len(token) < _SHORTEST or any(character.isspace() for character in token):
                raise UsageError(
                    f"{path}:{number}: a token has at least {_SHORTEST} characters and no spaces; make one "
                    "by `openssl rand -hex 24`"
                )
        if not tokens:
            raise UsageError(f"{path} holds no token")
        self._digests = [_digest(token) for _, token in tokens]

    def lets_in(self, authorization: str | None) -> bool:
        """Tells whether a request's `Authorization` header has one of the tokens."""
        if self._digests is None:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token.strip())
        # Compare with all digests, so the time reveals nothing.
        found = [hmac.compare_digest(given, one) for one in self._digests]
        return scheme.lower() == "bearer" and any(found)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
