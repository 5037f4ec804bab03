"""Training: recorded episodes to a better model.

Nothing heavy is imported here: `sft.train_sft` and `selftrain.selftrain` load torch and TRL when
they run.
"""

from __future__ import annotations

from toolgym._util.threads import wait_briefly

wait_briefly()
