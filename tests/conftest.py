"""One thread a process, in the tests and in what they start.

Their models are tiny: a second thread brings nothing, and waits for its turn whenever the machine
has other work.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
