"""The published release's files, missing, broken or hostile: its routers come as a pickle, which could hold code."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from mogu.errors import ModelFileError
from mogu.modeling.import_reference import import_reference, read_published_routers


class Hostile:
    """Unpickled by a trusting loader, this writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def saved(make_pair, tmp_path: Path) -> Path:
    model, _ = make_pair("llama", torch.float32)
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def published_state(layers: int = 3, width: int = 32, hidden: int = 6) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"linear_0.weight": (hidden, width), "linear_1.weight": (width, hidden), "linear_1.bias": (width,)}
    shapes |= {"linear_2.weight": (1, width), "linear_2.bias": (1,)}
    return {
        f"model.routers.{layer}.{which}.{part}": torch.randn(shape, generator=random)
        for layer in range(layers)
        for which in ("alpha_", "beta_")
        for part, shape in shapes.items()
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_in_it_does_not_run(tmp_path, zipped):
    marker, file = tmp_path / "ran", tmp_path / "router.pth"
    torch.save(published_state() | {"extra": Hostile(marker)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelFileError, match="may contain code"):
        read_published_routers(file)
    assert not marker.exists()
    torch.load(file, weights_only=False)  # the file really would have run it
    assert marker.exists()


def test_a_bare_pickle_with_code_in_it_does_not_run(tmp_path):
    marker, file = tmp_path / "ran", tmp_path / "router.pth"
    file.write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(ModelFileError):
        read_published_routers(file)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_router_file_cut_short_or_scrambled(tmp_path, zipped):
    file = tmp_path / "router.pth"
    torch.save(published_state(), file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    for end in [0, 1, 2, 10, 100, 1000, len(content) // 2, len(content) - 100, len(content) - 1]:
        file.write_bytes(content[:end])
        with pytest.raises(ModelFileError):
            read_published_routers(file)
    for start in range(0, len(content), len(content) // 40):
        scrambled = bytearray(content)
        scrambled[start : start + 16] = bytes(255 - byte for byte in content[start : start + 16])
        file.write_bytes(scrambled)
        try:
            read_published_routers(file)  # numbers may be other numbers: that cannot be seen
        except ModelFileError:
            continue


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda state: state.clear(), "it is empty"),
        (lambda state: state.update({"model.embed.weight": torch.zeros(1)}), "model.embed.weight"),
        (lambda state: state.pop("model.routers.1.beta_.linear_1.bias"), "layer 1 lacks linear_1.bias"),
        (lambda state: state.update({"model.routers.1.beta_.linear_1.weight": torch.zeros(32, 7)}), "shapes of layer 1 do not chain"),
        (lambda state: state.update({"model.routers.1.beta_.linear_2.bias": torch.zeros(2)}), "shapes of layer 1 do not chain"),
        (lambda state: state.update({"model.routers.0.alpha_.linear_0.weight": torch.zeros(6)}), "shapes of layer 0 do not chain"),
        (lambda state: state.update({"model.routers.0.alpha_.linear_2.bias": torch.tensor([float("nan")])}), "not finite"),
        (lambda state: state.update({"model.routers.0.alpha_.linear_2.bias": "text"}), "linear_2.bias"),
        (lambda state: state.update({7: torch.zeros(1)}), "7"),
    ],
)
def test_a_state_that_is_no_router(tmp_path, change, found):
    state = published_state()
    change(state)
    torch.save(state, tmp_path / "router.pth")
    with pytest.raises(ModelFileError, match=found):
        read_published_routers(tmp_path / "router.pth")


@pytest.mark.parametrize("state", [[torch.zeros(1)], torch.zeros(3), None])
def test_a_file_that_holds_no_state(tmp_path, state):
    torch.save(state, tmp_path / "router.pth")
    with pytest.raises(ModelFileError, match="it holds a"):
        read_published_routers(tmp_path / "router.pth")


@pytest.mark.parametrize(("layers", "width"), [(2, 32), (4, 32), (3, 16)])
def test_published_routers_of_another_base_model(saved, make_base, tmp_path, layers, width):
    torch.save(published_state(layers, width), tmp_path / "router.pth")
    base = make_base("llama", torch.float32)
    with pytest.raises(ModelFileError, match=f"{layers} layers of width {width}"):
        import_reference(base, saved / "unwill", saved / "glad", tmp_path / "router.pth")
    assert not any(type(module).__name__ == "RoutedLinear" for module in base.modules())


def test_published_responders_of_two_ranks(saved, make_base, tmp_path):
    torch.save(published_state(), tmp_path / "router.pth")
    adapter_config = saved / "glad" / "adapter_config.json"
    adapter_config.write_text(json.dumps(json.loads(adapter_config.read_text()) | {"lora_alpha": 99}))
    with pytest.raises(ModelFileError, match="alpha 99"):
        import_reference(make_base(), saved / "unwill", saved / "glad", tmp_path / "router.pth")
    with pytest.raises(ModelFileError, match="does not exist"):
        import_reference(make_base(), saved / "unwill", saved / "unwill", tmp_path / "nothing.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**20, 2**20),  # a few bytes that stand for 4 TiB
        torch.zeros(1).expand(2**13, 2**13),
        torch.eye(3).to_sparse(),
        torch.empty(4, device="meta"),
        torch.tensor([1 + 2j]),
        torch.tensor([True]),
    ],
    ids=["TiB", "MiB", "sparse", "meta", "complex", "bool"],
)
def test_a_tensor_that_is_not_what_it_seems_is_refused_before_it_is_laid_out(tmp_path, tensor, zipped):
    file = tmp_path / "router.pth"
    torch.save(published_state() | {"model.routers.0.alpha_.linear_0.weight": tensor}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelFileError, match="no plain matrix of numbers"):
        read_published_routers(file)


def test_an_archive_with_packed_parts_is_refused(tmp_path):
    """PyTorch stores its parts as they are; packed ones can unpack to any size."""
    torch.save(published_state(), tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(ModelFileError, match="its parts are compressed"):
        read_published_routers(tmp_path / "packed.pth")
