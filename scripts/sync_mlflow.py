#!/usr/bin/env python3
"""Send to MLflow what is still waiting in run folders: python scripts/sync_mlflow.py [--follow] [FOLDER ...]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segkit.cli.sync_mlflow import main

if __name__ == "__main__":
    sys.exit(main())
