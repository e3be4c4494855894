"""Tests run on eight virtual CPU devices, so that meshes are real; all is set before the first use of a backend."""

import os

import jaxlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs here run for milliseconds: compile them fast rather than well.
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if jaxlib.version.__version_info__ < (0, 11):  # later ones do not know it
    FAST_COMPILE += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILE} --xla_force_host_platform_device_count=8"
