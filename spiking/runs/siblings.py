"""The toolbox's modules beside `spiking`, though files of a user's folder may have the same names.

Python looks into the folder of a script first, so a `plotting.py` or `conversion.py` of the user's hides the toolbox's.
What is imported with others is refused as soon as that is seen, before an hour of training; plotting, which is loaded
when the figures are drawn, is taken from where the toolbox is.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["TOOLBOX", "own", "require_own"]

TOOLBOX = Path(__file__).resolve().parents[2]


def _found(name: str) -> Path | None:
    """The file that `import` would give, or has given."""
    loaded = sys.modules.get(name)
    spec = None if loaded else importlib.util.find_spec(name)
    file = getattr(loaded, "__file__", None) or getattr(spec, "origin", None)
    return Path(file).resolve() if file else None


def require_own(*names: str) -> None:
    """Refuses that modules of other people's are imported in place of the toolbox's.

    Raises:
        ImportError: another module of one of the names is found first.
    """
    for name in names:
        found = _found(name)
        if found != TOOLBOX / f"{name}.py":
            raise ImportError(
                f"The toolbox needs its own module {name!r}, and another one is found first. Received: {str(found)!r}. "
                "Rename that file, or start from another folder.",
                name=name,
                path=str(found),
            )


def own(name: str) -> ModuleType:
    """The toolbox's module of that name; under a name of its own where another one is found first."""
    if _found(name) == TOOLBOX / f"{name}.py":
        return importlib.import_module(name)
    alias = f"spiking.own.{name}"
    if alias not in sys.modules:
        spec = importlib.util.spec_from_file_location(alias, TOOLBOX / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[alias] = module
    return sys.modules[alias]
