"""What the command line sets for OpenMP, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mogu.cli._threads import cpu_quota


def in_a_fresh_process(code: str, **environment: str) -> str:
    clear = "for name in ('OMP_WAIT_POLICY', 'OMP_NUM_THREADS', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME'): os.environ.pop(name, None)"
    whole = f"import os\n{clear}\nos.environ.update({environment!r})\n{code}"
    return subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True).stdout.strip()


COMMAND = "from mogu.cli import app\nimport sys\nsys.argv = ['mogu', *{arguments}]\n"
SHOWN = "print([os.environ.get(name) for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')])"


def after(arguments: list[str], **environment: str) -> str:
    command = COMMAND.format(arguments=arguments) + "try: app()\nexcept SystemExit: pass\n" + SHOWN
    return in_a_fresh_process(command, **environment).splitlines()[-1]


def test_a_command_lets_threads_sleep_unless_the_user_says_otherwise() -> None:
    assert after(["recipes", "ls"]) == "[None, '2000']"
    assert after(["recipes", "ls"], OMP_WAIT_POLICY="ACTIVE") == "['ACTIVE', None]"
    assert after(["recipes", "ls"], GOMP_SPINCOUNT="1000") == "[None, '1000']"


def test_neither_the_library_nor_serving_touches_it() -> None:
    assert in_a_fresh_process(f"import mogu, mogu.training, mogu.cli\n{SHOWN}") == "[None, None]"
    assert after(["serve", "--help"]) == "[None, None]"


def test_openmp_hears_of_it_in_time() -> None:
    """libgomp prints what it found as it is loaded, which is when PyTorch is imported."""
    code = "from mogu.cli._threads import share_the_machine\nshare_the_machine()\nimport torch"
    whole = f"import os\nos.environ['OMP_DISPLAY_ENV'] = 'verbose'\n{code}"
    said = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in said.stderr:
        pytest.skip("this build of PyTorch uses another OpenMP")
    assert "GOMP_SPINCOUNT = '2000'" in said.stderr


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container_is_read_in_both_versions(files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cores


def test_threads_are_no_more_than_the_quota(tmp_path: Path) -> None:
    def threads(quota: str, **environment: str) -> str:
        (tmp_path / "cpu.max").write_text(quota)
        code = "from pathlib import Path\nfrom mogu.cli._threads import share_the_machine\n"
        code += f"share_the_machine(cgroups=Path({str(tmp_path)!r}))\nprint(os.environ.get('OMP_NUM_THREADS'))"
        return in_a_fresh_process("os.environ.pop('OMP_NUM_THREADS', None)\n" + f"os.environ.update({environment!r})\n" + code)

    assert threads("50000 100000") == "1"
    assert threads("6400000 100000") in ("None", "64")  # 64 cores' worth: a limit only where there are more
    assert threads("50000 100000", OMP_NUM_THREADS="7") == "7"
