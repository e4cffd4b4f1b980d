"""PyTorch's compiler, imported when something is compiled and not at every start.

torchvision, which timm imports, and every optimizer import `torch._dynamo` only to say what it should not compile. It
brings 870 modules, and takes a third of the time between a command and its first step.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any

COMPILER = "torch._dynamo"
HELPERS = "torch._dynamo.utils"

# What was left out before the compiler was there, to be told to it.
_untold: list[Callable[[], None]] = []


def import_compiler_lazily() -> None:
    """Have a stand-in answer to `import torch._dynamo` until more is asked of it than what not to compile.

    It is then replaced with the real package, so that `torch.compile`, `torch.export` and what builds on them work as
    ever. Does nothing where the package has been imported already. It changes what the whole process imports, so it is
    for commands, and not for parts that others may import.
    """
    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = _StandIn(COMPILER, disable=_disable, graph_break=_nothing)
        sys.modules[HELPERS] = _StandIn(HELPERS, is_compile_supported=_is_compile_supported)
        sys.meta_path.insert(0, _Submodules())


class _StandIn(ModuleType):
    """A module of a few functions; whoever asks it for anything else is given what the real one has."""

    def __init__(self, name: str, **functions: Any) -> None:
        super().__init__(name)
        self.__dict__.update(functions, __spec__=ModuleSpec(name, None), __path__=[])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # those that look through all modules ask for such names
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class _Submodules(MetaPathFinder):
    """Finds the modules inside the package while the stand-in is there; they come with the real one."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(f"{COMPILER}.") or not _is_stand_in(COMPILER):
            return None
        package = _real(COMPILER)
        if name in sys.modules:
            return ModuleSpec(name, _Imported(sys.modules[name]))
        return PathFinder.find_spec(name, package.__path__)


class _Imported(Loader):
    """Loads a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def _is_stand_in(name: str) -> bool:
    return isinstance(sys.modules.get(name), _StandIn)


def _real(name: str) -> ModuleType:
    for each in (HELPERS, COMPILER):
        if _is_stand_in(each):
            del sys.modules[each]
    importlib.import_module(COMPILER)
    while _untold:
        _untold.pop()()
    return importlib.import_module(name)


def _disable(fn: Any = None, recursive: bool = True, **options: Any) -> Any:
    """`torch._dynamo.disable`: the function as it is, until there is a compiler to leave it out of."""
    if fn is None:
        return functools.partial(_disable, recursive=recursive, **options)
    if not isinstance(fn, FunctionType) or not _is_stand_in(COMPILER):
        return _real(COMPILER).disable(fn, recursive, **options)
    chosen: Callable[..., Any] = fn

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        return chosen(*args, **kwargs)

    def tell() -> None:
        nonlocal chosen
        chosen = _real(COMPILER).disable(fn, recursive, **options)

    _untold.append(tell)
    return run


def _nothing(*_: object, **__: object) -> None:
    """`torch._dynamo.graph_break`: where nothing is compiled there is nothing to break."""


def _is_compile_supported(device_type: str) -> bool:
    return _real(HELPERS).is_compile_supported(device_type)
