"""Errors that a user can act on. Every message says what was found, what was expected and what to do."""


class CalicoError(Exception):
    """Base of all errors that are shown to a user as one line."""


class InputError(CalicoError, ValueError):
    """Bad input: an image, a group, a file or an option. Command-line exit code 2."""


class CheckpointError(CalicoError):
    """A checkpoint that cannot be used as it is: missing, truncated, of another preset, or unsafe to read."""
