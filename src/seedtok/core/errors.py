"""What can be wrong with what a user gave: an error says what was given, what was expected, what to do."""


class SeedTokError(ValueError):
    """The root of the errors that this package raises on purpose."""


class ImageError(SeedTokError):
    """A picture that cannot be read, or an array that is not a picture."""


class DataError(SeedTokError):
    """A data set, a table of captions or a shard that is missing, broken or in the way."""


class CheckpointError(SeedTokError):
    """A checkpoint that is missing, broken or of another model."""


class ConfigError(SeedTokError):
    """A configuration that asks for something unknown or impossible."""


class BusyError(SeedTokError):
    """A folder that another process is writing to."""


class InputError(SeedTokError):
    """An argument of a call that is out of range or does not fit the others."""


class TrainingError(SeedTokError, FloatingPointError):
    """A training run whose loss is no longer a number."""


class SeedTokWarning(UserWarning):
    """Something that works, but not as a user may expect."""
