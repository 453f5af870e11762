"""Errors meant for the user, and how they are shown."""


class UserError(Exception):
    """Something the user can put right. Its message is one plain line: what is wrong, where, what to do."""


def plain(error: BaseException) -> str:
    """An error's message as one line, without the calls that gin lists after it."""
    lines = [line for line in str(error).splitlines() if not line.startswith("  In call to configurable ")]
    return " ".join(" ".join(lines).split())
