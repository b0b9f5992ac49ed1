"""`python -m pixelthink_jax` is `pixelthink`."""

import sys

from pixelthink_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
