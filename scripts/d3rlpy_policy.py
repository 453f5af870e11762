"""Writes the policy of d3rlpy's SAC, untrained, as d3rlpy exports it to ONNX; needs d3rlpy 2.8.1 and onnx.

usage: python scripts/d3rlpy_policy.py OBSERVATION ACTION WIDTH,WIDTH... FILE.onnx
"""

import functools
import sys

import torch.onnx
from d3rlpy_worker import build, random_data


def main() -> None:
    """The script."""
    observation, action, widths, path = sys.argv[1:]
    # d3rlpy gives a scripted function, which the exporter that later PyTorch takes by default refuses
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    algorithm = build("sac", 256, [int(width) for width in widths.split(",")])
    algorithm.build_with_dataset(random_data(int(observation), int(action)))
    algorithm.save_policy(path)


if __name__ == "__main__":
    main()
