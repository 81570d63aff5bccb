"""``python -m nnseg.cli``."""

from nnseg.cli import main

main()
