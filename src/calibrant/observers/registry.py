"""The observers by name. A built-in one is a file and a row here; a user's own is registered by the user."""

from __future__ import annotations

import inspect

from calibrant.core import SettingError, TensorQuantizationConfig, unknown
from calibrant.observers.base import BaseTensorObserver, refuse_policy
from calibrant.observers.isotone import IsotoneObserver
from calibrant.observers.kl import KlObserver
from calibrant.observers.minmax import MinmaxObserver
from calibrant.observers.mse import MseObserver
from calibrant.observers.percentile import PercentileObserver

_BUILT_IN: dict[str, type[BaseTensorObserver]] = {
    "minmax": MinmaxObserver,
    "percentile": PercentileObserver,
    "mse": MseObserver,
    "kl": KlObserver,
    "isotone": IsotoneObserver,
}
_registered: dict[str, type[BaseTensorObserver]] = {}


def known() -> list[str]:
    """The names of all observers, built-in and registered, sorted."""
    return sorted(_BUILT_IN | _registered)


def observer_class(algorithm: str) -> type[BaseTensorObserver]:
    """The observer of that name, whatever its case. Raises SettingError, with the nearest name, for an unknown one."""
    name = str(algorithm).casefold()
    found = _BUILT_IN.get(name) or _registered.get(name)
    if found is None:
        raise SettingError(unknown("calibration method", str(algorithm), known()))
    return found


def build_observer(config: TensorQuantizationConfig, watch_on: str | None = None) -> BaseTensorObserver:
    """The observer that the config's observer_algorithm names, for that config.

    watch_on: the value's name, for messages.
    Raises SettingError for an unknown name, ConfigError for a FLOATING or DYNAMIC policy.
    """
    refuse_policy(config)
    return observer_class(config.observer_algorithm)(watch_on, config)


def register_calibration_observer(algorithm: str, observer: type[BaseTensorObserver]) -> None:
    """Make `observer` known by the name `algorithm` (any case) to passes, settings and the command.

    observer: a subclass of BaseTensorObserver in either of its forms; see there. A name that is registered already is
        given to the new class. Raises SettingError for a built-in's name, an empty name, and a class of neither form.
    """
    name = str(algorithm).strip().casefold()
    if not name:
        raise SettingError("an observer needs a name, got an empty one")
    if name in _BUILT_IN:
        raise SettingError(f"'{algorithm}' is a built-in calibration method: register yours under another name")
    if not (inspect.isclass(observer) and issubclass(observer, BaseTensorObserver)):
        raise SettingError(
            f"observer '{algorithm}' must be a subclass of BaseTensorObserver, got {observer!r}: "
            "class MyObserver(BaseTensorObserver): ..."
        )
    own = {f for f in ("observe", "render_quantization_config", "solve") if _overrides(observer, f)}
    if not ("solve" in own or own >= {"observe", "render_quantization_config"}):
        raise SettingError(
            f"observer '{algorithm}': {observer.__name__} implements {' and '.join(sorted(own)) or 'nothing'}; it must "
            "implement solve, or both observe and render_quantization_config"
        )
    _registered[name] = observer


def _overrides(observer: type[BaseTensorObserver], method: str) -> bool:
    return getattr(observer, method) is not getattr(BaseTensorObserver, method)
