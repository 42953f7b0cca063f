"""The errors that Calibrant raises.

    CalibrantError
    ├── ConfigError            a quantization config that contradicts itself           (also a ValueError)
    ├── SettingError           an unknown key, method, platform, name or pattern       (also a ValueError)
    ├── ModelError             a model that cannot be read, run, or is quantized already
    ├── DataError              samples that are missing, unreadable, of wrong shape or dtype, or not finite
    ├── ObservationError       a scale cannot be found from what was observed
    ├── IncompatibleSketches   a merge of sketches whose settings differ
    ├── StateError             a pass, or an export, that comes before the pass it needs
    ├── TargetError            an accuracy target that no quantized model reaches
    ├── ClusterError           a Ray cluster that cannot be reached, or that gave up
    └── ExportError            what a runtime cannot express, or a file that cannot be written

Every message says what happened, where, what was found, what was expected, and what to do about it.
"""


class CalibrantError(Exception):
    """Anything that Calibrant refuses. Catch this one to catch them all."""


class ConfigError(CalibrantError, ValueError):
    """A quantization config contradicts itself; the message says what to change."""


class SettingError(CalibrantError, ValueError):
    """A key, method, platform, name or pattern that is not known or matched nothing."""


class ModelError(CalibrantError):
    """A model that cannot be read or run, or that is quantized already."""


class DataError(CalibrantError):
    """Samples that are missing, unreadable, of the wrong shape or dtype, or not finite."""


class ObservationError(CalibrantError):
    """No scale can be found: nothing was observed, or NaN and Inf were."""


class IncompatibleSketches(CalibrantError):
    """Sketches collected with different settings were asked to merge."""


class StateError(CalibrantError):
    """A step was taken before the one it depends on; the message names the one to run first."""


class TargetError(CalibrantError):
    """An accuracy target that is out of reach as long as anything is quantized; the message says what was reached."""


class ClusterError(CalibrantError):
    """A Ray cluster cannot be reached, or it lost what it cannot make again."""


class ExportError(CalibrantError):
    """The target runtime cannot express what was asked, or the file cannot be written."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; the name of its type where it says nothing.

    >>> first_line(ValueError(" no such axis\\nadvice, in pages"))
    'no such axis'
    >>> first_line(AssertionError())
    'AssertionError'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
