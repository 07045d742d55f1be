"""How long a test waits for what must happen, before it fails instead of hanging."""

TIMEOUT_S = 300  # on a machine that does much else; pytest ends a test after 600
