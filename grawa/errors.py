"""What can go wrong in a way that a user must hear about."""


class UserError(ValueError):
    """Something the user can put right, a flag or a file; it ends a command with exit code 2."""


class DivergedError(RuntimeError):
    """No worker has finite parameters and a finite score any more; raised on every rank."""


class CommunicationError(RuntimeError):
    """Contact with other workers was lost; the process group can't be used any more."""
