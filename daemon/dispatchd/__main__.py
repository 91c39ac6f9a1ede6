"""Let `python -m dispatchd` be the command line."""

from dispatchd.cli.entry import main

if __name__ == "__main__":
    main()
