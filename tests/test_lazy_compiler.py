"""PyTorch's compiler is imported by those who compile, and works for them as ever. Every case has its own process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY, run

START = """
import sys
from segkit.lazy_compiler import import_compiler_lazily
import_compiler_lazily()

def is_there():
    return "torch._dynamo.eval_frame" in sys.modules
"""


def says(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", START + script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_run_that_compiles_nothing_does_not_import_it(tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nfrom segkit.cli.train import main\nmain()\n"
        "print('there:', 'torch._dynamo.eval_frame' in sys.modules)\n"
        "import torch\n"
        "print('deterministic:', torch.are_deterministic_algorithms_enabled())\n"
    )
    arguments = [*TINY, "tracker=none", "trainer.max_steps=1", "trainer.deterministic=true"]
    done = run(*arguments, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path, script=str(script))
    assert done.returncode == 0, done.stderr
    assert "there: False" in done.stdout
    assert "deterministic: True" in done.stdout


def test_importing_torchvision_and_stepping_an_optimizer_do_not_bring_it():
    assert says("""
import torch, torchvision
weights = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([weights], lr=0.5)
weights.sum().backward()
optimizer.step()
print(*weights.tolist(), is_there())
""") == ["0.5", "0.5", "False"]


def test_what_was_left_out_before_stays_left_out_of_what_is_compiled():
    assert says("""
import torch
from torch._dynamo import disable

@torch.compiler.disable
def left_out(x):
    return x + (10 if torch.compiler.is_compiling() else 1)

@torch.compiler.disable()
def left_out_too(x):
    return x + (10 if torch.compiler.is_compiling() else 1)

def whole(x):
    return left_out(left_out_too(x)) + (100 if torch.compiler.is_compiling() else 0)

zero = torch.zeros(())
print(whole(zero).item(), is_there())
print(torch.compile(whole, backend="eager")(zero).item(), is_there())
left_out_later = disable(lambda x: x + (10 if torch.compiler.is_compiling() else 1))
print(torch.compile(lambda x: left_out_later(x), backend="eager")(zero).item())
""") == ["2.0", "False", "102.0", "True", "1.0"]


@pytest.mark.parametrize(
    "statement",
    [
        "import torch._dynamo.config as found",
        "import torch; found = torch._dynamo.config",
    ],
)
def test_any_way_to_ask_for_a_part_gives_the_real_one(statement: str):
    assert says(f"""
{statement}
import torch._dynamo
print(found is sys.modules["torch._dynamo.config"], found is torch._dynamo.config)
print(found.__spec__.name, found.__spec__.loader is not None, torch._dynamo.__file__ is not None)
""") == ["True", "True", "torch._dynamo.config", "True", "True"]


def test_what_torchvision_took_of_the_stand_in_answers_like_the_real_one():
    assert says("""
from torchvision.ops.roi_align import is_compile_supported
print(is_there())
answer = is_compile_supported("cpu")
from torch._dynamo.utils import is_compile_supported as real
print(is_there(), real is not is_compile_supported, answer == real("cpu"))
import_compiler_lazily()  # too late: nothing changes
import torch._dynamo
print(torch._dynamo.utils.is_compile_supported is real)
""") == ["False", "True", "True", "True", "True"]


def test_looking_through_all_modules_does_not_bring_it():
    assert says("""
import importlib.util, inspect, torch, torch._dynamo
inspect.getmodule(is_there)
[getattr(module, "__file__", None) for module in sys.modules.values()]
print(importlib.util.find_spec("torch._dynamo") is not None, is_there())
""") == ["True", "False"]
