#!/usr/bin/env python
"""Build and publish everything: `builder build` under the name that people know."""

import sys

from builder.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["build"]
    main()
