"""Metadata that a person writes into a card stays, here and on the Hub; licenses are known ones."""

import json
import re

import pytest
import yaml
from clients import client, push_all
from test_card import save

import effssl
from effssl.cli import main
from effssl.hub._card import compose_card
from effssl.hub._folder import read_training
from effssl.hub._license import check_license, known_licenses
from effssl.hub._yaml import dump_yaml, parse_yaml
from effssl.hub.push import prepare

BY_HAND = {
    "language": "no",
    "datasets": ["mine/photos"],
    "pipeline_tag": "feature-extraction",
    "base_model": "mine/before",
    "widget": [{"src": "https://example.org/cat.png", "example_title": "2024-01-01"}],
    "extra_gated_prompt": "Read\nthis.",
    "thumbnail": None,
    "metrics": ["accuracy", 1.5],
}


def metadata(card):
    return parse_yaml(re.match(r"---\n(.*?)---\n", card, re.S)[1])


def write_metadata(card, **values):
    """A card with values as a person writes them, over those that stand there."""
    found = metadata(card) if card else {}
    text = card.partition("\n---\n")[2]
    return f"---\n{yaml.safe_dump(found | values, sort_keys=False)}---\n{text}"


def known(tmp_path, **more):
    """A model of public images, evaluated on them."""
    about = {"dataset": "org/images", "train_split": None, "train_images": 0, "of": "seeds"}
    about |= {"test_split": "test", "test_images": 9, "protocols": {"linear": "x"}, "spectrum": {}}
    about |= {"seeds": {"linear": [0]}, "top1": {"pretrained": {"linear": [50.0]}}, **more}
    return save(tmp_path / "m", training={"evaluation": [about]})


def test_what_a_person_wrote_before_the_first_push_stays(tmp_path):
    folder = save(tmp_path / "m")
    (folder / "README.md").write_text(write_metadata("", tags=["mine", 2024], **BY_HAND))
    for _ in range(2):
        prepare(folder, "org/m")
        found = metadata((folder / "README.md").read_text())
        assert {key: found[key] for key in BY_HAND} == BY_HAND
        assert {"mine", "2024", "timm", "effssl"} <= set(found["tags"])
        assert found["library_name"] == "timm"


def test_values_that_were_made_are_made_again_and_those_changed_by_hand_stay(tmp_path):
    folder = known(tmp_path)
    prepare(folder, "org/m")
    card = (folder / "README.md").read_text()
    assert metadata(card)["model-index"][0]["results"][0]["metrics"][0]["value"] == 50.0
    (folder / "README.md").write_text(write_metadata(card, **BY_HAND))
    known(tmp_path, top1={"pretrained": {"linear": [60.0]}})  # keeps the card
    prepare(folder, "org/m")
    card = (folder / "README.md").read_text()
    found = metadata(card)
    assert {key: found[key] for key in BY_HAND} == BY_HAND
    assert found["model-index"][0]["results"][0]["metrics"][0]["value"] == 60.0
    # a line that is deleted is made again
    (folder / "README.md").write_text(card.replace("pipeline_tag: feature-extraction\n", ""))
    prepare(folder, "org/m")
    assert (
        metadata((folder / "README.md").read_text())["pipeline_tag"] == "image-feature-extraction"
    )


def test_a_card_of_an_earlier_version_keeps_what_differs_and_makes_results_anew(tmp_path):
    folder = known(tmp_path)
    card = compose_card(folder, "org/m")
    card = re.sub(r"<!-- effssl made:.*-->\n", "", write_metadata(card, datasets=["mine/photos"]))
    (folder / "README.md").write_text(card)
    known(tmp_path, top1={"pretrained": {"linear": [60.0]}})
    prepare(folder, "org/m")
    found = metadata((folder / "README.md").read_text())
    assert found["datasets"] == ["mine/photos"]
    assert found["model-index"][0]["results"][0]["metrics"][0]["value"] == 60.0


def edit(hub, repo_id, **values):
    repo = hub.repos[repo_id]
    files = dict(repo.at("main").files)
    files["README.md"] = write_metadata(files["README.md"].decode(), **values).encode()
    repo.commit("main", files, "written by hand")


def on_the_hub(hub, repo_id):
    files = hub.repos[repo_id].at("main").files
    license = json.loads(files["config.json"])["pretrained_cfg"].get("license")
    return metadata(files["README.md"].decode()) | {"in config": license}


def test_what_a_person_wrote_on_the_hub_stays(tmp_path, hub):
    folder = known(tmp_path)
    client(tmp_path, hub, push_all, [(folder, "org/by-hand")])
    assert on_the_hub(hub, "org/by-hand")["in config"] is None
    edit(hub, "org/by-hand", tags=["mine"], license="mit", **BY_HAND)
    for _ in range(2):  # from the same folder, whose card is then that of the Hub, too
        (result,) = client(tmp_path, hub, push_all, [(folder, "org/by-hand")])
        assert result.startswith(hub.url), result
        found = on_the_hub(hub, "org/by-hand")
        assert {key: found[key] for key in BY_HAND} == BY_HAND
        assert {"mine", "effssl"} <= set(found["tags"])
        assert found["license"] == "mit" and found["in config"] == "mit"
        card = hub.repos["org/by-hand"].at("main").files["README.md"].decode()
        assert "Weights: mit." in card
    assert result == f"{hub.url}/org/by-hand"  # the second push found nothing to do


def push_with(folder, repo_id, license):
    return effssl.push_to_hub(folder, repo_id, license=license)


def test_the_license_is_that_which_was_given_last(tmp_path, hub):
    folder = save(tmp_path / "m")
    model = effssl.from_pretrained(folder)
    effssl.save_pretrained(model, folder, license="bsd")
    client(tmp_path, hub, push_all, [(folder, "org/license")])
    assert on_the_hub(hub, "org/license")["license"] == "bsd"
    edit(hub, "org/license", license="cc0-1.0")
    client(tmp_path, hub, push_all, [(folder, "org/license")])
    assert on_the_hub(hub, "org/license")["license"] == "cc0-1.0"
    client(tmp_path, hub, push_with, folder, "org/license", "mit")
    for _ in range(2):
        found = on_the_hub(hub, "org/license")
        assert found["license"] == found["in config"] == "mit"
        client(tmp_path, hub, push_all, [(folder, "org/license")])
    effssl.save_pretrained(model, folder, license="isc")
    client(tmp_path, hub, push_all, [(folder, "org/license")])
    assert on_the_hub(hub, "org/license")["license"] == "isc"
    effssl.save_pretrained(model, folder, license="zlib")
    edit(hub, "org/license", license="wtfpl")
    (result,) = client(tmp_path, hub, push_all, [(folder, "org/license")])
    assert "the license is zlib in README.md and wtfpl in the card on the Hub" in result


def test_a_license_of_a_dry_run_goes_with_that_of_the_model(tmp_path):
    folder = save(tmp_path / "m")
    model = effssl.from_pretrained(folder)
    for license in ("bsd", "isc"):
        effssl.save_pretrained(model, folder, license=license)
        prepare(folder, "org/m")
        assert metadata((folder / "README.md").read_text())["license"] == license


def test_a_license_that_the_hub_does_not_know_is_refused_everywhere(tmp_path, capsys):
    assert len(known_licenses()) > 80 and {"apache-2.0", "mit", "other"} <= set(known_licenses())
    folder = save(tmp_path / "m")
    before = (folder / "config.json").read_bytes()
    model = effssl.from_pretrained(folder)
    refused = "license 'nonsense-9' is not one that the Hub knows: .*'other' with its license_name"
    with pytest.raises(ValueError, match=refused):
        effssl.save_pretrained(model, folder, license="nonsense-9")
    for thing in (folder, model):
        with pytest.raises(ValueError, match=refused):
            effssl.push_to_hub(thing, "org/m", license="nonsense-9")
    with pytest.raises(SystemExit):
        main(["push", str(folder), "org/m", "--dry-run", "--license", "Apache 2"])
    error = capsys.readouterr().err
    assert "did you mean 'apache-2.0'" in error and error.count("\n") == 1
    assert (folder / "config.json").read_bytes() == before
    # and where it is in a file
    (folder / "README.md").write_text("---\nlicense: nonsense-9\n---\n")
    with pytest.raises(ValueError, match="README.md: license 'nonsense-9'"):
        prepare(folder, "org/m")
    prepare(folder, "org/m", "mit")
    assert metadata((folder / "README.md").read_text())["license"] == "mit"


@pytest.mark.parametrize(
    "given, message",
    [
        (("other",), "'other' needs a license_name .*is missing"),
        (("other", "mine-1.0"), "'other' needs a license_link .*is missing"),
        (("other", "mine-1.0", "javascript:alert(1)"), "license_link .*cannot be 'javascript"),
        (("other", "a\nb", "LICENSE"), "license_name .*cannot be"),
        (("mit", "mine"), "are for license 'other', not 'mit'"),
        ((None, "mine"), "need the license 'other'"),
    ],
)
def test_another_license_needs_a_name_and_a_link(given, message):
    with pytest.raises(ValueError, match=message):
        check_license(*given)


def test_another_license_stands_in_card_and_config_and_loads(tmp_path, capsys):
    folder = save(tmp_path / "m")
    link = "https://example.org/license"
    flags = ["--license", "other", "--license-name", "mine-1.0", "--license-link", link]
    main(["push", str(folder), "org/m", "--dry-run", *flags])
    expected = {"license": "other", "license_name": "mine-1.0", "license_link": link}
    found = metadata((folder / "README.md").read_text())
    assert {key: found[key] for key in expected} == expected
    assert f"Weights: mine-1.0 ({link})." in (folder / "README.md").read_text()
    model = effssl.from_pretrained(folder)
    values = dict(zip(("license", "license_name", "license_link"), expected.values(), strict=True))
    effssl.save_pretrained(model, tmp_path / "again", **values)
    prepare(tmp_path / "again", "org/m")
    found = metadata((tmp_path / "again" / "README.md").read_text())
    assert {key: found[key] for key in expected} == expected
    assert effssl.from_pretrained(tmp_path / "again").num_features == 96
    assert read_training(tmp_path / "again") == {}


@pytest.mark.parametrize(
    "text, value",
    [
        ("language: no", {"language": "no"}),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: 012", {"a": "012"}),
        ("a: 1:30", {"a": "1:30"}),
        ("a: [1, 1.5, true, ~, 'on']", {"a": [1, 1.5, True, None, "on"]}),
    ],
)
def test_metadata_are_read_as_the_hub_reads_them_and_written_back(text, value):
    assert parse_yaml(text) == value and parse_yaml(dump_yaml(value)) == value
    assert yaml.safe_load(dump_yaml(value)) == value  # by other readers, too


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: &a\n  b: *a",
        "[" * 10_000,
        "- " * 3000 + "x",
        "a: !!python/object/apply:os.system [ls]",
        "a: !!int ''",
        "? [a]\n: b",
        "1: a\nb: c",
        "a: b: c",
        "a: \x1b[2J",
        "x" * 300_000,
        "- a\n- b",
        "word",
    ],
)
def test_metadata_that_are_no_plain_pairs_are_one_line(tmp_path, text):
    folder = save(tmp_path / "m")
    (folder / "README.md").write_text(f"---\n{text}\n---\n")
    with pytest.raises(ValueError, match="the metadata of .*README.md") as caught:
        prepare(folder, "org/m")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_results_on_moved_images_are_listed_apart_from_those_on_the_originals(tmp_path):
    folder = known(tmp_path, dataset="fashion-mnist-sample")
    about = json.loads((folder / "training.json").read_text())
    (first,) = about["evaluation"]
    more = {"dataset": "fashion-mnist-moved-sample", "top1": {"pretrained": {"linear": [30.0]}}}
    about["evaluation"].append(first | more)
    (folder / "training.json").write_text(json.dumps(about))
    results = metadata(compose_card(folder, "org/m"))["model-index"][0]["results"]
    found = [(r["dataset"]["name"], r["metrics"][0]["value"]) for r in results]
    assert found == [("fashion-mnist-sample", 50.0), ("fashion-mnist-moved-sample", 30.0)]
    assert {r["dataset"]["type"] for r in results} == {"zalando-datasets/fashion_mnist"}
