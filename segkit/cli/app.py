"""How every command starts and ends: compose the config, run the task, say in one message what is at fault.

Imports only Hydra at the top, so that `--help`, `--cfg job` and tab completion answer at once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from segkit.cli.arguments import arranged
from segkit.cli.options import Options
from segkit.cli.processes import require_one_process
from segkit.cli.streams import lasting_streams
from segkit.config.credentials import masked
from segkit.engine.signals import CommandSignals
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

Task = Callable[..., Any]

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
    def single_run(config: DictConfig, **keywords: Any) -> Any:
        with lasting_streams():
            try:
                _require_multirun()
                return task(config, **keywords)
            except Exception as error:
                if HydraConfig.get().mode is RunMode.RUN or _stops_a_plain_multirun(error):
                    # Past Hydra, which would print the whole command line above our one message.
                    raise _Ended(error) from error
                raise

    with lasting_streams():
        try:
            try:
                require_one_process()  # before signals are listened for: its waiting ends without a word
                with signals, closing:
                    sys.argv[1:] = arranged(sys.argv[1:])
                    if mixed := Options.of(CONF, sys.argv[1:]).mixed(sys.argv[1:]):
                        raise UserError(mixed)
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
        except Exception as error:
            message = _message(error, config_name)
            if message is None or wants_traceback:
                _say(traceback.format_exc())
            else:
                _say(f"error: {message}")
            sys.exit(1 if message is None else getattr(error, "exit_code", 2))


def _message(error: Exception, config_name: str) -> str | None:
    """What is to be said of `error`; None for a fault of the program, which shows its traceback."""
    from segkit.cli import messages

    if isinstance(error, RunFailure) or messages.is_users(error):
        return messages.explained(error, config_name, Options.of(CONF, sys.argv[1:]))
    return messages.of_output(error) if messages.is_of_output(error) else None


def _stops_a_plain_multirun(error: Exception) -> bool:
    """Whether `error` asks for the end of all runs, where Hydra's own sweeper would go on to the next one."""
    return isinstance(error, Interrupted) and is_plain_multirun(HydraConfig.get())


def is_plain_multirun(config: Any) -> bool:
    """Whether Hydra's own sweeper runs the jobs, by the node `hydra` of a config."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    from segkit.config.instantiate import locate

    return locate(str(config.sweeper._target_), "hydra.sweeper._target_") is BasicSweeper


class _Ended(BaseException):
    """Carries an exception of the task past everything that catches exceptions."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


MULTIRUN_ONLY = ("sweep=", "hydra/sweeper", "hydra/launcher", "hydra.sweeper.", "hydra.launcher.", "hydra.sweep.")


def _require_multirun() -> None:
    """Refuse what only several runs read where there is but one: without -m a search would be one run of defaults."""
    config = HydraConfig.get()
    if config.mode is RunMode.MULTIRUN:
        return
    overrides: Any = OmegaConf.to_container(config.overrides, resolve=False)  # ${...} in them means the whole config
    unread = [o for o in [*overrides["task"], *overrides["hydra"]] if o.startswith(MULTIRUN_ONLY)]
    if unread:
        raise UserError(f"{unread[0]}: read with -m only, as in python train.py -m {' '.join(unread)}")


def _say(message: str) -> None:
    print(masked(message).rstrip(), file=sys.stderr, flush=True)
