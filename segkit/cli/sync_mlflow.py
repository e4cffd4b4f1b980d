"""`python scripts/sync_mlflow.py`: send to MLflow what waits in run folders, and with `--follow` what still comes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.cli.processes import require_one_process
from segkit.cli.streams import lasting_streams
from segkit.config.credentials import hidden
from segkit.errors import UserError

if TYPE_CHECKING:
    from segkit.run.record import Destination

RUNNING = "running"
ATTEMPTS = 3
"""Tries a folder, a second apart: enough for a locked database, short for a server that is down."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything found has been delivered, 1 when something has not, 2 for wrong input."""
    with lasting_streams():
        try:
            require_one_process()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="sync_mlflow.py",
        description="Send to MLflow what is still waiting in run folders. Each run goes where its "
        "tracker.uri said; what has arrived already is not sent again. Live runs are left alone, or followed.",
        epilog="Exit code: 0 everything delivered, 1 something not delivered, 2 wrong input.",
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        default=[Path("outputs")],
        help="run folders, or folders above them (outputs)",
    )
    parser.add_argument(
        "--uri",
        help="the tracker.uri of the runs with its password, which is kept nowhere; better: set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PGPASSWORD or ~/.pgpass",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="deliver what live runs write as well, until all of them are over; for machines that train without a "
        "way to the server",
    )
    given = parser.parse_args(arguments)
    folders: list[Path] = given.folders
    if given.uri is not None:
        hidden(given.uri)  # what the folders say is found again by it
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        print(f"no such folder: {', '.join(missing)}; give run folders or folders above them", file=sys.stderr)
        return 2
    results: dict[Path, tuple[str, str]] = {}
    down: dict[Destination, str] = {}
    try:
        for folder in _run_folders(folders):
            results[folder] = _sync(folder, down)
        if given.follow:
            live = [folder for folder, (outcome, _) in results.items() if outcome == RUNNING]
            _follow(live)
            results |= {folder: _sync(folder, down) for folder in live}
    except KeyboardInterrupt:
        _print_table(results)
        print("interrupted; the rest is still waiting", file=sys.stderr)
        return 130
    _print_table(results)
    return 1 if any(outcome == "not delivered" for outcome, _ in results.values()) else 0


def _run_folders(folders: Sequence[Path]) -> list[Path]:
    from segkit.run.record import RUN_INFO

    return sorted({record.parent for folder in folders for record in folder.rglob(RUN_INFO)})


def _sync(folder: Path, down: dict[Destination, str]) -> tuple[str, str]:
    """Outcome and detail for one run folder. Adds to the stores that are `down`, which are not waited for again."""
    from segkit.run.record import close_if_killed, held_alone, is_delivered, load_progress
    from segkit.tracking.mlflow.client import connect, reason
    from segkit.tracking.mlflow.delivery import deliver

    with held_alone(folder) as alone:
        if not alone:
            return RUNNING, "left to the run itself"
        record = close_if_killed(folder)
    if record is None:
        return "not delivered", "run_info.json cannot be read"
    progress = load_progress(folder)
    if progress is not None and is_delivered(folder, record, progress):
        return "complete", progress.run_id or ""
    connected, problem = False, down.get(record.destination, "")
    for attempt in range(0 if problem else ATTEMPTS):
        time.sleep(min(attempt, 1))
        try:
            connect(record.destination)
            connected = True
            return "delivered", deliver(folder).run_id or ""
        except Exception as error:  # whatever it is, the other folders still have their turn
            problem = f"{record.destination.uri}: {reason(error, record.destination.uri)}"
    if not connected:
        down[record.destination] = problem
    return "not delivered", problem


def _follow(folders: Sequence[Path]) -> None:
    """Deliver what the runs of `folders` write until all of them are over."""
    from segkit.run.record import held_alone
    from segkit.tracking.follow import Follower

    def is_over(folder: Path) -> bool:
        with held_alone(folder) as alone:
            return alone

    follower = Follower(is_over)
    for folder in folders:
        follower.look(folder)
    follower.wait()


def _print_table(results: dict[Path, tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not results:
        console.print("no runs recorded with tracker=mlflow here")
        return
    table = Table("run folder", "outcome", "MLflow run or reason")
    styles = {"not delivered": "bold red", "delivered": "green"}
    for folder, (outcome, detail) in results.items():
        table.add_row(str(folder), Text(outcome, styles.get(outcome, "")), Text(detail))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
