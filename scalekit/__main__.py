"""Run the command line as `python -m scalekit`."""

from scalekit.cli import main

if __name__ == "__main__":
    main()
