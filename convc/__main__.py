"""`python -m convc` is `convc`."""

import sys

from convc.cli.start import start

if __name__ == "__main__":
    sys.exit(start())
