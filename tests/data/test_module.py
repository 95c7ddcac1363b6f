from pathlib import Path

import lightning as L
import pytest
from lightsleeper.data.module import DataModule, asked
from lightsleeper.errors import UserError
from lightsleeper.recipe import catalog
from lightsleeper.recipe.parsing import find_class


class Counting(DataModule):
    loads = 0

    def load(self) -> None:
        self.loads += 1
        if self.loads == 1:
            raise UserError("not yet")


def test_data_are_loaded_once_whichever_hook_comes_first():
    data = Counting()
    with pytest.raises(UserError, match="not yet"):
        data.prepare_data()
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.loads == 2


def test_a_plain_data_module_answers_with_the_defaults_and_with_what_it_has():
    class Plain(L.LightningDataModule):
        def summary(self):
            return {"hash": "abc"}

    assert asked(Plain(), "summary")() == {"hash": "abc"}
    assert asked(Plain(), "check")() is None
    assert asked(Plain(), "recording")(0) is None
    assert asked(Plain(), "shortcuts")() == {}
    assert asked(Plain(), "save_tokenizer")(Path("nowhere")) is None
    assert asked(Plain(), "test_names") == ("",)


@pytest.mark.parametrize("name", sorted(catalog.DATA))
def test_every_shipped_data_module_has_the_base(name: str):
    assert issubclass(find_class(name), DataModule)
