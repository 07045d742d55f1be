"""Options of loading and generation: one field each, with default, range, unit and help.

These fields generate the signatures of ``load``, ``generate`` and ``stream``, the command-line
flags, the environment variables, the sampling fields of the server's requests, and
``docs/options.md``. An option is added only here.
"""
