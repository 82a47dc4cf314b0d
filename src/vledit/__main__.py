"""`python -m vledit`: the command line, where the `vledit` script is not on the path."""

from .cli import main

if __name__ == "__main__":
    main()
