"""The loopback Hub against the real huggingface_hub client, and what that client makes of each fault."""

import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import hub_fixtures
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelHubMixin,
    create_repo,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from loopback_hub import OWNER, STRANGER, LoopbackHub

pytestmark = pytest.mark.filterwarnings(hub_fixtures.LFS_UPLOAD_WARNING)

CONFIG, WEIGHTS = b'{"width": 8}', bytes(range(256)) * 8
FILES = {"config.json": CONFIG, "nested/model.safetensors": WEIGHTS}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        hub_fixtures.use_hub(hub, monkeypatch, tmp_path / "home")
        yield hub


@pytest.fixture
def tiny(hub):
    """A public repo "owner/tiny" with FILES."""
    return hub.add_repo("owner/tiny", FILES)


@pytest.fixture
def no_waiting(monkeypatch):
    hub_fixtures.do_not_wait(monkeypatch)


def commit(files, *, token=None, deleted=(), **options):
    """Commit `files` (path -> content) to "owner/tiny", less the paths in `deleted`."""
    edits = [CommitOperationAdd(path, data) for path, data in files.items()]
    edits += [CommitOperationDelete(path) for path in deleted]
    return HfApi(token=token).create_commit("owner/tiny", edits, commit_message="m", **options)


def read(path, **options):
    return Path(hf_hub_download("owner/tiny", path, **options)).read_bytes()


def write_folder(folder, files=FILES):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


# Pushing


def test_a_pushed_folder_comes_back_unchanged(hub, tmp_path):
    create_repo("owner/tiny")
    HfApi().upload_folder(repo_id="owner/tiny", folder_path=write_folder(tmp_path / "out"))
    pulled = Path(snapshot_download("owner/tiny"))
    assert {path: (pulled / path).read_bytes() for path in FILES} == FILES


def test_several_lfs_files_are_uploaded_side_by_side(hub):
    create_repo("owner/tiny")
    weights = {f"{n}.safetensors": bytes([n]) * 100 for n in range(4)}
    commit(weights)
    assert {path: read(path) for path in weights} == weights


def test_safetensors_go_through_lfs_and_json_does_not(hub, tmp_path):
    create_repo("owner/tiny")
    HfApi().upload_folder(repo_id="owner/tiny", folder_path=write_folder(tmp_path / "out"))
    tree = HfApi().list_repo_tree("owner/tiny", recursive=True)
    in_lfs = {file.path: file.lfs is not None for file in tree}
    assert in_lfs == {".gitattributes": False, "config.json": False, "nested/model.safetensors": True}
    assert hub.count("PUT /lfs/*") == 1


def test_an_unchanged_push_makes_no_commit_and_uploads_nothing(hub, tiny, tmp_path):
    before = HfApi().model_info("owner/tiny").sha
    HfApi().upload_folder(repo_id="owner/tiny", folder_path=write_folder(tmp_path / "out"))
    assert HfApi().model_info("owner/tiny").sha == before
    assert hub.count("PUT *") == hub.count("POST */commit/*") == 0


def test_a_commit_can_delete_files_and_folders(hub, tiny):
    commit({}, deleted=["config.json", "nested/"])
    assert HfApi().list_repo_files("owner/tiny") == [".gitattributes"]


def test_a_stale_parent_commit_is_refused(hub, tiny):
    parent = HfApi().model_info("owner/tiny").sha
    commit({"a": b"1"}, parent_commit=parent)
    with pytest.raises(HfHubHTTPError, match="412"):
        commit({"a": b"2"}, parent_commit=parent)


def test_creating_a_repo_twice_needs_exist_ok(hub):
    assert create_repo("tiny").repo_id == "owner/tiny"
    assert create_repo("tiny", exist_ok=True).repo_id == "owner/tiny"
    with pytest.raises(HfHubHTTPError, match="409"):
        create_repo("tiny")


class Model(ModelHubMixin):
    """As small as a mixin gets: its own README, hence no jinja2, and one file of weights."""

    def __init__(self, width: int, weights: bytes = WEIGHTS):
        self.width, self.weights = width, weights

    def _save_pretrained(self, save_directory):
        write_folder(save_directory, {"README.md": b"# tiny\n", "model.safetensors": self.weights})

    @classmethod
    def _from_pretrained(cls, *, model_id, width, **options):
        wanted = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        return cls(width, read("model.safetensors", **{name: options[name] for name in wanted}))


def test_a_mixin_is_pushed_and_loaded(hub):
    Model(3, b"w").push_to_hub("owner/tiny", config={"width": 3})
    loaded = Model.from_pretrained("owner/tiny")
    assert (loaded.width, loaded.weights) == (3, b"w")
    assert hub.count("GET */config.json") == 1


# Revisions


def test_a_commit_a_tag_and_a_branch_pin_what_main_has_left_behind(hub, tiny):
    api, old = HfApi(), HfApi().model_info("owner/tiny").sha
    api.create_tag("owner/tiny", tag="v1")
    api.create_branch("owner/tiny", branch="stable/1", revision="v1")
    commit({"config.json": b"new"})
    assert [read("config.json", revision=revision) for revision in (old, "v1", "stable/1")] == [CONFIG] * 3
    assert read("config.json") == b"new"
    refs = api.list_repo_refs("owner/tiny")
    assert [ref.name for ref in refs.branches + refs.tags] == ["main", "stable/1", "v1"]


def test_a_commit_goes_to_the_branch_that_it_names(hub, tiny):
    HfApi().create_branch("owner/tiny", branch="stable/1")
    commit({"config.json": b"new"}, revision="stable/1")
    assert (read("config.json"), read("config.json", revision="stable/1")) == (CONFIG, b"new")


def test_a_tag_is_not_moved(hub, tiny):
    HfApi().create_tag("owner/tiny", tag="v1")
    HfApi().create_tag("owner/tiny", tag="v1", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        HfApi().create_tag("owner/tiny", tag="v1")


def test_a_pull_request_leaves_main_alone(hub, tiny):
    made = commit({"config.json": b"new"}, token=STRANGER, create_pr=True)
    assert (made.pr_revision, made.pr_num) == ("refs/pr/1", 1)
    assert (read("config.json"), read("config.json", revision="refs/pr/1")) == (CONFIG, b"new")
    refs = HfApi().list_repo_refs("owner/tiny", include_pull_requests=True)
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [("refs/pr/1", made.oid)]


# Who may do what


def test_whoami_names_the_owner_of_the_token(hub):
    assert HfApi().whoami()["name"] == "owner"
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(token="hf_unknown").model_info("owner/tiny")


@pytest.mark.parametrize("token", [False, STRANGER])
def test_only_the_owner_sees_a_private_repo(hub, token):
    create_repo("owner/tiny", private=True)
    assert HfApi().model_info("owner/tiny").private
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=token).model_info("owner/tiny")
    with pytest.raises(RepositoryNotFoundError):
        read("config.json", token=token)


@pytest.mark.parametrize(("token", "status"), [(False, 401), (STRANGER, 403)])
def test_a_gated_repo_shows_its_files_and_keeps_their_content(hub, token, status):
    hub.add_repo("owner/tiny", FILES, gated=True)
    assert "config.json" in HfApi(token=token).list_repo_files("owner/tiny")
    with pytest.raises(GatedRepoError) as caught:
        read("config.json", token=token)
    assert caught.value.response.status_code == status
    assert read("config.json", token=OWNER) == CONFIG


@pytest.mark.parametrize(("token", "status"), [(False, "401"), (STRANGER, "403")])
def test_only_the_owner_writes(hub, tiny, token, status):
    with pytest.raises(HfHubHTTPError, match=status):
        commit({"a": b"1"}, token=token)


# What is missing


def test_what_is_missing_has_its_own_exception(hub, tiny):
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("owner/absent", "config.json")
    with pytest.raises(RevisionNotFoundError):
        read("config.json", revision="v9")
    with pytest.raises(EntryNotFoundError):
        read("absent.json")


def test_what_the_hub_does_not_speak_is_501(hub, tiny):
    with pytest.raises(HfHubHTTPError, match="loopback Hub does not speak GET /api/models"):
        HfApi().list_repo_commits("owner/tiny")


# The cache


def test_what_is_cached_is_read_without_a_request(hub, tiny):
    read("config.json")
    hub.requests.clear()
    assert read("config.json", local_files_only=True) == CONFIG
    with pytest.raises(LocalEntryNotFoundError):
        read("nested/model.safetensors", local_files_only=True)
    assert hub.requests == []


def test_a_second_read_asks_but_does_not_download(hub, tiny):
    assert read("config.json") == read("config.json") == CONFIG
    assert (hub.count("HEAD */config.json"), hub.count("GET */config.json")) == (2, 1)


def test_a_new_process_finds_the_hub_and_offline_it_asks_nothing(hub, tiny, tmp_path):
    code = "import huggingface_hub as h; print(open(h.hf_hub_download('owner/tiny', 'config.json')).read())"
    env = hub_fixtures.hub_env(hub, tmp_path / "other")
    assert hub_fixtures.run_python(code, env).encode() == CONFIG
    hub.requests.clear()
    assert hub_fixtures.run_python(code, {**env, "HF_HUB_OFFLINE": "1"}).encode() == CONFIG
    assert hub.requests == []


@pytest.mark.parametrize("fault", ["401-gated", "500", "503"])
def test_a_cached_file_survives_a_hub_that_refuses(hub, tiny, fault):
    read("config.json")
    hub.fail("*", fault)
    assert read("config.json") == CONFIG


def test_a_cached_file_survives_a_hub_that_is_gone(hub, tiny):
    read("config.json")
    hub.close()
    assert read("config.json") == CONFIG


def test_a_cached_file_survives_a_slow_hub(hub, tiny):
    read("config.json")
    hub.fail("HEAD *", "slow", delay=0.5)
    assert read("config.json", etag_timeout=0.1) == CONFIG


# Faults. Without `no_waiting` the client sleeps 5 s in a download and 23 s in a HEAD.


@pytest.mark.parametrize(
    ("match", "fault", "error", "tries"),
    [
        ("*", "404", EntryNotFoundError, 1),
        ("*", "401-gated", GatedRepoError, 1),
        ("*", "500", LocalEntryNotFoundError, 7),
        ("*", "503", LocalEntryNotFoundError, 7),
        ("*", "refuse", HTTPError, 1),
        ("GET *", "404", EntryNotFoundError, 2),
        ("GET *", "500", HfHubHTTPError, 2),
        ("GET *", "refuse", HTTPError, 7),
        ("GET *", "cut", HTTPError, 7),
    ],
)
def test_a_lasting_fault_is_an_error_and_caches_nothing(hub, tiny, no_waiting, match, fault, error, tries):
    hub.fail(match, fault)
    with pytest.raises(error):
        read("config.json")
    assert len(hub.requests) == tries
    with pytest.raises(LocalEntryNotFoundError):
        read("config.json", local_files_only=True)


def test_a_hub_that_is_gone_is_a_missing_entry(hub, tiny, no_waiting):
    hub.close()
    with pytest.raises(LocalEntryNotFoundError):
        read("config.json")


def test_a_download_too_slow_for_the_timeout_is_an_error(hub, tiny, no_waiting, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    hub.fail("GET *", "slow", delay=0.3)
    with pytest.raises(HTTPError):
        read("config.json")


@pytest.mark.parametrize(
    ("match", "fault"),
    [("HEAD *", "500"), ("HEAD *", "503"), ("GET *", "cut"), ("GET *", "refuse"), ("GET *", "slow")],
)
def test_the_client_gets_over_a_passing_fault(hub, tiny, no_waiting, match, fault):
    hub.fail(match, fault, times=2, delay=0.1)
    assert read("nested/model.safetensors") == WEIGHTS


def test_an_lfs_upload_gets_over_a_passing_fault(hub, no_waiting):
    create_repo("owner/tiny")
    hub.fail("PUT /lfs/*", "500", times=2)
    commit({"model.safetensors": WEIGHTS})
    assert read("model.safetensors") == WEIGHTS


def test_a_refused_commit_is_not_made(hub, tiny):
    hub.fail("POST */commit/*", "500")
    with pytest.raises(HfHubHTTPError, match="500"):
        commit({"a": b"1"})
    assert "a" not in tiny.at("main").files


def test_the_client_does_not_notice_corrupt_content(hub, tiny):
    """So whoever needs the right bytes has to check them."""
    hub.fail("GET *", "corrupt")
    assert read("nested/model.safetensors") == WEIGHTS[:-1] + b"\x00"


def test_the_client_does_not_notice_a_wrong_etag(hub, tiny):
    hub.fail("*", "wrong-etag")
    assert read("config.json") == CONFIG


def test_a_predicate_and_heal_switch_faults(hub, tiny):
    hub.fail(lambda request: request.user is None, "404")
    with pytest.raises(EntryNotFoundError):
        read("config.json", token=False)
    assert read("config.json") == CONFIG
    hub.heal()
    assert read("config.json", token=False) == CONFIG
    with pytest.raises(ValueError, match="unknown fault 'flood'"):
        hub.fail("*", "flood")


def test_a_download_is_resumed_by_range(hub, tiny, tmp_path):
    url = f"{hub.url}/owner/tiny/resolve/main/nested/model.safetensors"
    with open(tmp_path / "part", "wb") as part:
        part.write(WEIGHTS[:1000])
        http_get(url, part, resume_size=1000)
    assert (tmp_path / "part").read_bytes() == WEIGHTS


def test_it_runs_as_a_script():
    script = [sys.executable, Path(__file__).with_name("loopback_hub.py")]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        try:
            connection = HTTPConnection(process.stdout.readline().strip().removeprefix("http://"))
            connection.request("GET", "/api/models/owner/tiny")
            assert connection.getresponse().getheader("X-Error-Code") == "RepoNotFound"
        finally:
            process.terminate()
