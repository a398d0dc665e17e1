"""causes: what went wrong, beneath what libraries and nurseries have wrapped around it."""

import os
import ssl
from collections.abc import Iterator


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group and of the groups in it; of no group, the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from causes(inner)
    else:
        yield error


def in_words(error: BaseException) -> str:
    """The innermost cause in a few words, such as `Connection refused`; without URLs or bodies."""
    while inner := _inner(error):
        error = inner
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # getaddrinfo numbers its errors below zero
    if isinstance(error, UnicodeError):
        return str(error)  # of a name that is none
    return type(error).__name__


def _inner(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    # Some raise `from None` where they replace an exception by their own.
    return error.__cause__ or (error.__context__ if error.__suppress_context__ else None)
