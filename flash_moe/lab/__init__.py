"""The lab: experiments that compare ways of streaming experts, on this machine and this store.

Each file of ``experiments/`` has one experiment. They are in the package and not in
``benchmarks/``, because users run them on their own disks and stores with ``flash-moe lab``, and an
installed package has no ``benchmarks/``.

``turns.py`` measures the sides of an experiment in turns, ``verdict.py`` has the rule that judges
them, ``bench.py`` the store, scratch files and cold reads, ``decoding.py`` whole models.
"""
