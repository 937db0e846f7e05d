"""`python -m mogu` is the `mogu` command."""

from mogu.cli import main

main()
