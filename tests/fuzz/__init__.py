"""Damaged files for every reader of the library: ``python -m tests.fuzz``.

Valid files of each kind (``seeds``) are damaged (``mutations``, ``forgeries``) and read in
a child process under limits (``child``). Each is read, or refused with a ValueError or
OSError that names the file; all else is a fault (``campaign``).
"""

from collections import namedtuple

#: A valid file: what it is, its folder's name, its path in there, how it is damaged, the
#: reader of the folder, and words of which one is in every clear error.
Seed = namedtuple("Seed", "kind name file forge read words")
