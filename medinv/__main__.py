"""``python -m medinv`` is the console script."""

from medinv.cli import main

if __name__ == "__main__":
    main()
