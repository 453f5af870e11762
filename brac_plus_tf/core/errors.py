"""Errors meant for the user, and how they are shown."""

_OF_GIN = (
    "  In call to configurable ",
    "  No values supplied by Gin or caller for arguments: ",
    "  Gin had values bound for: ",
    "  Caller supplied values for: ",
)


class UserError(Exception):
    """Something the user can put right. Its message is one plain line: what is wrong, where, what to do."""


def plain(error: BaseException) -> str:
    """An error's message as one line, without what gin adds to it about its own calls."""
    lines = [line for line in str(error).splitlines() if not line.startswith(_OF_GIN)]
    return " ".join(" ".join(lines).split())
