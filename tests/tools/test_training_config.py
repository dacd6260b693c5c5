"""Config files and the command line's KEY=VALUE."""

import pytest

from attnzoo.tools.training.config import data_of, load_config
from attnzoo.tools.training.recipe import Recipe


@pytest.mark.parametrize(
    "folder", ["my pictures", "2024", "1e3", "a,b", "(old)", "[half", "true", "'quoted'", " x ", "a=b", "", "Größe"]
)
@pytest.mark.parametrize("name", ["imagefolder", "wds", "hfds", "coco"])
def test_a_folder_is_text_whatever_it_looks_like(folder, name):
    assert data_of(None, ["data.name=" + name, f"data.root={folder}"])["root"] == folder


def test_a_folder_is_text_in_a_config_too():
    for config in ("classification/imagefolder", "detection/coco_mask_rcnn_nat_tiny", "classification/digits"):
        options = ["data.name=imagefolder", "data.train=2023", "data.root=2024", "data.class_map=1,2"]
        data = load_config(config, options).data
        assert (data.train, data.root, data.class_map) == ("2023", "2024", "1,2")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs=3", 3),
        ("clip_grad=0.5", 0.5),
        ("clip_grad=None", None),
        ("data.root=None", None),
        ("compile=true", True),
        ("compile=False", False),
        ("precision=16", "16"),
        ("model.name=123", "123"),
        ("model.drop_path_rate=0", 0),
        ("model.checkpoint_path=2024", "2024"),
        ("model.pretrained_cfg_overlay.file=2024", "2024"),
        ("data.input_size=(3,384,384)", (3, 384, 384)),
        ("data.input_size=3,384,384", (3, 384, 384)),
        ("optimizer.lr=1e-3", 1e-3),
        ("optimizer.opt=2024", "2024"),
        ("augment.kinds=[crop, flip]", ["crop", "flip"]),
        ("loss.name=bce", "bce"),
        ("loss.weight=[1, 2]", [1, 2]),
        ("loss.weight=balanced", "balanced"),
        ("loss.note=a (b)", "a (b)"),
    ],
)
def test_the_type_of_a_value_follows_its_key(option, value):
    found = load_config("classification/imagefolder", [option])
    for key in option.partition("=")[0].split("."):
        found = found[key]
    assert (found, type(found)) == (value, type(value))


def test_text_may_be_replaced_by_a_list():
    options = ["loss.name=[cross_entropy,dice]", "data.root=[old]"]
    config = load_config("segmentation/maskfolder", options)
    assert (config.loss.name, config.data.root) == (["cross_entropy", "dice"], "[old]")
    with pytest.raises(ValueError, match=r"loss\.name must be a Python literal .*, got \[dice"):
        load_config("segmentation/maskfolder", ["loss.name=[dice"])


def test_none_clears_what_a_config_sets():
    options = [f"{key}=None" for key in ("mixup", "loss", "schedule", "augment", "ema")]
    recipe = Recipe.from_config(load_config("classification/imagefolder", ["model.pretrained=False", *options]))
    assert (recipe.mixup, recipe.loss, recipe.schedule, recipe.augment, recipe.ema) == ({}, {}, {}, [], {})
    with pytest.raises(ValueError, match="model must be a dict, got None"):
        Recipe.from_config(load_config("classification/digits", ["model=None"]))


def test_an_option_may_change_an_entry_of_a_list():
    assert load_config("classification/digits", ["augment.0.degrees=5"]).augment[0]["degrees"] == 5


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("epochs", r"must have the form key=value, got 'epochs'"),
        ("=3", r"must have the form key=value or key\.key=value, got '=3'"),
        ("model..name=x", r"must have the form key=value or key\.key=value"),
        ("augment=[half", r"augment must be a Python literal such as .*, got \[half"),
        ("model.depths=(1,(1)", r"model\.depths must be a Python literal"),
        ("model.depths={1,2}", r"model\.depths must be a Python literal"),
        ("epochs.x=3", r"epochs\.x=3: the config has no such key, because epochs is 28"),
        ("augment.4.degrees=3", r"augment\.4\.degrees=3: the config has no such key"),
    ],
)
def test_a_mistake_in_an_option_names_it(option, says):
    with pytest.raises(ValueError, match=says):
        load_config("classification/digits", [option])


REST = "model = dict(name='nat_pico')\ndata = {}\nbatch_size = 1\noptimizer = {}\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(
            b"epochs = 3\nmodel = 1 / 0\n", r"mine\.py, line 2, cannot be read: ZeroDivisionError", id="error"
        ),
        pytest.param(b"epochs = 3\nmodel = name\n", r"mine\.py, line 2, cannot be read: NameError: .*name", id="name"),
        pytest.param(b"import os\nepochs = os.environ['NO']\n", r"line 2, cannot be read: KeyError: 'NO'", id="import"),
        pytest.param(b"exit()\n", r"mine\.py, line 1, cannot be read: SystemExit", id="exit"),
        pytest.param(b"x = 1\nepochs = (\n", r"mine\.py, line 2, is not valid Python: '\(' was never", id="syntax"),
        pytest.param(b"a = 1\n_base_ = 'no.py'\n", r"mine\.py, line 2, .*no\.py.* does not exist", id="base"),
        pytest.param(b"_base_ = 'base.py'\n", r"base\.py, line 3, cannot be read: ValueError: 7", id="in a base"),
        pytest.param("epochs = 3\n".encode("utf-16"), r"mine\.py is not UTF-8 text", id="UTF-16"),
        pytest.param(b"text = 3\n", r"mine\.py cannot be read: KeyError: 'text is reserved", id="reserved"),
        pytest.param(
            f"ema = dict(a=lambda: 3)\nepochs = 1\n{REST}".encode(),
            r"only None, .* dicts: ema\.a is a function",
            id="function",
        ),
        pytest.param(
            f"import os\nloss = [os]\nepochs = 1\n{REST}".encode(), r"mine\.py cannot .* 'module'", id="module"
        ),
        pytest.param(f"loss = {{1: 2}}\nepochs = 1\n{REST}".encode(), "loss has the key 1", id="key"),
        pytest.param(f"ema = dict(a=[{{1}}])\nepochs = 1\n{REST}".encode(), r"ema\.a\.0 is a set", id="set"),
    ],
)
def test_a_mistake_in_a_config_file_names_file_and_line(tmp_path, content, says):
    (tmp_path / "mine.py").write_bytes(content)
    (tmp_path / "base.py").write_text("a = 1\n\nraise ValueError(7)\n")
    with pytest.raises(ValueError, match=says):
        Recipe.from_config(load_config(tmp_path / "mine.py"))


def test_a_config_may_import_what_it_computes_with(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os\nepochs = len(os.path.basename('/abc'))\nroot = os.path.join('a', 'b')"
    )
    config = load_config(tmp_path / "mine.py")
    assert config.to_dict() == {"epochs": 3, "root": "a/b"}
