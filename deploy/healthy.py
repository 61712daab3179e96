"""Exits with 0 if a URL answers with status 200 within four seconds: the health check of a container."""

import sys
from urllib.request import urlopen

with urlopen(sys.argv[1], timeout=4) as answer:
    sys.exit(answer.status != 200)
