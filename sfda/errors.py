"""The one error that a user is meant to see."""


class BadInput(ValueError):
    """Something the user gave cannot be used; the message names it and says what would do.

    The command line prints the message alone and ends with exit code 2.
    """


class NotFinite(BadInput):
    """A network whose answers are no numbers, since it diverged or was imported so."""
