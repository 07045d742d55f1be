"""Options of loading and of generation: each is one field with its default, range, unit and help.

Everything else is made from these fields: the signatures of ``load``, ``generate`` and ``stream``,
the flags of the command line, the environment variables, the sampling fields of the server's
requests, and ``docs/options.md``. So an option is added here and nowhere else.
"""
