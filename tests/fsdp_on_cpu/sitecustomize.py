"""For tests alone, in Python processes that have this folder on PYTHONPATH: accelerate shards by FSDP2 on CPUs, too.

accelerate 1.15 does what a configuration says of FSDP only where `_prepare_backend` found GPUs or other accelerators
(MULTI_GPU, MULTI_XPU, ...; AcceleratorState.__init__). On CPUs the kind is MULTI_CPU, and the configuration is dropped
without a word. No setting changes that: the kind comes from torch.cuda.is_available and its like, and `fsdp_plugin=` is
kept only beside such a kind. What follows is what accelerate does there, for MULTI_CPU. All else is as users have it:
the launcher, its file, the variables that it sets, the plugin that accelerate makes of them, and `prepare`.
"""

import functools
import os

if os.environ.get("ACCELERATE_USE_FSDP") == "true":  # set by `accelerate launch` for the processes that it starts
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    plain = AcceleratorState.__init__

    @functools.wraps(plain)
    def shards_on_cpus(self, *args, fsdp_plugin=None, **options):
        first = not self._shared_state
        plain(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if first and fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = shards_on_cpus
