"""The trainer's error tree: everything a person at the terminal can mend.

    TrainerError             exit code 2
    |- UsageError            a flag or a value that makes no sense
    |- DataError             a data file is missing, damaged or not what its name says
    |- StoreError            the model store cannot be read or written
    |- ExportError           the exported graph does not answer as the trained network does
    `- Refused               asked for something that a check forbids (exit code 1)
        `- CardMismatch      a card's figure is not what its model file gives

`__main__` prints the message as one line and exits; no other module knows about exit codes.
"""


class TrainerError(Exception):
    """A failure with a cause the user can mend; its text is one clear sentence."""


class UsageError(TrainerError):
    """A flag or a value that makes no sense."""


class DataError(TrainerError):
    """A data file is missing, damaged or not what its name says."""


class StoreError(TrainerError):
    """The model store cannot be read or written."""


class ExportError(TrainerError):
    """The exported graph does not answer as the trained network does."""


class Refused(TrainerError):
    """A check forbids what was asked for."""


class CardMismatch(Refused):
    """A card's figure is not what its model file gives."""
