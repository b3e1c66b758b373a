"""One Ray for all tests here."""

from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    for attempt in range(3):
        try:
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
            )
            break
        except Exception:  # Ray gives up after 30 seconds, which other tests beside this may take from it
            ray.shutdown()
            if attempt == 2:
                raise
    yield
    ray.shutdown()
