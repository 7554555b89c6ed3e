"""Finding the application object that ``module:object`` names, for commands and clients alike."""

from __future__ import annotations

import importlib
import traceback

from tenuto.features.schema import DeclarationError
from tenuto.platform import Platform
from tenuto.settings import SettingsError


def load_app(name: str) -> Platform:
    """The application object ``module:object``.

    Raises:
        SettingsError: no such module or object, or its declarations do not fit together.
    """
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute):
        raise SettingsError(f"app {name}: must be module:object, for example myapp.ranking:app")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise SettingsError(f"app {name}: there is no module {module_name}") from error
    except (DeclarationError, ValueError, TypeError) as error:
        place = _declared_at(error)
        if place is None:
            raise
        raise SettingsError(f"app {name}: {error} ({place})") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Platform):
        what = "is no Platform" if hasattr(module, attribute) else "does not exist"
        there = [key for key, value in vars(module).items() if isinstance(value, Platform)]
        mend = f": there is {', '.join(there)}" if there else ""
        raise SettingsError(f"app {name}: {module_name}.{attribute} {what}{mend}")
    return found


def _declared_at(error: Exception) -> str | None:
    """File and line of the declaration that a tenuto module refused; None for another's error."""
    frames = list(traceback.walk_tb(error.__traceback__))
    packages = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in frames]
    if packages[-1] != "tenuto":
        return None
    users = [at for at, package in enumerate(packages) if package not in ("tenuto", "importlib")]
    if not users:
        return None
    frame, line = frames[users[-1]]
    return f"{frame.f_code.co_filename}:{line}"
