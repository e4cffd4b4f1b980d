"""See `python scripts/check_data.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segkit.cli.check_data import main

if __name__ == "__main__":
    main()
