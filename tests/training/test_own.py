"""A loss, views and a model of one's own: by name, as objects, in records, and never from files."""

import dataclasses
import json
import sys

import own_code
import pytest
import torch
from runs import Killed, assert_equal, kill, metrics, tiny
from test_processes import EXACT, difference, train

import effssl
from effssl import PretrainConfig
from effssl.cli import main
from effssl.cli._main import parse
from effssl.hub._card import compose_card
from effssl.hub._publishable import check_publishable
from effssl.loss_specs import LOSSES
from effssl.naming import ModelName
from effssl.own import name_of
from effssl.report import write_report
from effssl.training._checkpoint import load_checkpoint
from effssl.training._own import Own
from effssl.views import MultiView, ViewOptions
from effssl.views.options import DEFAULTS
from effssl.views.own import OwnViews

ALIKE = {"epochs": 1, "evaluate_every": 0}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module in the current folder that leaves a file when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    text = "open('imported', 'w').close()\nfrom own_code import same_as_bt as f, by_image as v\n"
    (tmp_path / "planted_code.py").write_text(text)
    yield tmp_path / "imported"
    sys.modules.pop("planted_code", None)


def weights(config):
    return load_checkpoint(config.run_folder)["model"]


def test_a_loss_by_its_name_trains_as_the_built_in_one_that_it_calls(tmp_path):
    one = tiny(tmp_path / "a", loss="own_code:same_as_bt", log_every=1, **ALIKE)
    other = tiny(tmp_path / "b", log_every=1, **ALIKE)
    effssl.pretrain(one)
    effssl.pretrain(other)
    assert_equal(weights(one), weights(other))
    for line, expected in zip(metrics(one.run_folder), metrics(other.run_folder), strict=True):
        assert line["invariance"] == expected["invariance"] and line["loss"] == expected["loss"]


@pytest.mark.parametrize(
    "loss, said",
    [
        ("brlow", "wmse or package.module:name; got 'brlow'; did"),
        ("no_such_code:f", "there is no module 'no_such_code' in"),
        ("own_code:plan", "has no 'plan'; did you mean 'plain'? give package.module:name"),
        ("own_code.py:plain", "a module is named without .py"),
        ("own_code:NUMBER", "must be a function of (V, N, D); got 3"),
        ("own_code:vector", "must be a scalar float tensor; got float32 of shape (8, 16)"),
        ("own_code:number", "must be a scalar float tensor; got 3.0"),
        ("own_code:dead", "has no gradient"),
        ("own_code:raises", "fails on projections (2, 8, 16): RuntimeError: a reason of two lines"),
        ("own_code:part", "has the name of another metric: 'lr'"),
        ("object(f)", "was an object in Python"),
        ("broken_code:f", "broken_code fails when it is imported: ZeroDivisionError: division"),
        ("needs_code:f", "needs_code fails when it is imported: ModuleNotFoundError: No module"),
    ],
)
def test_a_loss_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, capsys, loss, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_code.py").write_text("1 / 0")
    (tmp_path / "needs_code.py").write_text("import nothing_of_the_kind")
    flags = tiny(tmp_path, **ALIKE).flags()
    with pytest.raises(SystemExit):
        main(["pretrain", *flags, "--loss", loss])
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("effssl: error: ") and said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", ["own_code:by_image", "own_code:by_rows"])
@pytest.mark.parametrize("chunks", [[], ["--micro-batch", "4"]])
def test_views_of_ones_own_are_the_same_on_one_process_and_on_two(tmp_path, preset, chunks):
    own = {"preset": preset, "loss": "own_code:same_as_bt", "split": "train[:24]", "epochs": "1"}
    one = train(tmp_path / "one", 1, *chunks, **own)
    two = train(tmp_path / "two", 2, *chunks, **own)
    assert difference(two, one) < EXACT


def test_a_run_with_code_of_ones_own_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    own = {"loss": own_code.plain, "views": own_code.by_image}
    whole = tiny(tmp_path / "a", views=4, checkpoint_steps=2, **ALIKE)
    effssl.pretrain(whole, **own)
    config = dataclasses.replace(whole, output=str(tmp_path / "b"))
    with monkeypatch.context() as patch:
        kill(patch, "step", 3)
        with pytest.raises(Killed):
            effssl.pretrain(config, **own)
    resumed = dataclasses.replace(config, resume=True)
    with pytest.raises(ValueError, match="loss was 'own_code:plain', is 'own_code:same_as_bt'"):
        effssl.pretrain(resumed, **own | {"loss": own_code.same_as_bt})
    effssl.pretrain(resumed, **own)
    assert_equal(weights(config), weights(whole))


def test_objects_are_recorded_by_their_names(tmp_path):
    assert name_of(own_code.plain) == "own_code:plain"
    assert name_of(lambda z: z) == "object(lambda)"

    def inner(z):
        return own_code.plain(z)

    config = tiny(tmp_path, max_steps=1, evaluate_every=0)
    folder = effssl.pretrain(config, loss=inner)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["loss"] == "object(inner)"
    assert json.loads((folder / "training.json").read_text())["command"] is None
    assert "own_inner" in json.loads((folder / "config.json").read_text())["effssl"]["name"]
    check_publishable(folder, folder)
    assert "`object(inner)` is code" in compose_card(folder, "org/name")
    write_report(tmp_path / "run", images=24)


def test_a_model_of_ones_own_is_where_a_run_starts(tmp_path):
    model = effssl.create_model("test_resnet", projector_dim=24, in_chans=1, img_size=32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = tiny(tmp_path, backbone="resnet18", max_steps=1, lr=1e-12, evaluate_every=0)
    folder = effssl.pretrain(config, model=model)
    assert_equal(dict(model.state_dict()), before)
    assert json.loads((folder / "training.json").read_text())["command"] is None  # it has no name
    made = effssl.from_pretrained(folder)
    assert made.projector_dim == 24
    pairs = zip(made.parameters(), model.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-9) for one, other in pairs)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init"] == "object(SSLModel)"
    check_publishable(folder, folder)
    assert "`object(SSLModel)` is code" in compose_card(folder, "org/name")
    resumed = dataclasses.replace(config, resume=True, max_steps=2)
    effssl.pretrain(resumed, model=model)
    with pytest.raises(ValueError, match="cannot resume .* init was 'object"):
        effssl.pretrain(resumed)
    with pytest.raises(TypeError, match="model must be an SSLModel with a projector"):
        effssl.pretrain(config, model=torch.nn.Linear(2, 2))


def test_options_by_name_or_as_objects_are_whole_in_the_configuration(tmp_path, planted):
    by_name = tiny(tmp_path / "a", preset="own_code:OPTIONS", **ALIKE)
    by_object = tiny(tmp_path / "b", **ALIKE)
    effssl.pretrain(by_name)
    effssl.pretrain(by_object, views=MultiView(own_code.OPTIONS, views=2, size=32))
    assert_equal(weights(by_name), weights(by_object))
    saved = PretrainConfig.load(by_name.run_folder / "config.json")
    assert saved.preset == "own_code:OPTIONS" and saved.view.is_whole and saved.view.flip == 0
    assert "--preset" not in saved.flags()  # so another can run it without the code
    card = compose_card(by_name.run_folder / "model", "org/name")
    assert "not reproducible" not in card and "flip 0" in card


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a loss and views whose code is not there."""
    config = tiny(tmp_path_factory.mktemp("own"), views=4, **ALIKE)
    effssl.pretrain(config, loss=own_code.same_as_bt, views=own_code.by_image)
    for path in (config.run_folder / "config.json", config.run_folder / "model" / "training.json"):
        text = path.read_text().replace("own_code:same_as_bt", "planted_code:f")
        path.write_text(text.replace("own_code:by_image", "planted_code:v"))
    return config.run_folder


def test_nothing_that_a_file_names_is_imported(run, planted, tmp_path, capsys):
    model = str(run / "model")
    effssl.from_pretrained(run / "model")
    spectrum = ["--protocols", "spectrum", "--test-split", "test[:40]", "--cpu"]
    main(["evaluate", model, *spectrum])
    extract = ["features", model, "--split", "test[:8]", "--views", "2", "--cpu"]
    main([*extract, "--output", str(tmp_path / "a.safetensors")])
    main(["push", model, "org/name", "--dry-run"])
    page = write_report(run, tmp_path / "report.html", images=24).read_text()
    assert "which a report does not run" in page
    with pytest.raises(ValueError, match="comes from a file and names code, which is not imported"):
        effssl.pretrain(
            dataclasses.replace(PretrainConfig.load(run / "config.json"), output="new", cpu=True)
        )
    file = ["--config", str(run / "config.json"), "--output", "new"]
    for given in ([], ["--loss", "planted_code:f"]):
        with pytest.raises(SystemExit):
            main(["pretrain", *file, *given])
        assert "which is not imported from a file: give --" in capsys.readouterr().err
    assert not planted.exists() and "planted_code" not in sys.modules
    main(["pretrain", *file, "--loss=planted_code:f", "--preset", "planted_code:v"])
    assert planted.exists()


def test_the_card_names_the_code_and_cites_no_built_in_loss(run):
    check_publishable(run / "model", run / "model")
    card = compose_card(run / "model", "org/name")
    assert "not reproducible from its configuration alone" in card
    assert "`planted_code:f` and `planted_code:v`" in card
    assert "by a loss that is not part of effssl (`same_as_bt`)" in card
    for spec in LOSSES.values():
        assert spec.card_tag not in card
        assert all(paper.arxiv not in card for paper in spec.papers)
    name = json.loads((run / "model" / "config.json").read_text())["effssl"]["name"]
    assert ModelName.parse(name).loss == "own_same_as_bt"


def test_what_does_not_go_with_code_of_ones_own_is_said(tmp_path):
    unused = {"loss_weight": 2.0, "multiview": "mean", "local_pairs": True}
    for option, value in unused.items():
        with pytest.raises(ValueError, match=f"{option} is for the losses of effssl"):
            PretrainConfig(loss="own_code:plain", **{option: value})
    config = tiny(tmp_path, preset="own_code:by_image", view=ViewOptions(flip=0.0))
    with pytest.raises(ValueError, match="view.flip does nothing to views of one's own"):
        effssl.pretrain(config)
    with pytest.raises(ValueError, match=r"must be a float tensor \(V, n, C, S, S\) = \(4, 1, 1"):
        effssl.pretrain(tiny(tmp_path, views=4, preset="own_code:too_few"))
    with pytest.raises(ValueError, match="makes 3 views of 32 px, and the configuration says 2"):
        effssl.pretrain(tiny(tmp_path), views=MultiView("grey", views=3, size=32))
    with pytest.raises(ValueError, match="local_views adds crops to built-in views"):
        effssl.pretrain(
            tiny(tmp_path, views=4, preset="own_code:by_image", local_views=1, local_size=16)
        )
    assert not (tmp_path / "run").exists()


def test_a_loss_is_told_which_views_are_not_local_if_it_takes_that(tmp_path):
    local = {"local_views": 2, "local_size": 16} | ALIKE
    one = tiny(tmp_path / "a", loss="own_code:of_global_views", **local)
    other = tiny(tmp_path / "b", **local)
    effssl.pretrain(one)
    effssl.pretrain(other)
    assert_equal(weights(one), weights(other))


def test_a_model_for_one_size_says_how_it_is_made_for_local_views_too(tmp_path):
    model = effssl.create_model("vit_tiny_patch16_224", projector_dim=16, in_chans=1, img_size=32)
    with pytest.raises(ValueError, match="32.*make it by .*dynamic_img_size=True"):
        effssl.pretrain(tiny(tmp_path, local_views=1, local_size=16), model=model)


def test_drop_path_is_refused_beside_a_model_to_which_it_would_do_nothing(tmp_path):
    model = effssl.create_model("test_resnet", projector_dim=16, in_chans=1, img_size=32)
    with pytest.raises(ValueError, match="drop_path does nothing to a model that is given"):
        effssl.pretrain(tiny(tmp_path, drop_path=0.1), model=model)


def test_options_of_ones_own_leave_what_they_do_not_give_to_weights_and_local_views(tmp_path):
    config = tiny(tmp_path, init="timm", local_views=1, local_size=16, local_scale=(0.05, 0.3))
    own = Own(views=ViewOptions(flip=0.0))
    view = own.named_in(config).view
    assert view.scale == (0.3, 1.0) and view.mean is None and view.std is None and view.is_whole
    view = Own(views=ViewOptions(scale=(0.2, 1.0), mean=(0.1,))).named_in(config).view
    assert view.scale == (0.2, 1.0) and view.mean == (0.1,) and view.std is None
    whole = MultiView("grey", views=2, size=32)
    assert Own(views=whole).named_in(config).view == whole.options
    view = own.named_in(dataclasses.replace(config, init=None, local_views=0)).view
    assert (view.scale, view.mean) == (DEFAULTS.scale, DEFAULTS.mean)


def test_flags_and_files_of_a_configuration_keep_the_names(tmp_path):
    made = PretrainConfig(loss="my_losses:contrast", preset="package.views:make")
    assert parse(["pretrain", *made.flags()]).config == made
    made.save(tmp_path / "config.json")
    assert PretrainConfig.load(tmp_path / "config.json") == made


def test_views_of_images_of_several_sizes_come_padded_with_their_sizes():
    seen = []

    def function(images, sizes, generator, rows, batch_size):
        seen.append((images, sizes, rows, batch_size))
        return torch.zeros(2, len(images), 1, 4, 4)

    views = OwnViews(function, "f", views=2, size=4)
    draws = {k: v[:, [1, 3]] for k, v in views.draw(5).items()}
    sizes, pixels = torch.tensor([[2, 3], [3, 2]]), torch.arange(1, 13).byte()
    plan = views.plan(draws, sizes, torch.tensor([0, 6]))
    assert views.render(pixels, plan, channels=1).shape == (2, 2, 1, 4, 4)
    ((images, shapes, rows, batch_size),) = seen
    assert torch.equal(shapes, sizes) and rows.tolist() == [1, 3] and batch_size == 5
    assert images[:, 0].tolist() == [
        [[1, 2, 3], [4, 5, 6], [0, 0, 0]],
        [[7, 8, 0], [9, 10, 0], [11, 12, 0]],
    ]
    assert views.render(pixels, plan[:, :0], channels=1).shape == (2, 0, 1, 4, 4)


def test_the_command_draws_views_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    size = ["--img-size", "32", "--in-chans", "1", "--images", "2"]
    main(["views", "--preset", "own_code:by_image", *size])
    assert (tmp_path / "views.png").is_file()
