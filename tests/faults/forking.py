"""Starts trainings in processes of their own that have what takes long behind them: the imports.

One JSON object a line comes in on stdin, one goes out on stdout for each:
{"script", "arguments", "stdout", "stderr", "folder", "terminal", "ignore", "environment"} -> {"pid"}: a fork that runs
  the script; null is `train.py`. `terminal` names the controlling terminal, `ignore` signals that the fork ignores.
{"wait": pid, "timeout"} -> {"returncode"}: as of subprocess.Popen; null if it has not ended within the time.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import sys
import threading
import time
from typing import Any

import matplotlib.pyplot  # noqa: F401
import torch

import segkit
from segkit.cli.train import main

torch.set_num_threads(1)  # a pool of threads would not survive a fork
for module in pkgutil.walk_packages(segkit.__path__, "segkit."):
    if ".plugin" not in module.name:
        importlib.import_module(module.name)

running: set[int] = set()


def serve() -> dict[str, Any] | None:
    """Serve until stdin ends; in each of the forks, what it is to be."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(json.dumps({"returncode": wait(request["wait"], request["timeout"])}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            become(request)
            return request
        running.add(pid)
        print(json.dumps({"pid": pid}), flush=True)
    for pid in running:
        os.killpg(pid, signal.SIGKILL)
    return None


def become(request: dict[str, Any]) -> None:
    """Make this fork what a shell would start: a session of its own, its own output, arguments and environment."""
    os.setsid()
    if request["terminal"] is None:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    else:
        terminal = os.open(request["terminal"], os.O_RDWR)  # the first one that a session opens controls it
        for number in range(3):
            os.dup2(terminal, number)
        os.close(terminal)
    # Whoever runs the tests under nohup has it ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name in request["ignore"]:
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    sys.argv = [request["script"] or "train.py", *request["arguments"]]


def wait(pid: int, timeout: float) -> int | None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            running.discard(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def end(code: int) -> None:
    """End as the interpreter does, but for taking apart all that was imported, which takes longer than a training."""
    threading._shutdown()  # pyright: ignore
    atexit._run_exitfuncs()  # pyright: ignore
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


gc.freeze()  # or the collector of every fork would copy all of it
print(json.dumps({"ready": os.getpid()}), flush=True)
request = serve()
if request is None:
    os._exit(0)
try:
    main() if request["script"] is None else runpy.run_path(request["script"], run_name="__main__")
    end(0)
except SystemExit as exit:
    end(exit.code if isinstance(exit.code, int) else 1)
