from tests.compilation import compiled_once  # noqa: F401 (a fixture)
from tests.data.conftest import make_task  # noqa: F401 (a fixture)
