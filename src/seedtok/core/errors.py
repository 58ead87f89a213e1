"""The exceptions of this package. Each message states the given value, the expected one, and the remedy."""


class SeedTokError(ValueError):
    """Base class of the errors that this package raises for bad input."""


class ImageError(SeedTokError):
    """An image that cannot be read, or an array that is not an image."""


class DataError(SeedTokError):
    """A data set, a table of captions or a shard that is missing or broken, or a file that already exists."""


class CheckpointError(SeedTokError):
    """A checkpoint that is missing or broken, or that belongs to another model."""


class ConfigError(SeedTokError):
    """A configuration with an unknown or impossible value."""


class BusyError(SeedTokError):
    """A folder that is locked by another process."""


class InputError(SeedTokError):
    """An argument that is out of range or does not fit the others."""


class TrainingError(SeedTokError, FloatingPointError):
    """A training run whose loss is not finite."""


class SeedTokWarning(UserWarning):
    """A result that may differ from what the user expects."""
