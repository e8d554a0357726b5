"""``python -m gradwatch``: the same as the ``gradwatch`` command."""

from __future__ import annotations

import sys

from gradwatch._cli import main

if __name__ == "__main__":
    sys.exit(main())
