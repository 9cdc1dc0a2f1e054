"""The longest files of tests are begun first."""

from pathlib import Path
from types import SimpleNamespace

from tests import conftest


def test_every_file_that_is_begun_first_exists_and_is_named_once():
    assert [name for name in conftest.LONGEST if not (conftest.TESTS / name).is_file()] == []
    assert len(set(conftest.LONGEST)) == len(conftest.LONGEST)


def test_the_longest_come_first_and_the_others_stay_in_their_order(request):
    def items(*names: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(path=conftest.TESTS / Path(name)) for name in names]

    first, second = conftest.LONGEST[:2]
    found = items("z/test_z.py", second, "a/test_a.py", first, second)
    conftest.pytest_collection_modifyitems(found)
    assert found == items(first, second, second, "z/test_z.py", "a/test_a.py")
    assert not getattr(request.config.option, "loadscopereorder", False), (
        "files are handed out by the number of their tests"
    )
