"""See `python train.py --help`."""

from segkit.cli.train import main

if __name__ == "__main__":
    main()
