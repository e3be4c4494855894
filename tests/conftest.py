"""Tests run on eight virtual CPU devices, so that meshes are real; set before the first use of a backend."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs here run for milliseconds: compile them fast rather than well.
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILE} --xla_force_host_platform_device_count=8"
