"""Signed masks on CIFAR-100 (Section 4.2, Figure 3), of every round of one search.

    accelerate launch recipes/aws_cifar100.py --model resnet50
    python recipes/aws_cifar100.py --model resnet50 --dataset FOLDER --mixed_precision bf16 --channels_last

15 rounds leave 0.035 of the prunable weights; 160 epochs with the warm-up. Paper: Figure 3a gives curves, no figures.
Here: not measured. Hardware: one GPU; 2 gloo processes work too. --smoke: seconds on a CPU, on made-up images.
Killed and started again with the same options, it goes on. Then: recipes/train_from_mask.py OUTPUT_DIR/round-NN.
"""

from aws_lottery.cli.find import search_main
from aws_lottery.paper import SMALL_IMAGES

if __name__ == "__main__":
    search_main(__doc__, "uoft-cs/cifar100", SMALL_IMAGES)
