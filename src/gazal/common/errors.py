"""The one error type that people see: a single clear line, never a traceback."""


class GazalError(Exception):
    """Bad input or an impossible request; the message is one line naming file, row and field."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
