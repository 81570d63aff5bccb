"""``python -m nnseg``, and with it ``torchrun -m nnseg train ...``."""

from nnseg.cli import main

main()
