"""First line of the program under its own name."""

from dispatchd.program import main

if __name__ == "__main__":
    main()
