"""The commands as functions of Python: they return what the commands print with ``--json``, print nothing, and raise `NnsegError`.

Options have the names and defaults of the command line, with "_" for "-"; values are texts as there, or numbers and lists.

Each function is in a module of its own, which loads only what its command needs.
"""
