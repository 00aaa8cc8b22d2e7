"""Point huggingface_hub at a LoopbackHub, in this process or in a new one. Plain functions, used as follows.

@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        use_hub(hub, monkeypatch, tmp_path / "home")
        yield hub
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download, hf_api
from huggingface_hub.utils import _http
from loopback_hub import OWNER, LoopbackHub

# LFS upload passes a file as `data=`, which the client's own HTTP library deprecates; for `-W error`.
LFS_UPLOAD_WARNING = "ignore:Use 'content=:DeprecationWarning"
# Settings of the user, which must not reach a test.
FOREIGN = ("hf_", "hugging", "transformers_", "http_proxy", "https_proxy", "all_proxy")


def use_hub(hub: LoopbackHub, patch: pytest.MonkeyPatch, home: Path, *, token: str | None = OWNER) -> None:
    """Make `hub` the Hub of this process, with the cache under `home` and `token` (None: nobody) logged in.

    HF_ENDPOINT and its like were read when huggingface_hub was imported, hence its constants are set: nothing
    else reaches ModelHubMixin, which takes no `endpoint=`.
    """
    settings = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in settings.items():
        patch.setattr(constants, name, value)
    patch.setattr(hf_api.api, "endpoint", hub.url)  # behind huggingface_hub.create_repo and the like
    for name in [name for name in os.environ if name.lower().startswith(FOREIGN)]:
        patch.delenv(name)
    if token is not None:
        patch.setenv("HF_TOKEN", token)


def do_not_wait(patch: pytest.MonkeyPatch) -> None:
    """Let the client retry at once; otherwise it sleeps up to 23 s a file, and it has no setting for that."""
    for module in (_http, file_download):
        patch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))


def hub_env(hub: LoopbackHub, home: Path, *, token: str | None = OWNER, **more: str) -> dict[str, str]:
    """Environment of a new process whose Hub is `hub`: ours, without the user's Hub settings and proxies."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    kept = {name: value for name, value in os.environ.items() if not name.lower().startswith(FOREIGN)}
    return {**kept, **settings, **({} if token is None else {"HF_TOKEN": token}), **more}


def run_python(code: str, env: dict[str, str]) -> str:
    """What `code` prints in a new process; CalledProcessError if it fails, its traceback is on our stderr."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, check=True, text=True, stdout=subprocess.PIPE, timeout=240)
    return done.stdout.strip()
