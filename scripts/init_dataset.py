"""See `python scripts/init_dataset.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segkit.cli.init_dataset import main

if __name__ == "__main__":
    main()
