"""`python -m convc` is `convc`."""

import sys

from convc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
