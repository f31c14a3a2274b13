"""The exceptions that users see."""


class UserError(ValueError):
    """An error that the user can fix, in a flag or a file; it ends a command with exit code 2."""


class DivergedError(RuntimeError):
    """No worker has finite parameters and a finite score any more; raised on every rank."""


class CommunicationError(RuntimeError):
    """Contact with other workers was lost; the process group can't be used any more."""
