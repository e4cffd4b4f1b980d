#!/usr/bin/env python3
"""Run a command inside segkit's own environment, making that environment first if need be.

    python3 scripts/with_env.py python train.py
    python3 scripts/with_env.py pytest

Needs Python 3.11 or newer and pip, nothing else. The environment is `.venv` (or $SEGKIT_VENV) beside
pyproject.toml, filled from requirements.lock with every hash checked. It is made again when the lock
changes, and used as it is when it has not.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENT = Path(os.environ.get("SEGKIT_VENV", REPOSITORY / ".venv")).resolve()
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "segkit-environment"


def fingerprint() -> str:
    """Identity of everything that the environment is made from."""
    digest = hashlib.sha256(sys.version.encode())
    digest.update((REPOSITORY / "requirements.lock").read_bytes())
    return f"{digest.hexdigest()} {REPOSITORY}"


def is_ready() -> bool:
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text() == fingerprint()


def make_environment() -> None:
    """Fill a new environment from the lock, then add this checkout to it in editable form."""
    if ENVIRONMENT.exists() and not (ENVIRONMENT / "pyvenv.cfg").exists():
        sys.exit(f"{ENVIRONMENT} exists and is no virtual environment; move it away or set SEGKIT_VENV")
    print(f"setting up {ENVIRONMENT} (some minutes, once; about 6 GB)", file=sys.stderr, flush=True)
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    # Without ensurepip, which Debian ships apart: the pip at hand installs into the new environment.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(ENVIRONMENT)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", "--no-input"]
    pip += ["--disable-pip-version-check", "--root-user-action=ignore"]
    subprocess.run([*pip, "--require-hashes", "-r", str(REPOSITORY / "requirements.lock")], check=True)
    # A path file rather than an editable build: no build tool to fetch, so nothing outside the lock.
    site_packages = subprocess.run(
        [str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site_packages) / "segkit-checkout.pth").write_text(f"{REPOSITORY}\n")
    STAMP.write_text(fingerprint())


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts this may have an older Python
        sys.exit(f"segkit needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    command = sys.argv[1:]
    if not command or command[0] in ("-h", "--help"):
        sys.exit(__doc__)
    if not is_ready():
        ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
        with (ENVIRONMENT.parent / f".{ENVIRONMENT.name.lstrip('.')}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_ready():
                try:
                    make_environment()
                except subprocess.CalledProcessError as error:
                    sys.exit(f"set-up failed (exit code {error.returncode}): {' '.join(map(str, error.cmd))}")
    binaries = ENVIRONMENT / "bin"
    environment = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "VIRTUAL_ENV": str(ENVIRONMENT),
    }
    program = shutil.which(command[0], path=environment["PATH"]) or command[0]
    try:
        os.execvpe(program, [program, *command[1:]], environment)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
