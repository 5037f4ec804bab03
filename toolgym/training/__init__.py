"""Training: recorded episodes to a better model.

Nothing heavy is imported here: `sft.train_sft` and `selftrain.selftrain` load torch and TRL when
they run.
"""

from __future__ import annotations

import os

# OpenMP reads this once, when torch is imported. Its default lets waiting threads spin, and beside
# any other program two spinning threads train four to ten times slower than with this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
