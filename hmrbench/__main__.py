"""`python -m hmrbench`."""

from hmrbench.cli import main

if __name__ == "__main__":
    main()
