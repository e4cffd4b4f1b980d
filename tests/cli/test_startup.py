"""What stands between the command and its first step: the packages that are imported by then."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import train

# A loss of a user's own, which notes what is imported when the first step reaches it.
NOTING = """
import sys
from pathlib import Path

from segkit.losses.combined import CombinedLoss

NOTE = Path(__file__).with_name("imported.txt")

class Noting(CombinedLoss):
    def compute(self, head):
        if not NOTE.exists():
            NOTE.write_text(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
        return super().compute(head)
"""

# What is for evaluations, figures, records, sweeps, or options not chosen. Each costs a tenth of a second to seconds.
LATER = {
    *("torchmetrics", "scipy", "matplotlib", "mlflow", "sqlalchemy", "pandas", "optuna", "albumentations"),
    *("segmentation_models_pytorch", "tifffile", "sklearn", "skimage", "onnx", "transformers", "tensorboard"),
}


def test_the_first_step_waits_for_no_package_that_it_does_not_use(tmp_path: Path):
    (tmp_path / "noting.py").write_text(NOTING)
    done = train(
        tmp_path / "run",
        *("loss._target_=noting.Noting", "trainer.max_steps=1"),
        *("tracker=mlflow", f"tracker.uri=sqlite:///{tmp_path}/mlflow.db"),
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    imported = set((tmp_path / "imported.txt").read_text().split())
    assert {"torch", "timm", "segkit"} <= imported
    assert not imported & LATER
