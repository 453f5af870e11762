"""Errors meant for the user."""


class UserError(Exception):
    """Something the user can put right. Its message is one plain line: what is wrong, where, what to do."""
