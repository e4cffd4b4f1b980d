import subprocess
import sys
from pathlib import Path

import pytest

from segkit.run import provenance
from segkit.run.provenance import git_state, machine, versions


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "code.py").write_text("a = 1\n")
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    for command in (
        ["init", "-q", "-b", "trunk"],
        ["add", "code.py"],
        [*identity, "commit", "-q", "-m", "first"],
    ):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


def test_a_clean_checkout(checkout: Path, tmp_path: Path):
    state = git_state(checkout, tmp_path / "code.diff")
    assert len(state["git.commit"]) == 40
    assert (state["git.branch"], state["git.dirty"]) == ("trunk", "false")
    assert not (tmp_path / "code.diff").exists()


def test_a_changed_file_makes_a_diff(checkout: Path, tmp_path: Path):
    (checkout / "code.py").write_text("a = 2\n")
    assert git_state(checkout, tmp_path / "code.diff")["git.dirty"] == "true"
    assert "-a = 1\n+a = 2\n" in (tmp_path / "code.diff").read_text()


def test_a_long_diff_is_cut(checkout: Path, tmp_path: Path):
    (checkout / "code.py").write_text("a = 2\n" * 1000)
    git_state(checkout, tmp_path / "code.diff", max_diff_bytes=100)
    content = (tmp_path / "code.diff").read_bytes()
    assert len(content) == 100 + len(b"\n[cut here]\n")
    assert content.endswith(b"[cut here]\n")


def test_no_checkout_and_no_git_give_nothing(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch):
    assert git_state(tmp_path) == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(checkout) == {}


def test_versions_need_no_import():
    code = "import sys; from segkit.run import provenance as p; print(p.versions(), 'torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == f"{versions()} False"
    assert versions()["version.torch"].startswith("2.")


def test_machine_asks_torch_for_gpus_only_if_it_is_there(monkeypatch: pytest.MonkeyPatch):
    class Cuda:
        is_available = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 2)
        get_device_name = staticmethod(lambda index: f"GPU {index}")

    class Torch:
        cuda = Cuda

    monkeypatch.setattr(provenance.sys, "modules", {})
    assert "machine.gpus" not in machine()
    monkeypatch.setattr(provenance.sys, "modules", {"torch": Torch})
    assert machine()["machine.gpus"] == "GPU 0, GPU 1"
    assert int(machine()["machine.cpus"]) >= 1
