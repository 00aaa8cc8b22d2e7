"""Masks on the Hub, end to end against the loopback Hub: publish, pin, offline, every failure."""

import json
from pathlib import Path

import hub_fixtures
import pytest
import torch
from huggingface_hub import HfApi, ModelHubMixin, constants, create_repo, hf_hub_download
from loopback_hub import OWNER, STRANGER, LoopbackHub
from torch import nn

from aws_lottery import HubError, Result, SignedMask, SignedMaskConfig
from aws_lottery.mask_file.pretrained import CONFIG_FILE, MASK_FILE

pytestmark = pytest.mark.filterwarnings(hub_fixtures.LFS_UPLOAD_WARNING)

REPO = "owner/mask"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        hub_fixtures.use_hub(hub, monkeypatch, tmp_path / "home")
        hub_fixtures.do_not_wait(monkeypatch)
        yield hub


def small_mask(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].weight[0] = 0
    return SignedMask.from_model(model, SignedMaskConfig(architecture="tiny"))


@pytest.fixture
def mask():
    mask = small_mask(0)
    mask.results = (Result("fresh + signed mask", "digits", [90, 92], before=[50, 52]),)
    return mask


@pytest.fixture
def pushed(hub, mask):
    mask.push_to_hub(REPO)
    return mask


def commit_of(revision=None):
    return HfApi().model_info(REPO, revision=revision).sha


def readme(revision=None):
    return Path(hf_hub_download(REPO, "README.md", revision=revision)).read_text()


def test_it_is_a_model_of_the_hub_library(mask):
    assert isinstance(mask, ModelHubMixin)
    assert mask.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_a_pushed_mask_is_loaded_applied_and_trained_in_another_process(hub, pushed, tmp_path):
    code = """
import torch
from torch import nn
from aws_lottery import SignedMask
torch.manual_seed(1)
mask = SignedMask.from_pretrained("owner/mask")
model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
mask.apply_(model)
before = model[0].weight.detach().clone()
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
with mask.held(model):
    for _ in range(3):
        model(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
assert not model[0].weight.equal(before)
assert torch.equal(model[0].weight == 0, mask["0.weight"] == 0)
print(mask, mask.results[0].values)
"""
    env = hub_fixtures.hub_env(hub, tmp_path / "other", OMP_NUM_THREADS="1")
    printed = hub_fixtures.run_python(code, env)
    assert printed == f"{pushed} (90.0, 92.0)"
    assert hub.count("GET */config.json") == 1  # the download that the Hub counts
    hub.close()
    assert hub_fixtures.run_python(code, {**env, "HF_HUB_OFFLINE": "1"}) == printed


def test_the_configuration_on_the_hub_tells_the_whole_search(pushed):
    config = json.loads(Path(hf_hub_download(REPO, CONFIG_FILE)).read_text())
    assert SignedMaskConfig.from_dict(config["config"]) == pushed.config
    assert config["remaining"] == pushed.remaining
    assert config["remaining_total"] == pushed.remaining_total
    assert config["format_version"] == 1
    assert config["library_version"]


def test_a_commit_a_tag_and_a_branch_pin_a_mask(pushed):
    commit = commit_of()
    HfApi().create_tag(REPO, tag="v1")
    newer, branched = small_mask(1), small_mask(2)
    newer.push_to_hub(REPO, commit_message="better signs")
    branched.push_to_hub(REPO, branch="wide")
    branched.push_to_hub(REPO, branch="wide")
    assert SignedMask.from_pretrained(REPO) == newer
    assert SignedMask.from_pretrained(REPO, revision="v1") == pushed
    assert SignedMask.from_pretrained(REPO, revision=commit) == pushed
    assert SignedMask.from_pretrained(REPO, revision="wide") == branched


def test_a_pull_request_leaves_main_alone(pushed):
    newer = small_mask(1)
    newer.push_to_hub(REPO, create_pr=True)
    assert SignedMask.from_pretrained(REPO) == pushed
    assert SignedMask.from_pretrained(REPO, revision="refs/pr/1") == newer


def test_saving_can_push_too(hub, mask, tmp_path):
    mask.save_pretrained(tmp_path / "mask", push_to_hub=True, repo_id=REPO)
    assert SignedMask.from_pretrained(REPO) == SignedMask.from_pretrained(tmp_path / "mask") == mask


def test_both_files_are_of_one_commit(hub, pushed, monkeypatch):
    """Even if somebody pushes between the two downloads."""
    download, newer = hf_hub_download, small_mask(1)

    def interrupted(repo_id, name, **options):
        path = download(repo_id, name, **options)
        if name == CONFIG_FILE:
            newer.push_to_hub(REPO)
        return path

    monkeypatch.setattr("aws_lottery.mask_file.hub.hf_hub_download", interrupted)
    assert SignedMask.from_pretrained(REPO) == pushed
    monkeypatch.setattr("aws_lottery.mask_file.hub.hf_hub_download", download)
    assert SignedMask.from_pretrained(REPO) == newer


def test_private_and_gated_masks_need_a_token(hub, mask):
    mask.push_to_hub(REPO, private=True)
    assert SignedMask.from_pretrained(REPO, token=OWNER) == mask
    for token in (False, STRANGER):
        with pytest.raises(HubError, match=r"no repository 'owner/mask' on the Hub.* if it is private, log in"):
            SignedMask.from_pretrained(REPO, token=token, force_download=True)
    hub.repos[REPO].private, hub.repos[REPO].gated = False, True
    assert SignedMask.from_pretrained(REPO, force_download=True) == mask
    for token in (False, STRANGER):
        with pytest.raises(HubError, match="'owner/mask' is gated: ask for access on its page"):
            SignedMask.from_pretrained(REPO, token=token, force_download=True)


def test_a_cached_mask_needs_no_hub(hub, pushed, monkeypatch):
    assert SignedMask.from_pretrained(REPO) == pushed
    hub.requests.clear()
    assert SignedMask.from_pretrained(REPO, local_files_only=True) == pushed
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert SignedMask.from_pretrained(REPO) == pushed
    assert hub.requests == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.fail("*", "503")
    assert SignedMask.from_pretrained(REPO) == pushed
    hub.close()
    assert SignedMask.from_pretrained(REPO) == pushed


@pytest.mark.parametrize("match", ["*", "HEAD *", "*.safetensors"])
@pytest.mark.parametrize("fault", ["refuse", "500", "cut", "truncate"])
def test_a_cached_mask_is_taken_when_the_connection_drops(hub, pushed, match, fault):
    assert SignedMask.from_pretrained(REPO) == pushed
    hub.fail(match, fault)
    assert SignedMask.from_pretrained(REPO) == pushed


def test_it_is_said_when_a_dropped_connection_is_made_up_for_by_the_cache(hub, pushed, caplog):
    SignedMask.from_pretrained(REPO)
    hub.fail("*", "refuse")
    SignedMask.from_pretrained(REPO)
    assert f"Taken from the cache: commit {hub.repos[REPO].at('main').oid}" in caplog.text
    with pytest.raises(HubError, match="no connection to the Hub, or it broke off"):
        SignedMask.from_pretrained(REPO, force_download=True)


def test_a_newer_mask_whose_download_drops_is_not_replaced_by_the_older_one_in_the_cache(hub, pushed):
    SignedMask.from_pretrained(REPO)
    newer = small_mask(1)
    newer.push_to_hub(REPO)
    hub.fail("GET *", "cut")
    with pytest.raises(HubError, match="no connection to the Hub, or it broke off"):
        SignedMask.from_pretrained(REPO)
    hub.heal()
    assert SignedMask.from_pretrained(REPO) == newer


def test_to_ask_nothing_of_the_hub_and_to_download_anew_exclude_each_other(hub):
    with pytest.raises(ValueError, match="give one of them"):
        SignedMask.from_pretrained(REPO, local_files_only=True, force_download=True)


@pytest.mark.parametrize("fault", ["refuse", "500", "cut", "truncate", "404", "corrupt"])
@pytest.mark.parametrize("match", ["*/create", "*/preupload/*", "*/objects/batch", "PUT */lfs/*", "*/commit/*"])
def test_a_push_that_fails_anywhere_is_told(hub, pushed, match, fault):
    newer = small_mask(1)
    hub.fail(match, fault)
    if match == "PUT */lfs/*" and fault in ("truncate", "corrupt"):  # the client does not look at that answer
        newer.push_to_hub(REPO)
        return
    told = "no connection to the Hub, or it broke off|the Hub itself failed|has no signed mask"
    with pytest.raises(HubError, match=told):
        newer.push_to_hub(REPO)
    hub.heal()
    assert SignedMask.from_pretrained(REPO) in (pushed, newer)  # an answer that is lost may be to a commit that is made
    newer.push_to_hub(REPO)
    assert SignedMask.from_pretrained(REPO) == newer


def test_a_full_disk_is_told_with_the_cache_that_it_is_of(hub, pushed, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aws_lottery.mask_file.hub.hf_hub_download", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*home/hub'"):
        SignedMask.from_pretrained(REPO)


def test_what_is_missing_is_told_apart(hub, pushed, mask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a demo leaves runs/digits/mask in the working directory
    create_repo("owner/empty")
    for repo, revision, message in (
        ("owner/absent", None, "no folder 'owner/absent' here, and no repository 'owner/absent' on the Hub: check"),
        (REPO, "v9", "'owner/mask' has no branch, tag or commit 'v9'"),
        ("owner/empty", None, "'owner/empty' at 'main' has no signed mask"),
    ):
        with pytest.raises(HubError, match=message):
            SignedMask.from_pretrained(repo, revision=revision)
    with pytest.raises(FileNotFoundError, match="'no such name!' is neither a folder nor a Hub id"):
        SignedMask.from_pretrained("no such name!")
    with pytest.raises(FileNotFoundError, match="no folder 'runs/digits/mask'"):
        SignedMask.from_pretrained("runs/digits/mask")


@pytest.mark.parametrize(
    ("match", "fault", "message"),
    [
        ("*", "500", "the Hub itself failed on 'owner/mask', try again later: .*500"),
        ("*", "503", "try again later: .*503"),
        ("*", "refuse", "no connection to the Hub, or it broke off"),
        ("GET *.safetensors", "500", "try again later"),
        ("GET *.safetensors", "refuse", "no connection to the Hub, or it broke off"),
        ("GET *.safetensors", "cut", "no connection to the Hub, or it broke off"),
        ("GET *config.json", "cut", "no connection to the Hub, or it broke off"),
        ("GET *.safetensors", "truncate", "no connection to the Hub, or it broke off.*Consistency check failed"),
        ("*", "401-gated", "is gated"),
        ("*.safetensors", "404", "has no signed mask"),
    ],
)
@pytest.mark.parametrize("force_download", [False, True])
def test_a_hub_that_fails_is_told_and_leaves_nothing_half_read(hub, pushed, match, fault, message, force_download):
    hub.fail(match, fault)
    with pytest.raises(HubError, match=message):
        SignedMask.from_pretrained(REPO, force_download=force_download)
    with pytest.raises(HubError, match="is not in the cache: load it once without local_files_only"):
        SignedMask.from_pretrained(REPO, local_files_only=True)
    hub.heal()
    assert SignedMask.from_pretrained(REPO) == pushed


def test_no_hub_and_nothing_cached(hub, mask, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for attempt in (lambda: SignedMask.from_pretrained(REPO), lambda: mask.push_to_hub(REPO)):
        with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, but 'owner/mask' at 'main' is not in the cache"):
            attempt()
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        SignedMask.from_pretrained(REPO, force_download=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.close()
    with pytest.raises(HubError, match="no connection to the Hub"):
        SignedMask.from_pretrained(REPO)


@pytest.mark.parametrize("name", [CONFIG_FILE, MASK_FILE])
def test_corrupt_content_is_refused_and_can_be_fetched_anew(hub, pushed, name):
    hub.fail(f"GET *{name}", "corrupt")
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ValueError, match=rf"cannot read .*{name}.*force_download=True fetches it anew"):
            SignedMask.from_pretrained(REPO)
    hub.heal()
    assert SignedMask.from_pretrained(REPO, force_download=True) == pushed
    assert SignedMask.from_pretrained(REPO) == pushed


def test_a_file_that_was_cut_in_the_cache_is_refused(hub, pushed):
    cached = Path(hf_hub_download(REPO, MASK_FILE)).resolve()
    cached.write_bytes(cached.read_bytes()[:-3])
    with pytest.raises(ValueError, match="force_download=True"):
        SignedMask.from_pretrained(REPO)


def test_a_push_without_the_right_is_refused(hub, pushed):
    for token, message in ((STRANGER, "no right to do that with 'owner/mask'"), ("hf_bad", "log in|token")):
        with pytest.raises(HubError, match=message):
            pushed.push_to_hub(REPO, token=token)
    hub.fail("POST */commit/*", "500")
    with pytest.raises(HubError, match="the Hub itself failed"):
        small_mask(1).push_to_hub(REPO)
    hub.heal()
    assert SignedMask.from_pretrained(REPO) == pushed


def test_what_a_person_wrote_on_the_card_survives_a_push(hub, pushed):
    assert f'SignedMask.from_pretrained("{REPO}")' in readme()
    edited = readme().replace("library_name:", "license: mit\nlibrary_name:", 1) + "\nAsk Ada about this one.\n"
    HfApi().upload_file(repo_id=REPO, path_in_repo="README.md", path_or_fileobj=edited.encode())
    newer = SignedMask.from_pretrained(REPO)
    newer.results = (Result("fresh + signed mask", "digits", [95, 95]),)
    newer.push_to_hub(REPO)
    assert readme().endswith("\nAsk Ada about this one.\n")
    assert "license: mit" in readme()
    assert "95.00 ± 0.00" in readme()
    assert "91.00 ± 1.41" not in readme()


def test_a_card_that_can_not_be_read_is_not_replaced(hub, pushed):
    HfApi().upload_file(repo_id=REPO, path_in_repo="README.md", path_or_fileobj=b"---\na: [\n---\n")
    with pytest.raises(ValueError, match=r"front matter of the README.md there can't be read"):
        pushed.push_to_hub(REPO)


def test_a_card_that_is_not_text_is_not_replaced(hub, mask):
    hub.add_repo(REPO, {"README.md": b"\xff\xfe"})
    with pytest.raises(ValueError, match=r"the README.md of 'owner/mask' is not UTF-8, mend or remove it"):
        mask.push_to_hub(REPO)


def test_a_card_that_can_not_be_fetched_is_not_replaced(hub, pushed):
    before = commit_of()
    hub.fail("*README.md", "500")
    with pytest.raises(HubError, match="the Hub itself failed"):
        small_mask(1).push_to_hub(REPO)
    assert commit_of() == before


def test_a_mask_in_a_subfolder_of_a_repository_or_of_a_folder(hub, pushed, tmp_path):
    other = small_mask(7)
    other.save_pretrained(tmp_path / "search" / "round-02")
    HfApi().upload_folder(repo_id=REPO, folder_path=tmp_path / "search" / "round-02", path_in_repo="rounds/round-02")
    there = SignedMask.from_pretrained(REPO, subfolder="rounds/round-02")
    assert there == SignedMask.from_pretrained(tmp_path / "search", subfolder="round-02") == other != pushed
    assert there.source == f"{REPO}@{commit_of()}/rounds/round-02"
    assert SignedMask.from_pretrained(REPO) == pushed
    with pytest.raises(HubError, match=r"(?s)has no signed mask.*rounds/round-03/config\.json"):
        SignedMask.from_pretrained(REPO, subfolder="rounds/round-03")


def test_a_hub_that_nobody_answers_for_is_asked_twice_and_then_given_up(monkeypatch, tmp_path, caplog):
    waits = []
    monkeypatch.setattr("aws_lottery.mask_file.hub.time.sleep", waits.append)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(HubError, match="no folder 'runs/round-5' here, and no connection to the Hub"):
        SignedMask.from_pretrained("runs/round-5", cache_dir=tmp_path)
    assert waits == [1.0]
    assert "Retrying in" not in caplog.text
