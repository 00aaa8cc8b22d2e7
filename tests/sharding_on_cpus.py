"""What `accelerate launch` with recipes/launch/fsdp2.yaml sets on GPUs, and on no CPU: sharding by FSDP2."""

from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from transformers import Trainer


def let_accelerate_shard(accelerator: Accelerator, **more: Any) -> None:
    """Set an accelerator of several processes to FSDP2, with layers of some parameters as groups of their own."""
    options = {"auto_wrap_policy": "size_based_wrap", "min_num_params": 10, "cpu_ram_efficient_loading": False, **more}
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **options)
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


class ShardingTrainer(Trainer):
    """A Trainer whose accelerator is set so."""

    min_num_params = 10  # of a group of layers

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        let_accelerate_shard(self.accelerator, min_num_params=self.min_num_params)
        self.is_fsdp_enabled = True
