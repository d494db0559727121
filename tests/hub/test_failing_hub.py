"""Every request of a push and of a pull fails in turn, in every way."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from clients import attempt, client, features_of, push_all
from server import FAULTS

from effssl.hub._weights import describe_file


def pull_all(cases):
    """Load each repository twice from a cache of its own; features, or the error."""

    def pull_twice(case):
        repo_id, cache = case
        found = [attempt(features_of, repo_id, cache_dir=cache) for _ in range(2)]
        return ["" if isinstance(f, torch.Tensor) else f for f in found], found[1]

    with ThreadPoolExecutor(24) as pool:
        return list(pool.map(pull_twice, cases))


def state_of(repo, old, new):
    """Which of the two models the head of a repository holds whole."""
    files = repo.at("main").files
    for name, folder in {"old": old, "new": new}.items():
        sums = {p.name: describe_file(p)["sha256"] for p in folder.glob("*.safetensors")}
        weights = {n: content for n, content in files.items() if n.endswith(".safetensors")}
        if sums == weights and files["config.json"] == (folder / "config.json").read_bytes():
            assert b"made from the files beside it" in files["README.md"]
            return name
    raise AssertionError(f"a mix: {files.keys()}")


@pytest.mark.parametrize(
    "kinds, times",
    [
        pytest.param(("lost", "429", "401"), 1, id="some once"),
        pytest.param(FAULTS, 1, id="all once", marks=pytest.mark.slow),
        pytest.param(FAULTS, 99, id="all for good", marks=pytest.mark.slow),
    ],
)
def test_a_push_that_fails_at_any_request_leaves_the_old_model_or_the_new(
    tmp_path, hub, old_and_new, kinds, times
):
    old, new, _ = old_and_new
    for name in ("first", "second"):  # which asks for less, since the old card is in the cache
        hub.add_repo(f"org/{len(kinds)}-{times}-{name}", old)
        folder = shutil.copytree(new, tmp_path / name)
        (result,) = client(tmp_path, hub, push_all, [(folder, f"org/{len(kinds)}-{times}-{name}")])
        assert result.startswith(hub.url), result
    # two requests name their repository in the body only
    count = 2 + sum(f"org/{len(kinds)}-{times}-second" in path for _, path in hub.requests)
    assert state_of(hub.repos[f"org/{len(kinds)}-{times}-second"], old, new) == "new" and count >= 9

    cases = []
    for kind in kinds:
        for request in range(count):
            name = f"push-{len(kinds)}x{times}-{kind}-{request}.x"
            hub.add_repo(f"org/{name}", old)
            hub.fail(name, request, kind, times)
            cases.append((shutil.copytree(new, tmp_path / name), f"org/{name}"))
    results = client(tmp_path, hub, push_all, cases)
    assert len(results) == len(kinds) * count
    told = {kind: [] for kind in kinds}
    for (_, repo_id), result in zip(cases, results, strict=True):
        kind = repo_id.split("-")[2]
        repo = hub.repos[repo_id]
        assert len(repo.commits) <= 3, repo_id
        state = state_of(repo, old, new)
        if result.startswith("http"):
            assert state == "new", repo_id
        else:
            told[kind].append(result)
    for kind in {"401", "403"} & set(kinds):
        # nothing helps against these, but that a repository need not be made if it is there
        assert len(told[kind]) == count - (times == 1), told[kind]
        assert all(line.startswith("PermissionError") for line in told[kind]), told[kind]
    for kind in set(kinds) - {"401", "403"}:
        assert bool(told[kind]) == (times > 1), told[kind]


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(("drop", "503", "403"), id="some"),
        pytest.param(FAULTS, id="all", marks=pytest.mark.slow),
    ],
)
def test_a_pull_that_fails_at_any_request_leaves_a_cache_that_loads(
    tmp_path, hub, old_and_new, kinds
):
    _, new, expected = old_and_new
    hub.add_repo(f"org/pulled-{len(kinds)}", new)
    client(tmp_path, hub, features_of, f"org/pulled-{len(kinds)}")
    count = sum(f"org/pulled-{len(kinds)}" in path for _, path in hub.requests)
    assert count >= 6
    cases = []
    for kind in kinds:
        for request in range(count):
            name = f"pull{len(kinds)}-{kind}-{request}.x"
            hub.add_repo(f"org/{name}", new)
            hub.fail(name, request, kind)
            cases.append((f"org/{name}", tmp_path / name))
    results = client(tmp_path, hub, pull_all, cases)
    assert len(results) == len(kinds) * count
    told = {kind: [] for kind in kinds}
    for (repo_id, _), ((first, second), features) in zip(cases, results, strict=True):
        assert second == "" and torch.allclose(features, expected, atol=1e-6), (repo_id, second)
        told[repo_id.split("-")[1]] += [first] * bool(first)
    for kind in kinds:
        # the file that may be missing is not asked for again when it was found to be
        refused = kind in ("401", "403")
        assert len(told[kind]) == count * refused, told[kind]
        assert all(line.startswith("PermissionError") for line in told[kind]), told[kind]
