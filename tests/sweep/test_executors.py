from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any, cast

import hydra._internal.core_plugins.basic_launcher as basic_launcher

from segkit.sweep.executors import Here, Launched, OwnProcesses, make_slots


def test_hydras_own_launcher_is_known_also_as_a_second_copy_of_its_class():
    """Hydra's search for plugins executes the module again when somebody has imported it before."""
    specification = importlib.util.find_spec(basic_launcher.__name__)
    assert specification is not None
    assert specification.loader is not None
    copy = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(copy)
    assert copy.BasicLauncher is not basic_launcher.BasicLauncher
    for module in (basic_launcher, copy):
        assert isinstance(make_slots(module.BasicLauncher(), 1), Here)
        slots = make_slots(module.BasicLauncher(), 2)
        assert isinstance(slots, OwnProcesses)
        slots.close()


def test_other_launchers_wait_in_threads():
    assert isinstance(make_slots(cast(Any, SimpleNamespace()), 1), Launched)
