"""`python -m aws_lottery` and `accelerate launch -m aws_lottery`: the command `aws-lottery`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
