from tests.compilation import compiled_once  # noqa: F401 (a fixture)
