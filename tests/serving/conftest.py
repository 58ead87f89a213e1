"""A tiny server: in this process, by ASGI alone or on a port of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.seed import SeedTokenizer

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "openai", "schemathesis")
collect_ignore_glob = ["test_*.py"] if any(find_spec(name) is None for name in NEEDED) else []


@pytest.fixture(scope="session")
def lm(bases: dict[str, Path], seed: SeedTokenizer) -> SeedLM:
    torch.manual_seed(1)
    return SeedLM.build(bases["opt"], seed)


@pytest.fixture(scope="session")
def lm_folder(lm: SeedLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    lm.save_pretrained(folder, standalone=True)
    return folder


@pytest.fixture
def client(lm: SeedLM) -> Iterator[Callable]:
    """Makes an ASGI client of a new server with these limits and keys."""
    from starlette.testclient import TestClient

    from seedtok.serving.app import create_app
    from seedtok.serving.limits import Limits

    with ExitStack() as stack:

        def make(keys: tuple[str, ...] = (), **limits: float) -> TestClient:
            app = create_app(lm, "tiny", Limits(**limits), keys)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make


@pytest.fixture(scope="session")
def address(lm: SeedLM) -> Iterator[str]:
    """The address of a server on a port."""
    with listening_server(lm) as address:
        yield address


@contextmanager
def listening_server(lm: SeedLM, keys: tuple[str, ...] = (), with_page: bool = False) -> Iterator[str]:
    """The address of a server on a port, in a thread of this process."""
    import uvicorn

    from seedtok.serving.app import create_app
    from seedtok.serving.connection import Connection
    from seedtok.serving.run import listening, own_hosts

    with listening("127.0.0.1", 0) as server_socket:
        hosts = [] if keys else own_hosts("127.0.0.1", server_socket)
        app = create_app(lm, "tiny", keys=keys, with_page=with_page, hosts=hosts)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", http=Connection))
        thread = threading.Thread(target=server.run, args=([server_socket],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server_socket.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
