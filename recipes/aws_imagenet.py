"""Signed masks on ImageNet (Section 4.3, Table 2), of every round of one search.

    accelerate launch recipes/aws_imagenet.py --model resnet50
    accelerate launch --config_file recipes/launch/8gpu.yaml recipes/aws_imagenet.py --mixed_precision bf16

ResNet-50, MobileNetV2 or MLP-Mixer; 10 rounds leave 0.107 of the prunable weights; 70 epochs with the warm-up. Paper,
after the final training from the signs: 73.65 at 0.134 remaining (ResNet-50), 66.02 at 0.210 (MobileNetV2), 58.62 at
0.107 (Mixer). Here: not measured. --smoke: seconds on a CPU, on made-up images. Killed and started again with the same
options, it goes on. Then: recipes/train_from_mask.py OUTPUT_DIR/round-NN --recipe imagenet.
"""

from aws_lottery.cli.find import search_main
from aws_lottery.paper import IMAGENET

if __name__ == "__main__":
    search_main(__doc__, "ILSVRC/imagenet-1k", IMAGENET)
