"""The process that processes of tests are forked from: it has imported what they need, once.

A test's own process has threads by then, and may have trained, after which PyTorch forks no more.
"""

import multiprocessing

from pipelines.task_host import IMPORTED

FORKSERVER = multiprocessing.get_context("forkserver")
# There is one for all, and what it is to import is asked when it starts.
FORKSERVER.set_forkserver_preload(
    ["tests.finetune.finetune_process", "tests.pipelines.warm", *IMPORTED]
)
