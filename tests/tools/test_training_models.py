import pytest
import timm
import torch
from pictures import tiny_config, write_folders
from torch.testing import assert_close

import attnzoo  # noqa: F401  registers the models
from attnzoo.tools.train import train
from attnzoo.tools.training.network import create_network
from attnzoo.tools.training.recipe import Recipe


@pytest.fixture
def published(tmp_path):
    """Writes a file of weights for a model, as if published; returns the model options and the weights."""

    def write(name):
        path = tmp_path / f"{name}.pth"
        torch.manual_seed(5)
        weights = timm.create_model(name).state_dict()
        torch.save(weights, path)
        return {"name": name, "pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}, weights

    return write


def network_of(model, classes, size=(3, 160, 160), **changes):
    config = tiny_config({"name": "digits", "input_size": size}, model=model, **changes)
    return create_network(Recipe.from_config(config), [str(i) for i in range(classes)])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "agent_pico", "nat_pico", "shvit_pico"])
def test_another_number_of_classes_is_a_new_classifier(published, name):
    model, weights = published(name)
    network, said = network_of(model, 5)
    new = [key for key, value in network.state_dict().items() if value.shape != weights[key].shape]
    assert new
    assert said == f"pretrained; new: {', '.join(new)}"
    for key, value in network.state_dict().items():
        if key not in new:
            assert_close(value, weights[key], rtol=0, atol=0)
    assert network.eval()(torch.randn(1, 3, 160, 160)).shape == (1, 5)


def test_the_same_number_of_classes_keeps_the_classifier(published):
    model, weights = published("test_resnet")
    network, said = network_of(model, 1000)
    assert said == "pretrained"
    assert_close(network.state_dict()["fc.weight"], weights["fc.weight"], rtol=0, atol=0)


def test_weights_for_as_many_classes_as_the_data_has_are_all_kept(published, tmp_path):
    weights = timm.create_model("test_resnet", num_classes=5).state_dict()
    torch.save(weights, tmp_path / "five.pth")
    overlay = {"file": str(tmp_path / "five.pth"), "num_classes": 5}
    network, said = network_of({"name": "test_resnet", "pretrained": True, "pretrained_cfg_overlay": overlay}, 5)
    assert said == "pretrained"
    assert_close(network.state_dict()["fc.weight"], weights["fc.weight"], rtol=0, atol=0)


@pytest.mark.parametrize(("name", "stem"), [("test_resnet", "conv1.0.weight"), ("nat_pico", None)])
def test_grey_pictures_sum_the_colours_of_the_first_layer(published, name, stem):
    model, weights = published(name)
    network, said = network_of({**model, "in_chans": 1}, 5, size=(1, 160, 160))
    fitted = [
        key for key, value in network.state_dict().items() if value.ndim == 4 and value.shape != weights[key].shape
    ]
    assert len(fitted) == 1
    assert stem in (None, fitted[0])
    assert f"adapted to another shape: {fitted[0]}" in said
    assert_close(network.state_dict()[fitted[0]], weights[fitted[0]].sum(1, keepdim=True))


def test_positions_are_fitted_to_another_size(published):
    model, weights = published("test_vit")
    network, said = network_of({**model, "img_size": 96}, 5, size=(3, 96, 96))
    assert "adapted to another shape: pos_embed" in said
    assert network.state_dict()["pos_embed"].shape != weights["pos_embed"].shape
    assert network(torch.randn(1, 3, 96, 96)).shape == (1, 5)


def test_position_biases_of_agents_are_fitted_to_another_size(published):
    model, _ = published("agent_pico")
    network, said = network_of({**model, "img_size": 128}, 5, size=(3, 128, 128))
    assert "adapted to another shape:" in said
    assert network(torch.randn(1, 3, 128, 128)).shape == (1, 5)


def test_without_pretrained_all_is_new():
    assert network_of({"name": "test_resnet"}, 5)[1] == "randomly initialized"
    assert network_of({"name": "test_resnet"}, 5, freeze="backbone")[1] == (
        "randomly initialized, and the backbone stays so because it is frozen: set model.pretrained=True"
    )


MISTAKES = {
    "classes that are not the data's": ({"num_classes": 3}, r"model\.num_classes must be the number of classes .*, 5"),
    "channels that are not the data's": (
        {"in_chans": 1},
        r"model\.in_chans must be the channels of data\.input_size, 3, got 1",
    ),
    "an unknown argument": ({"depht": 3}, "model: .*depht"),
    "no weights": (
        {"pretrained": True, "pretrained_cfg_overlay": {"file": "/nowhere.pth"}},
        r"cannot be loaded: .*nowhere\.pth",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told(mistake):
    options, message = MISTAKES[mistake]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        network_of({"name": "test_resnet", **options}, 5)


def test_weights_of_another_model_are_refused(published, tmp_path):
    published("test_resnet")
    overlay = {"file": str(tmp_path / "test_resnet.pth")}
    with pytest.raises(ValueError, match="the weights do not belong to test_vit") as told:
        network_of({"name": "test_vit", "pretrained": True, "pretrained_cfg_overlay": overlay}, 5)
    assert "\n" not in str(told.value)


def test_weights_that_are_not_in_the_file_are_new(published, tmp_path, caplog):
    model, weights = published("test_resnet")
    del weights["layer4.0.conv2.weight"]
    torch.save(weights, tmp_path / "test_resnet.pth")
    _, said = network_of(model, 5)
    assert said == "pretrained; new: layer4.0.conv2.weight, fc.weight, fc.bias"
    assert not caplog.records
    with pytest.raises(ValueError, match=r"cannot be loaded: .*Missing key.*.*layer4\.0\.conv2"):
        network_of(model, 1000)


def test_a_model_without_published_weights_says_so():
    with pytest.raises(ValueError, match=r"weights of nat_pico cannot be loaded: .*model\.pretrained=False"):
        network_of({"name": "nat_pico", "pretrained": True}, 5)


def test_a_fine_tuned_model_opens_through_timm_without_the_weights_it_began_with(published, tmp_path, capsys):
    model, _ = published("test_resnet")
    write_folders(tmp_path / "data")
    config = tiny_config({"name": "imagefolder", "root": str(tmp_path / "data")}, model=model, epochs=1)
    directory = train(config, tmp_path / "run")
    assert "pretrained; new: fc.weight, fc.bias" in capsys.readouterr().out
    (tmp_path / "test_resnet.pth").unlink()
    opened = timm.create_model(f"local-dir:{directory}", pretrained=True)
    stored = torch.load(tmp_path / "run" / "best.pth", weights_only=True)["state_dict"]
    assert_close(dict(opened.state_dict()), dict(stored), rtol=0, atol=0)
