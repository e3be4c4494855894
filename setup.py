"""Package metadata; the versions that are known to work together, with bounds on both sides."""

from setuptools import find_packages, setup

setup(
    name="imagen-jax",
    version="0.1.0",
    description="Instruct-Imagen in JAX: pictures from multi-modal instructions",
    license="Apache-2.0 AND MIT AND CC-BY-SA-4.0",  # the code; with bundled drawings; with the released weights
    python_requires=">=3.11,<3.13",  # those that it was run on
    packages=find_packages(include=["imagen_jax*", "data_pipelines*", "experiments*"]),
    package_data={
        "imagen_jax": ["released/*", "released/super_res/*", "evaluation/released_judges/*"],
        "data_pipelines": ["assets/*", "fixture/*", "fixture/sheets/*", "templates/*.txt"],
    },
    install_requires=[
        "absl-py>=2.1,<3",
        "etils[epath]>=1.9,<2",
        "flax>=0.12,<0.13",
        "jax>=0.10.2,<0.13",
        "jaxtyping>=0.3,<0.4",
        "ml_collections>=1.1,<2",
        "numpy>=2.0,<3",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=11,<14",
        "safetensors>=0.5,<0.9",
        "scipy>=1.14,<2",
        "sentencepiece>=0.2,<0.3",
        "tensorboard>=2.19,<3",
        "tensorstore>=0.1.74,<0.2",
        "tokenizers>=0.21,<0.24",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "app": ["gradio>=6.20,<7"],  # --mode=serve
        # Preparing data sets, retrieval and streaming records.
        "data": [
            "apache-beam>=2.74,<3",
            "array-record>=0.8,<0.9",
            "faiss-cpu>=1.12,<2",
            "h5py>=3.12,<4",
            "importlib_resources>=6,<8",  # tensorflow-datasets needs it and does not say so
            "onnxruntime>=1.20,<2",
            "opencv-python-headless>=4.11,<6",
            "pyarrow>=19,<26",
            "resvg-py>=0.5,<0.6",
            "simplejpeg>=1.9,<2",
            "tensorflow-cpu>=2.21,<2.22; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "tensorflow>=2.21,<2.22; sys_platform != 'linux' or platform_machine != 'x86_64'",  # there it has no -cpu
            "tensorflow-datasets>=4.9.8,<5",
        ],
        # Compiling for TPU slices without one (config.plan.compile); its libtpu is proprietary.
        "plan": ["jax[tpu]>=0.10.2,<0.13"],
        "test": ["chex>=0.1.90,<0.2", "pytest>=8,<10", "pytest-xdist>=3.6,<4", "ruff>=0.17,<0.18"],
        # Live parity of the T5 encoder; the tests use a recording where this is missing.
        "parity": ["torch>=2.13,<3", "transformers>=5.17,<6"],
    },
)
