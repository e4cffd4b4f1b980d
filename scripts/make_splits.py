"""See `python scripts/make_splits.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segkit.cli.make_splits import main

if __name__ == "__main__":
    main()
