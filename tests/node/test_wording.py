"""What pydantic finds is told in our words; what a validator says, as it is."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from node.wording import said_of


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    x: int = 0


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=3)] = "a"
    longer: Annotated[str, Field(min_length=2)] = "ab"
    key: Annotated[str, Field(pattern="^[0-9a-f]{2}$")] = "0f"
    whole: Annotated[int, Field(ge=1, le=65_535)] = 1
    number: Annotated[float, Field(gt=0, lt=10)] = 1.0
    finite: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    flag: bool = False
    few: Annotated[list[int], Field(min_length=1, max_length=2)] = [1]
    facts: dict[str, int] = {}
    inner: Inner = Inner()
    word: Literal["one", "two"] = "one"
    colour: Colour = Colour.RED
    even: int = 2

    @field_validator("even")
    @classmethod
    def check_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("it is odd")
        return value


def problem(**values: Any) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        Model(**values)
    [found] = caught.value.errors()
    return dict(found)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": ""}, "it is empty"),
        ({"name": "abcd"}, "it may have at most 3 characters"),
        ({"name": 3}, "it must be text"),
        ({"longer": "a"}, "it must have at least 2 characters"),
        ({"key": "zz"}, "it must have the form ^[0-9a-f]{2}$"),
        ({"whole": 0}, "it must be at least 1"),
        ({"whole": 65_536}, "it must be at most 65,535"),
        ({"whole": "x"}, "it must be a whole number"),
        ({"whole": 1.5}, "it must be a whole number"),
        ({"whole": None}, "it must be a whole number"),
        ({"number": 0}, "it must be above 0"),
        ({"number": 10}, "it must be below 10"),
        ({"number": "x"}, "it must be a number"),
        ({"finite": float("inf")}, "it must be a finite number"),
        ({"flag": "perhaps"}, "it must be true or false"),
        ({"flag": []}, "it must be true or false"),
        ({"few": []}, "it is empty"),
        ({"few": [1, 2, 3]}, "it may have at most 2 entries"),
        ({"few": 1}, "it must be a list"),
        ({"facts": 1}, "it must be an object"),
        ({"inner": 1}, "it must be an object"),
        ({"word": "three"}, "it must be 'one' or 'two'"),
        ({"colour": "green"}, "it must be 'red' or 'blue'"),
        ({"other": 1}, "there is no such field"),
        ({"even": 3}, "it is odd"),
    ],
)
def test_a_finding_is_told_in_our_words(values: dict[str, Any], said: str) -> None:
    assert said_of(problem(**values)) == said


def test_what_is_not_known_is_told_as_it_is() -> None:
    assert said_of({"type": "of_another_version", "msg": "Something"}) == "Something"
    assert said_of({"type": "string_too_long", "msg": "Something"}) == "Something"
    assert said_of({}) == "it is not valid"
