"""`python -m grawa` is the command `grawa`."""

from grawa.cli import main

main()
