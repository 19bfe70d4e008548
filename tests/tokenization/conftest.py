from tests.data.conftest import make_task  # noqa: F401 (a fixture)
