"""python -m diffeat, which torchrun needs."""

from diffeat.cli import main

if __name__ == "__main__":
    main()
