"""The command `grawa`; `grawa.lab.cli.main` is where it begins."""
