"""`python -m infra.sandbox`."""

import sys

from infra.sandbox.server import main

sys.exit(main())
