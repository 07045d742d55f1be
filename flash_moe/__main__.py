"""``python -m flash_moe`` is ``flash-moe``."""

import sys

from flash_moe.cli import main

sys.exit(main())
