"""causes: what is inside exception groups, in which nurseries wrap whatever goes wrong."""

from collections.abc import Iterator


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group and of the groups in it; of no group, the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from causes(inner)
    else:
        yield error
