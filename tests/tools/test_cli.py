import subprocess
import sys

import click
import pytest
import torch
from click.testing import CliRunner

from attnzoo.tools import cli
from attnzoo.tools.export import export_onnx


@pytest.fixture
def call():
    return lambda *arguments: CliRunner().invoke(cli.main, list(arguments))


@pytest.mark.parametrize("command", ["list", "train", "convert"])
def test_help_of_a_command_has_an_example(call, command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"attnzoo {command}" in result.output.split("Example")[1]


def test_ctrl_c_ends_any_command_in_one_line(call, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("attnzoo.tools.evaluate.evaluate", interrupted)
    result = call("evaluate", "nat_pico", "data.name=digits")
    assert (result.exit_code, result.stderr) == (130, "stopped by Ctrl-C\n")


def test_an_unknown_command_is_named(call):
    result = call("trian")
    assert result.exit_code == 2
    assert "No such command 'trian' (did you mean train?)." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["nowhere.py"], ["nowhere.py", "`attnzoo configs`"], id="no such config"),
        pytest.param(["classification/digits", "epoch=3"], ["unknown config key", "did you mean epochs=3?"], id="typo"),
        pytest.param(["classification/digits", "epochs"], ["key=value", "'epochs'"], id="override without value"),
        pytest.param(["classification/digits", "epochs=0"], ["epochs", "at least 1", "got 0"], id="no epochs"),
        pytest.param(["classification/digits", "batch_size=1.5"], ["batch_size", "1.5"], id="half an image"),
        pytest.param(["classification/digits", "precision=float8"], ["bfloat16", "float8"], id="precision"),
        pytest.param(["classification/digits", "model.name=nat_pica"], ["nat_pica", "nat_pico"], id="model"),
        pytest.param(["classification/digits", "model.embed=3"], ["model:", "embed"], id="model argument"),
        pytest.param(["classification/digits", "model.in_chans=3"], ["in_chans", "1, got 3"], id="channels"),
        pytest.param(["classification/digits", "model.num_classes=7"], ["num_classes", "10"], id="classes"),
        pytest.param(["classification/digits", "data.name=letters"], ["data.name", "digits", "letters"], id="data"),
        pytest.param(["classification/digits", "data.root=x"], ["data:", "data.root"], id="data argument"),
        pytest.param(["classification/digits", "augment=[dict]"], ["augment", "type"], id="augmentation"),
        pytest.param(["classification/digits", "loss.smooth=1"], ["loss.label_smoothing=1"], id="loss argument"),
        pytest.param(
            ["classification/digits", "optimizer.opt=adamww"], ["'adamww' (did you mean adamw"], id="optimizer"
        ),
        pytest.param(["classification/digits", "schedule.sched=cosin"], ["did you mean cosine?"], id="no schedule"),
        pytest.param(["classification/digits", "schedule.sched=plateau"], ["sched", "cosine"], id="schedule"),
        pytest.param(["classification/digits", "schedule.warmup=3"], ["warmup_epochs=3"], id="schedule argument"),
        pytest.param(["classification/digits", "mixup.alpha=1"], ["mixup.mixup_alpha=1"], id="mixup argument"),
        pytest.param(["classification/digits", "ema.rate=1"], ["ema.rate", "ema.decay"], id="average argument"),
        pytest.param(["classification/digits", "batch_size=33", "accumulate=2"], ["33", "nearest"], id="uneven parts"),
        pytest.param(["classification/digits", "compile=1"], ["compile", "True or False"], id="switch"),
        pytest.param(["classification/digits", "clip_grad=-1"], ["clip_grad", "positive"], id="clipping"),
        pytest.param(["classification/digits", "freeze=half"], ["freeze", "none, backbone"], id="choice"),
        pytest.param(
            ["classification/digits", "model.drop_path_rate=2"], ["drop_path_rate", "less than 1, got 2"], id="rate"
        ),
        pytest.param(["classification/digits", "ema.decay=2"], ["ema.decay", "less than 1, got 2"], id="decay"),
        pytest.param(["classification/digits", "data.crop_pct=0"], ["crop_pct", "greater than 0"], id="crop"),
        pytest.param(["classification/digits", "data.std=(0,)"], ["data.std", "positive", "(0,)"], id="deviation"),
        pytest.param(
            ["classification/imagefolder", "data.root=.", "augment.hflip=1.5"],
            ["hflip", "0 .. 1, got 1.5"],
            id="chance",
        ),
        pytest.param(
            ["classification/imagefolder", "data.root=.", "augment.auto_augment=rand-mx"],
            ["rand-m9", "rand-mx"],
            id="policy",
        ),
        pytest.param(
            ["classification/digits", "optimizer.lr=abc"], ["optimizer.lr", "number", "'abc'"], id="no number"
        ),
        pytest.param(["classification/digits", "optimizer.eps=abc"], ["optimizer.eps", "'abc'"], id="no small number"),
        pytest.param(
            ["classification/digits", "loss.name=bce", "loss.target_threshold=abc"],
            ["target_threshold"],
            id="threshold",
        ),
        pytest.param(["classification/digits", "mixup.prob=2"], ["mixup.prob", "0 .. 1, got 2"], id="share"),
        pytest.param(
            ["classification/digits", "mixup.mixup_alpha=0", "mixup.cutmix_alpha=0"], ["mixup=None"], id="no mixing"
        ),
        pytest.param(
            ["classification/digits", "model.name=biformer_pico", "data.input_size=(1,100,100)"],
            ["does not take images", "1 x 100 x 100", "pass model.auto_pad=True"],
            id="image size",
        ),
        pytest.param(["classification/digits", "model.mlp_ratio=-1"], ["model:", "negative"], id="negative width"),
        pytest.param(["classification/digits", "seed=99999999999"], ["seed", "4294967295"], id="seed"),
        pytest.param(["classification/digits", "detector.head=fcos"], ["detector", "detection"], id="other task"),
    ],
)
def test_a_mistake_ends_in_one_line(call, tmp_path, arguments, says):
    result = call("train", *arguments, "--work-dir", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert all(word in result.stderr for word in says), result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("epochs = ", "not valid Python", id="syntax"),
        pytest.param("epochs = 3", "must set model, data", id="missing keys"),
        pytest.param(
            "model = 'nat_pico'\ndata = {}\nepochs = 1\nbatch_size = 1\noptimizer = {}", "model must", id="kind"
        ),
    ],
)
def test_a_bad_config_file_ends_in_one_line(call, tmp_path, text, says):
    config = tmp_path / "mine.py"
    config.write_text(text)
    result = call("train", str(config))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert says in result.stderr


def test_an_error_that_is_not_the_users_keeps_its_traceback(call, monkeypatch):
    from attnzoo.tools.training import config

    def broken(*arguments):
        return {}.popitem() if arguments else int("seven")

    monkeypatch.setattr(config, "load_config", broken)
    assert isinstance(call("train", "classification/digits").exception, KeyError)


@pytest.mark.full
def test_train_runs_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "attnzoo.tools.train", "nowhere"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "no config 'nowhere'" in result.stderr
    assert "Traceback" not in result.stderr


def test_names_are_shown_where_the_output_is_ascii():
    @click.group(cls=cli.MistakesGroup)
    def group():
        pass

    @group.command()
    def show():
        print("rød")
        raise ValueError("blå")

    result = CliRunner(charset="ascii").invoke(group, ["show"])
    assert result.stdout == "r\\xf8d\n"


def test_a_cache_folder_that_cannot_be_written_is_told_in_a_line(call, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied", "/cache")

    monkeypatch.setattr("timm.create_model", fail)
    result = call("predict", "nat_tiny", "--pretrained", str(tmp_path))
    assert "no images" in result.stderr
    (tmp_path / "x.png").write_bytes(b"x")
    result = call("predict", "nat_tiny", "--pretrained", str(tmp_path))
    assert len(result.stderr.splitlines()) == 1
    assert "the published weights of nat_tiny cannot be loaded" in result.stderr
    assert "HF_HOME" in result.stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "a.pth"), "a.pth: Permission denied"),
        (FileNotFoundError(2, "No such file or directory", "b.json"), "b.json: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("the connection was reset"), "the connection was reset"),
    ],
    ids=["permission", "missing", "full", "connection"],
)
def test_an_error_of_the_system_is_one_line(call, monkeypatch, error, says):
    def fail(*_):
        raise error

    # in the code of another library
    monkeypatch.setattr("attnzoo.tools.predict.pictures_in", lambda *_, **__: sorted([1], key=fail))
    result = call("predict", "nat_pico", "x")
    assert (result.exit_code, result.stderr) == (1, f"Error: {says}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", __file__, "--model", "nat_pico", "--output", "{}/out"),
        ("predict", "nat_pico", __file__, "--output", "{}/out"),
        ("evaluate", "nat_pico", "classification/digits", "--output", "{}/out.json"),
        ("evaluate", "nat_pico", "classification/digits", "--worst", "{}/out"),
        ("export", "nat_pico", "--output", "{}/out.onnx"),
        ("train", "classification/digits", "--work-dir", "{}/out"),
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-2]}",
)
def test_where_nothing_can_be_written_is_told_before_the_work(call, tmp_path, monkeypatch, arguments):
    def work(*_, **__):
        raise AssertionError

    for name in ("convert.read_weights", "predict.predict", "evaluate.evaluate", "training.session.run"):
        monkeypatch.setattr(f"attnzoo.tools.{name}", work)
    monkeypatch.setattr("attnzoo.tools.export.onnx_file.prepare", work)
    (tmp_path / "file").touch()
    result = call(*(argument.format(tmp_path / "file") for argument in arguments))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert "file" in result.stderr
    assert "is not writable" in result.stderr


def test_a_mistake_in_an_argument_does_not_name_the_function_that_takes_it(call, tmp_path):
    result = call("train", "classification/digits", "model.embed=3", "--work-dir", str(tmp_path / "run"))
    assert result.stderr == "Error: model: got an unexpected keyword argument 'embed' (did you mean embed_dim?)\n"
    with pytest.raises(TypeError, match=r"^unknown export option 'opsat': must be one of form, task, "):
        export_onnx(torch.nn.Identity(), tmp_path / "a.onnx", opsat=20)
    result = call("export", "nat_pico", "--output", str(tmp_path / "a.onnx"), "--dynamic", "")
    assert result.exit_code == 2
    assert "must be batch, height, width, separated by commas, or none, got an empty text" in " ".join(
        result.stderr.split()
    )
