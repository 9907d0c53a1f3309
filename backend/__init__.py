"""Everything that talks to the outside: Label Studio, the command line, jobs. Start reading at app.py."""

import os

# Read once, when torch is loaded. Serving, training and whatever else runs on a machine share its cores: a pool of
# threads that spins while it waits starves the others, and makes its own passes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
