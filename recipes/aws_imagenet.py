"""Signed masks on ImageNet (Section 4.3, Table 2), of every round of one search.

    accelerate launch recipes/aws_imagenet.py --model resnet50
    accelerate launch --config_file recipes/launch/8gpu.yaml recipes/aws_imagenet.py --mixed_precision bf16

ResNet-50, MobileNetV2 or MLP-Mixer; 10 rounds leave 0.107 of the prunable weights; 70 epochs with the warm-up. Paper,
after the final training from the signs: 73.65 at 0.134 remaining (ResNet-50), 66.02 at 0.210 (MobileNetV2), 58.62 at
0.107 (Mixer). Here: not measured. --smoke: seconds on a CPU, on made-up images. Killed and started again with the same
options, it goes on. Then: recipes/train_from_mask.py OUTPUT_DIR/round-NN --recipe imagenet.
"""

from dataclasses import replace

from aws_lottery import TrainingConfig
from aws_lottery.cli.find import search_main
from aws_lottery.paper import Settings

FINAL = TrainingConfig(
    epochs=120, optimizer="adam", learning_rate=1e-3, weight_decay=1e-5, schedule="cosine", batch_size=256
)
SEARCH = Settings(warmup_epochs=20, epochs_per_round=5, rounds=10, prune_rate=0.2, final=FINAL)  # at a constant rate
SETTINGS = {
    "resnet50": SEARCH,
    "mobilenetv2": replace(
        SEARCH, final=replace(FINAL, optimizer="sgd", learning_rate=0.05, momentum=0.9, weight_decay=5e-5)
    ),
    "mlp_mixer": replace(SEARCH, final=replace(FINAL, epochs=200, weight_decay=5e-5, batch_size=512)),
}

if __name__ == "__main__":
    search_main(__doc__, "ILSVRC/imagenet-1k", SETTINGS)
