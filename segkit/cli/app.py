"""How every command starts and ends: compose the config, run the task, say in one message what is at fault.

Imports only Hydra at the top, so that `--help`, `--cfg job` and tab completion answer at once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.grammar import grammar_functions
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.credentials import masked
from segkit.engine.interrupts import CommandSignals
from segkit.errors import Interrupted, RunFailure, UserError

PACKAGE = Path(__file__).resolve().parent.parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""The config folder: beside the package in a checkout, inside it when installed from a wheel."""

# Here and not in `launch`: processes that launchers start import this module to unpickle their task. Cached, so
# that every job of a sweep finds the folder that the sweep's own process named.
OmegaConf.register_new_resolver("pid", os.getpid, replace=True, use_cache=True)
# Hydra looks for plugins on sys.path alone.
PLUGINS = str(PACKAGE / "sweep" / "plugin")
if PLUGINS not in sys.path:
    sys.path.append(PLUGINS)
# Of all values, null alone is one that Hydra refuses in choice(...), and takes in key=null,1.0.
grammar_functions.choice.__annotations__["args"] = Any

Task = Callable[[DictConfig], Any]

closing = contextlib.ExitStack()
"""What is to be done when a command ends, however it ends; Hydra's callbacks add to it."""


def launch(config_name: str, task: Task) -> None:
    """Run `task` on the composed config `config_name` and leave with the run contract's exit code.

    0 done; 1 failed while running, 2 the user's input is at fault: one message on stderr, and a traceback only
    with HYDRA_FULL_ERROR=1 or for faults of the program; 130 after Ctrl-C; 143 after SIGTERM or SIGUSR1; 129 after
    SIGHUP.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    # Makes Hydra hand exceptions on instead of printing its own report and leaving with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signals = CommandSignals()

    @functools.wraps(task)
    def single_run(config: DictConfig) -> Any:
        try:
            return task(config)
        except Exception as error:
            if HydraConfig.get().mode is RunMode.RUN or _stops_a_plain_multirun(error):
                # Past Hydra, which would print the whole command line above our one message.
                raise _Ended(error) from error
            raise

    try:
        try:
            with signals, closing:
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(single_run)()
        except _Ended as ended:
            raise ended.error from None
    except Interrupted as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit):
        if signals.received is None:  # Hydra's own way to end
            raise
        _say(signals.message)
        sys.exit(signals.exit_code)
    except (UserError, RunFailure, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            _say(traceback.format_exc())
        else:
            _say(f"error: {_message(error, config_name)}")
        sys.exit(getattr(error, "exit_code", 2))
    except Exception:
        _say(traceback.format_exc())
        sys.exit(1)


def _stops_a_plain_multirun(error: Exception) -> bool:
    """Whether `error` asks for the end of all runs, where Hydra's own sweeper would go on to the next one."""
    return isinstance(error, Interrupted) and str(HydraConfig.get().sweeper._target_).endswith(".BasicSweeper")


class _Ended(BaseException):
    """Carries an exception of the task past everything that catches exceptions."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


def _say(message: str) -> None:
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"{masked(message).rstrip()}\n")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            # The terminal is gone or the disk full; Python would end with a status of its own for what is unwritten.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _message(error: Exception, config_name: str) -> str:
    if isinstance(error, UserError | RunFailure):
        return str(error)
    text = str(error).strip()
    key = re.search(
        r"Could not (?:override|append to|delete from) config?.*?'([^'@]+)'|Could not override '([^'@]+)'",
        text,
    )
    if key:
        found = key.group(1) or key.group(2)
        explained = _unknown_key(found, config_name)
        if explained:
            return explained
    return text.partition("\nConfig search path:")[0].rstrip()


def _unknown_key(key: str, config_name: str) -> str | None:
    """What stands beside an unknown key, from the config composed of the overrides that do compose."""
    from segkit.config.errors import unknown_key

    GlobalHydra.instance().clear()
    # Group choices decide which keys there are; everything else can be left out.
    choices = [a for a in sys.argv[1:] if "=" in a and not a.startswith(("-", "+", "~")) and "." not in a.split("=")[0]]
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose(config_name, [a for a in choices if a.split("=")[0] != key])
    except (HydraException, OmegaConfBaseException):
        return None
    node: Any = config
    *parents, _ = key.split(".")
    for depth, part in enumerate(parents):
        if not isinstance(node, DictConfig) or part not in node:
            return unknown_key(".".join(parents[: depth + 1]), list(node) if isinstance(node, DictConfig) else [])
        node = node._get_node(part)
    if not isinstance(node, DictConfig):
        return f"{key}: {'.'.join(parents)} is a single value and has no keys below it"
    if key.rpartition(".")[2] in node:
        return f"{key}: the new value has keys that are not there yet; add them one by one with +{key}.NAME=VALUE"
    return unknown_key(key, [str(name) for name in node])
