"""Signed masks on Tiny-ImageNet (Section 4.2, Figure 3), of every round of one search.

    accelerate launch recipes/aws_tiny_imagenet.py --model resnet50
    python recipes/aws_tiny_imagenet.py --model resnet50 --dataset FOLDER --mixed_precision bf16 --channels_last

15 rounds leave 0.035 of the prunable weights; 160 epochs with the warm-up. Paper: Figure 3a gives curves, no figures.
Here: not measured. Hardware: one GPU; 2 gloo processes work too. --smoke: seconds on a CPU, on made-up images.
Killed and started again with the same options, it goes on. Then: recipes/train_from_mask.py OUTPUT_DIR/round-NN.
"""

from dataclasses import replace

from aws_lottery import TrainingConfig
from aws_lottery.cli.find import search_main
from aws_lottery.paper import SMALL_IMAGES, Settings

FINAL = TrainingConfig(
    epochs=100,
    optimizer="sgd",
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="multistep",
    milestones=(0.5, 0.75),
    batch_size=128,
)
SEARCH = Settings(warmup_epochs=10, epochs_per_round=10, rounds=15, prune_rate=0.2, final=FINAL)  # at a constant rate
SETTINGS = {
    **dict.fromkeys(SMALL_IMAGES, SEARCH),  # ResNet-50 and the other networks of aws_lottery.paper
    "mobilenetv2": replace(SEARCH, final=replace(FINAL, learning_rate=0.05)),
}

if __name__ == "__main__":
    search_main(__doc__, "zh-plus/tiny-imagenet", SETTINGS)
