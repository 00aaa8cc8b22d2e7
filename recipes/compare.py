"""Final trainings from one or two searches, conditions x rounds x seeds: table, plots, cards (Section 4.2).

    python recipes/compare.py runs/cifar100-resnet50-aws-seed0 runs/cifar100-resnet50-lrr-seed0 \\
        --dataset uoft-cs/cifar100 --rounds 7 9 11 --barrier_rounds 11 --transfers dense solution signs lrr:mask

--transfers: dense, solution, signs, mask, signs-norm (Figure 2), signs-norm-shifted (Figure 5), random-signs, ...
Writes results.jsonl, table.md, plots, and the masks with cards that state what was measured. What is done is not done
again; the same command started twice shares the work. Hyper-parameters are the paper's. docs/paper.md has the command
of each figure and table. --smoke: seconds on a CPU, on made-up images.
"""

from aws_lottery.cli.compare import compare_main

if __name__ == "__main__":
    compare_main(__doc__)
