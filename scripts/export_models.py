#!/usr/bin/env python
"""Export the models to ONNX: `builder export` under the name that people know."""

import sys

from builder.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["export"]
    main()
