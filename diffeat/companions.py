"""The packages that come with diffeat, whatever else is called like them.

`probes` is a common name, and Python takes the first that it finds: with `python -m diffeat` or
`python script.py` a file `probes.py`, or a folder `probes`, that lies there. So what needs the
package imports this module first, which takes the one that lies beside diffeat. The user's own is
hidden then for this process, which is told; where it has been imported already, both cannot be.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from diffeat.errors import NameTaken

ROOT = Path(__file__).resolve().parent.parent
"""Where diffeat lies, and its companions with it."""


def take_ours(name: str, root: Path = ROOT) -> None:
    """Import the package of this name that lies in a folder, in place of any other.

    Args:
        name: of the package, such as "probes".
        root: the folder; where it has no such package, Python's rule is left to it.

    Raises:
        NameTaken: another module of this name is imported already.
    """
    ours = PathFinder.find_spec(name, [str(root)])
    if ours is None or ours.origin is None:  # a folder without __init__.py is no package
        return
    if (known := sys.modules.get(name)) is not None:
        there = _places(getattr(known, "__spec__", None)) or [getattr(known, "__file__", None)]
        if not _same(there, ours):
            raise NameTaken(
                f"a module {name!r} is imported from {_shown(there)}, and diffeat needs its own "
                f"package of that name ({root / name}); rename yours, or use diffeat.search and "
                "diffeat.adapt in a process that does not import it"
            )
        return
    found = importlib.util.find_spec(name)
    if found is None or _same(_places(found), ours):
        return  # in the ordinary way, or by whoever asks for it next
    module = importlib.util.module_from_spec(ours)
    sys.modules[name] = module
    try:
        ours.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    warnings.warn(
        f"{_shown(_places(found))} is called like diffeat's package {name!r}, which is taken: "
        f"`import {name}` means diffeat's from here on; rename yours to use both",
        stacklevel=2,
    )


def _places(spec: ModuleSpec | None) -> list[str | None]:
    """The file of a module, or the folders of a package that has none."""
    if spec is None:
        return []
    if spec.origin not in (None, "namespace"):
        return [spec.origin]
    return list(spec.submodule_search_locations or [])


def _same(places: Sequence[str | None], ours: ModuleSpec) -> bool:
    """Whether a module is the file that ours is, by whatever way it was named."""
    file = Path(ours.origin).resolve()
    return [Path(place).resolve() for place in places if place] == [file]


def _shown(places: Sequence[str | None]) -> str:
    return ", ".join(map(str, places)) or "elsewhere"


take_ours("probes")
