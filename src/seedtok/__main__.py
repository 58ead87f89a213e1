"""`python -m seedtok`."""

from seedtok.cli.app import main

if __name__ == "__main__":
    main()
