"""What is raised when weights cannot be used."""


class WeightError(ValueError):
    """A weight file, a folder of them or the lock is missing, refused or not what it should be; says which and what to do."""


class MirrorError(WeightError):
    """One mirror could not serve a network; the next one may."""


class StorageError(WeightError):
    """Weights cannot be kept here: there is no space, or the folder cannot be written."""
