"""Entry point of ``python -m flash_moe``, the same as ``flash-moe``."""

import sys

from flash_moe.cli import main

sys.exit(main())
