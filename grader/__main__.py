"""`python -m grader`, which works wherever the command itself is not on the path."""

import sys

from grader.entry import main

if __name__ == "__main__":
    sys.exit(main())
