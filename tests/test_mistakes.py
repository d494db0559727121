"""Mistakes on the command line: each is one line that says what to type instead."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

import effssl
from effssl import PretrainConfig
from effssl.cli import main
from effssl.cli._main import COMMANDS, _without_box
from effssl.cli._options import options_of
from effssl.cli._synonyms import _COMMANDS, _SAME, synonyms

OPTIONS = {name: options_of(command) for name, command in COMMANDS.items()}
FLAGS = {name: {o.label for o in options if not o.positional} for name, options in OPTIONS.items()}


@pytest.fixture
def said(capsys):
    """A function that gives the one line that a command ends with."""

    def line(*args):
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        shown = capsys.readouterr()
        assert ended.value.code == 2 and not shown.out
        (only,) = shown.err.splitlines()
        assert only.startswith("effssl: error: ")
        return only.removeprefix("effssl: error: ")

    return line


@pytest.mark.parametrize(
    "typed, line",
    [
        # flags: letters, words of other libraries, forms
        ("pretrain --epcohs 3", "effssl pretrain has no flag --epcohs: did you mean --epochs 3?"),
        ("pretrain --learning-rate .1", "no flag --learning-rate: did you mean --lr .1?"),
        ("pretrain --learning_rate .1", "no flag --learning_rate: did you mean --lr .1?"),
        ("pretrain --learning-rate=.1", "no flag --learning-rate: did you mean --lr .1?"),
        ("pretrain --image-size 32", "no flag --image-size: did you mean --img-size 32?"),
        ("recommend --img-size 32", "no flag --img-size: did you mean --image-size 32?"),
        ("pretrain --data photos", "no flag --data: did you mean --dataset photos?"),
        ("pretrain --data-path photos", "did you mean --dataset photos?"),
        ("pretrain --arch resnet50", "did you mean --backbone resnet50?"),
        ("pretrain --model resnet50", "did you mean --backbone resnet50?"),
        ("pretrain --bs 64", "did you mean --batch-size 64?"),
        ("pretrain --num-workers 4", "did you mean --workers 4?"),
        ("pretrain --fp16", "did you mean --precision fp16?"),
        ("pretrain --wandb", "did you mean --tracker wandb?"),
        ("pretrain --confg x.json", "did you mean --config x.json?"),
        ("pretrain -lr 0.1", "no flag -lr: did you mean --lr 0.1?"),
        ("pretrain \u2014lr 0.1", "did you mean --lr 0.1?"),
        ("pretrain --LR 0.1", "did you mean --lr 0.1?"),
        ("pretrain -o here", "did you mean --output here?"),
        ("pretrain --local-crops-number 6", "did you mean --local-views 6?"),
        ("pretrain --stochastic-depth 0.1", "did you mean --drop-path 0.1?"),
        ("pretrain --gradient-checkpointing", "did you mean --grad-checkpointing?"),
        ("pretrain --gpus 2", "torchrun --standalone --nproc_per_node 8 -m effssl.cli pretrain"),
        ("pretrain --lr-scheduler cosine", "rises for --warmup-epochs and falls to zero"),
        ("pretrain --no-cpu", "no flag --no-cpu: --cpu is off unless it is given"),
        ("pretrain --foo", "no flag --foo: effssl pretrain --help lists what it takes"),
        ("evaluate x --views 4", "evaluate has no flag --views: effssl evaluate --help"),
        ("evaluate x --split val", "did you mean --train-split val or --test-split val?"),
        ("evaluate --model x", "no flag --model: MODEL is given without a flag"),
        ("views --out x.png", "did you mean --output x.png?"),
        ("cache --clear", "did you mean --delete-all?"),
        # values
        ("pretrain --lr", "--lr needs a value: --lr FLOAT"),
        ("pretrain --dataset --cpu", "--dataset needs a value: --dataset DATASET"),
        ("pretrain --views four", "--views must be a whole number; got 'four'"),
        ("pretrain --epochs 1.5", "--epochs must be a whole number; got '1.5'"),
        ("pretrain --workers x", "--workers must be a whole number or None; got 'x'"),
        (
            "pretrain --loss vicregg",
            "one of bt, vicreg, spectral, simclr, sigreg, coding_rate, wmse or "
            "package.module:name; got 'vicregg'; did you mean",
        ),
        ("pretrain --loss barlow_twins", "got 'barlow_twins'; did you mean 'bt'?"),
        ("pretrain --value-range 0", "must be two numbers, auto or None; got '0'"),
        ("pretrain --value-range 0,255", "put spaces between them: --value-range 0 255"),
        ("evaluate x --seeds 0,1", "put spaces between them: --seeds 0 1"),
        ("evaluate --seeds 0 1 x", "got '0' '1' 'x'; MODEL comes before --seeds"),
        ("evaluate x --k 5 many", "--k must be whole numbers or None; got '5' 'many'"),
        ("pretrain --cpu true", "--cpu takes no value, and got 'true': --cpu alone sets it"),
        ("pretrain --cpu=False", "--cpu takes no value, and got 'False': leave --cpu out"),
        # words without a flag
        ("pretrain photos", "takes only flags, and got 'photos'; did you mean --dataset photos?"),
        ("pretrain lr=0.1", "did you mean --lr 0.1?"),
        ("pretrain --resume runs/x", "--resume takes no value: --output runs/x names the run"),
        ("pretrain --dataset my photos", "--dataset takes one value, in quotes if it has spaces"),
        ("pretrain --views 2 4", "only flags, and got '4'; --views takes one value"),
        ("pretrain --value-range 0 255 7", "got '7'; --value-range takes LOW HIGH | auto"),
        ("evaluate x photos", "takes MODEL, and got 'photos' too; did you mean --dataset photos?"),
        ("evaluate", "effssl evaluate needs MODEL; effssl evaluate --help"),
        ("push x", "effssl push needs OWNER/NAME"),
        ("features x", "effssl features needs --output PATH"),
        # commands
        ("evalute x", "there is no command 'evalute'; did you mean effssl evaluate? commands are"),
        ("Pretrain", "did you mean effssl pretrain?"),
        ("train --lr 1", "did you mean effssl pretrain?"),
        ("finetune x", "did you mean effssl evaluate MODEL --protocols finetune?"),
        ("xyz", "there is no command 'xyz'; commands are pretrain, evaluate"),
        ("--dataset x", "a command comes before --dataset: pretrain, evaluate"),
        ("--versoin", "did you mean --version?"),
    ],
)
def test_a_mistake_is_one_line_with_what_to_type_instead(typed, line, said):
    assert line in said(*typed.split())


def test_nothing_is_suggested_that_the_command_does_not_have(said):
    words = {word for words in _SAME for word in words}
    words |= {flag[2:] for flags in FLAGS.values() for flag in flags}
    tried = 0
    for command in COMMANDS:
        known = FLAGS[command] | {f"--{a}" for o in OPTIONS[command] for a in o.aliases}
        for word in sorted(words):
            if f"--{word}" in known:
                continue
            line = said(command, f"--{word}", "7").split("--" + word, 1)[1]
            suggested = set(re.findall(r"(?<![\w-])--[a-z][a-z.-]*", line))
            assert suggested <= known | {"--help", "--standalone"}, (command, word, line)
            tried += 1
    assert tried > 1000


def test_a_line_of_synonyms_has_a_flag_and_every_command_exists():
    names = {option.name for options in OPTIONS.values() for option in options}
    for words in _SAME:
        assert words & names, words
    assert synonyms("learning-rate") >= {"lr"} and synonyms("qqq") == set()
    assert {command.split()[0] for command in _COMMANDS.values()} <= {*COMMANDS, "--help"} | {
        "--version"
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_what_values_are(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert not re.search(r"\{None\}|\bSTR\b|\[\w+ \.\.\.\]", shown)
    rows = re.findall(r"^[│|]? {1,2}((?:-h, )?--.*?)(?: {2}|$)", shown, re.M)
    in_help = {flag for row in rows for flag in re.findall(r"--[a-z][a-z.-]*", row)} - {"--help"}
    # what the check of mistakes takes is what tyro takes
    aliases = {f"--{a}" for o in OPTIONS[command] for a in o.aliases}
    assert in_help | aliases == FLAGS[command] | aliases
    for option in OPTIONS[command]:
        assert option.metavar in shown.replace("\n", " "), option
        assert option.positional or option.most_words == 0 or option.metavar


def test_values_with_a_sign_and_values_of_every_kind_pass(said, tmp_path):
    """Only the last part is a mistake."""
    fine = "--value-range -1 1 --lr=1e-3 --max_steps 3 --workers None --cpu --preset grey"
    assert "--epochs must be 1 or more; got -3" in said("pretrain", *fine.split(), "--epochs", -3)
    assert "no flag --x" in said("evaluate", "m", "--k", "None", "--seeds", 0, 1, "--cpu", "--x")


def test_a_pattern_that_the_shell_replaced_is_told(tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    names = [f"my photos/{i}.jpg" for i in range(12)]
    for name in names:
        (tmp_path / name).touch()
    quoted = "--dataset takes one name, and the shell made 12 of a pattern: quote it, --dataset "
    assert said("pretrain", "--dataset", *names) == quoted + "'my photos/*.jpg'"
    assert said("features", "m", "--output", "x", "--dataset", *names).startswith(quoted)
    assert said("evaluate", "--dataset", *names, "m").startswith(quoted[:60])


def test_what_tyro_says_loses_its_box():
    lines = ["╭─ Title ─────────╮", "│ one             │", "│ two             │"]
    box = "\n".join([*lines, "│ ─────────────── │", "│ help            │", "╰─────────────────╯"])
    assert _without_box(box) == "Title one two"


def test_the_version_is_printed(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"effssl {effssl.__version__}\n"


def test_no_arguments_give_the_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0 and "pretrain" in capsys.readouterr().out


# Names of options


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_size": 1},
        {"value_range": (5.0, 1.0)},
        {"output": ""},
        {"resume": True, "overwrite": True},
        {"max_broken": 2.0},
    ],
)
def test_errors_name_flags_on_the_command_line_and_fields_in_python(fields, said):
    with pytest.raises(ValueError) as caught:
        PretrainConfig(**fields)
    typed = []
    for name, value in fields.items():
        words = value if isinstance(value, tuple) else [] if value is True else [value]
        typed += ["--" + name.replace("_", "-"), *words]
    line = said("pretrain", *typed)
    for name in fields:
        flag = "--" + name.replace("_", "-")
        assert name in str(caught.value) and flag not in str(caught.value)
        assert flag in line and not re.search(rf"(?<!-)\b{name}\b", line)


def test_a_configuration_file_is_told_of_in_its_own_words(tmp_path, said):
    file = tmp_path / "config.json"
    values = json.loads(json.dumps(dataclasses.asdict(PretrainConfig())))
    file.write_text(json.dumps(values | {"batch_size": 1}))
    assert f"{file}: batch_size must be 2 or more" in said("pretrain", "--config", file)


def test_a_resume_with_other_flags_names_them(tmp_path, said):
    PretrainConfig(views=4, projector_dim=64).save(tmp_path / "config.json")
    flags = ["--output", tmp_path, "--cpu", "--projector-dim", "32", "--backbone", "resnet34"]
    line = said("pretrain", *flags, "--resume")
    assert "--projector-dim was 64, is 32" in line and "--backbone was 'resnet18'" in line
    line = said("pretrain", *flags)
    assert "give --resume to go on, --overwrite to delete it, or another --output" in line


# Paths


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/train", "photos/val", "runs/first", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/first/metrics.jsonl").touch()
    (tmp_path / "weights.safetensors").touch()
    return tmp_path


@pytest.mark.parametrize(
    "typed, line",
    [
        ("pretrain --dataset photos/trian", "no data set at 'photos/trian': there is no such file"),
        ("pretrain --dataset photos/trian", "; the nearest name is 'photos/train'"),
        ("pretrain --dataset ./phots/train", "; the nearest name is 'photos/train'"),
        ("pretrain --dataset photos/x", "Hub, start where no folder is called photos"),
        ("views --dataset Photos", "; the nearest name is 'photos'"),
        ("features runs/frist --output x", "no model folder 'runs/frist' in "),
        ("evaluate runs/frist", "; the nearest name is 'runs/first'"),
        ("evaluate runs/zzz", "; 'hf-hub:runs/zzz' is the repository on the Hub"),
        ("evaluate photos/model", "; 'hf-hub:photos/model' is the repository on the Hub"),
        ("evaluate ./org/name", "no model folder './org/name'"),
        ("evaluate weights.safetensors", "is a file: give the model folder that holds it"),
        ("evaluate runs/first", "the run in 'runs/first' has written no model yet"),
        ("evaluate empty", "no config.json in 'empty': not a model folder"),
        ("evaluate nowhere", "a repository on the Hub is owner/name, and the package has "),
        ("push runs/frist a/b", "; the nearest name is 'runs/first'"),
        ("report runs/frist", "does not exist; the nearest name is 'runs/first'"),
        ("pretrain --config runs/frist", "no configuration runs/frist: give the config.json"),
        ("pretrain --config runs/frist", "; the nearest name is 'runs/first'"),
        ("features a/b --output runz/x.parquet", "no folder 'runz' for --output 'runz/x.parquet'"),
        ("features a/b --output runz/x.parquet", "; the nearest name is 'runs'"),
        ("views --output runz/x.png", "; the nearest name is 'runs'"),
        ("evaluate a/b --output runz/x.json", "; the nearest name is 'runs'"),
        ("evaluate a/b --json runz/x.json", "no folder 'runz' for --output 'runz/x.json'"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_with_the_nearest_name(here, typed, line, said):
    assert line in said(*typed.split())


def test_a_path_that_leads_nowhere_is_told_before_torch_is_imported(here):
    code = (
        "import sys; from effssl.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'huggingface_hub', 'datasets'} & set(sys.modules)))"
    )
    for typed in ("evaluate runs/frist", "features runs/frist --output x", "report runs/frist"):
        result = subprocess.run(
            [sys.executable, "-c", code, *typed.split()], capture_output=True, text=True, cwd=here
        )
        assert result.returncode == 2 and "nearest name" in result.stderr
        assert result.stdout == "[]\n"


def test_the_hub_is_not_asked_for_a_name_whose_folder_is_here(here, monkeypatch):
    def asked(repo_id, *args, **kwargs):
        raise AssertionError(repo_id)

    monkeypatch.setattr("effssl.hub.pull.hf_hub_download", asked)
    for name in ("runs/frist", "photos/model", "runs/x", "./org/name", "../org"):
        with pytest.raises(FileNotFoundError, match="no model folder"):
            effssl.from_pretrained(name)
    for name in ("org/name", "hf-hub:runs/frist"):
        with pytest.raises(AssertionError, match=name.removeprefix("hf-hub:")):
            effssl.from_pretrained(name)
    with pytest.raises(FileNotFoundError, match="one on the Hub is owner/name"):
        effssl.from_pretrained("hf-hub:nobody")
