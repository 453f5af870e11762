"""Packaging. Version ranges are those the test suite has been run with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

(version,) = re.findall(r'^__version__ = "(.+)"', Path("brac_plus_tf/__init__.py").read_text(), re.MULTILINE)

# Whoever has logs and no simulator needs neither MuJoCo nor gymnasium: training and export do without.
MUJOCO = ["gymnasium[mujoco]>=1.2,<1.3", "mujoco>=3.1.6,<3.2"]
ADROIT = [*MUJOCO, "gymnasium-robotics==1.4.2"]
PLOT = ["matplotlib>=3.8,<4"]
MINARI = ["minari>=0.5,<0.6"]
ONNX = ["tf2onnx>=1.17,<1.18", "onnx>=1.17,<2", "onnxruntime>=1.20,<2"]
LITERT = ["ai-edge-litert>=2.1,<3"]
VIDEO = ["imageio-ffmpeg>=0.5,<1"]
RAY = ["ray>=2.60,<3"]
SLURM = ["submitit>=1.5.4,<1.6"]
# Files beside the package that an installation holds inside it: see core/files.py: packaged
BESIDE = {"gin_configs": ["*.gin", "*/*.gin"], "quickstart": ["*.hdf5"]}

setup(
    name="brac_plus_tf",
    version=version,
    description="BRAC+ (behaviour-regularised offline reinforcement learning) in TensorFlow 2",
    long_description=Path("README.md").read_text() if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.10,<3.13",
    packages=[*find_packages(include=["brac_plus_tf", "brac_plus_tf.*"]), *(f"brac_plus_tf.{name}" for name in BESIDE)],
    package_dir={f"brac_plus_tf.{name}": name for name in BESIDE},
    package_data={"brac_plus_tf": ["*/*.json"], **{f"brac_plus_tf.{name}": files for name, files in BESIDE.items()}},
    entry_points={"console_scripts": ["brac-plus = brac_plus_tf.__main__:main"]},
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "tensorflow-probability>=0.25,<0.26",
        "tf-keras>=2.21,<2.22",
        "tensorboard>=2.19,<2.22",
        "absl-py>=2.1,<3",
        "gin-config>=0.5,<0.6",
        "numpy>=1.26,<3",
        "h5py>=3.11,<4",
        "safetensors>=0.4,<0.9",
        "rich>=13,<16",  # which keras needs, too
        "pooch>=1.8,<2",
        "requests>=2.25,<3",  # whose errors pooch passes on; tensorflow needs it, too
    ],
    extras_require={
        "test": [
            "pytest>=8,<10",
            "pytest-xdist>=3.7,<4",
            "hypothesis>=6,<7",
            "scipy>=1.11,<2",
            "ruff>=0.6,<1",
            "mypy>=1.11,<3",
            "setuptools>=77",
            *ADROIT,
            *PLOT,
            "rliable>=1.2,<1.3",  # what our statistics are compared with
            "arch>=7,<8",  # rliable's, which does not load beside pandas 3
            "pandas<3",
            *MINARI,
            *ONNX,
            *LITERT,
            *VIDEO,
            *RAY,
            *SLURM,
        ],
        "mujoco": MUJOCO,
        "adroit": ADROIT,
        "plot": PLOT,
        "compare": PLOT,
        # genuine D4RL's own dependencies; scripts/setup_d4rl.sh adds d4rl and mujoco_py, which pip cannot resolve
        "d4rl": [
            "gym==0.23.1",
            "numpy<2",
            "Cython>=0.29.37,<3",
            "cffi<2",
            "fasteners<1",
            "glfw<2",
            "imageio<3",
            "setuptools>=68",
        ],
        "minari": MINARI,
        "onnx": ONNX,
        "litert": LITERT,
        "video": [*MUJOCO, *VIDEO],
        "ray": [*PLOT, *RAY],
        "slurm": [*PLOT, *SLURM],
    },
)
