"""Final training of a fresh initialization from a signed mask: A(|theta_init| s), or a control on the same init.

    python recipes/train_from_mask.py org/resnet50-aws-0.14 --recipe imagenet --dataset ILSVRC/imagenet-1k --seed 1
    python recipes/train_from_mask.py runs/tiny/round-09 --dataset zh-plus/tiny-imagenet --transfer mask

--transfer signs | mask | random-signs | dense | ... (--help). Hyper-parameters are the paper's for the mask's network.
Writes result.json with the accuracy before and after training, and model.safetensors. Expected: the paper's Table 2
(recipes/aws_imagenet.py). Here: not measured. --smoke: seconds on a CPU, on made-up images.
"""

from aws_lottery.cli.train import final_main

if __name__ == "__main__":
    final_main(__doc__)
