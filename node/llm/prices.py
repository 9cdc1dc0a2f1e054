"""What completions cost, by a table of prices in the configuration; none is built in, they change too often.

Prices are in units of one currency, whichever it is, for a million tokens; so a price is a number of
millionths of that unit (*micros*) for one token. Costs are whole micros, rounded up, so that sums are exact
and never too low.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from node.config import LlmPrice
from node.llm.provider import Usage


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The prices of models.

    Args:
        prices: Model -> its prices. A name that ends with ``*`` is of all that begin so; the longest that
            fits counts, the exact one before all.
    """

    prices: Mapping[str, LlmPrice]

    def find(self, *models: str) -> LlmPrice | None:
        """The price of the first of these models that has one."""
        for model in models:
            if model in self.prices:
                return self.prices[model]
            fitting = [n for n in self.prices if n.endswith("*") and model.startswith(n[:-1])]
            if fitting and model:
                return self.prices[max(fitting, key=len)]
        return None

    def cost_micros(self, usage: Usage, *models: str) -> int | None:
        """What ``usage`` costs, in micros; None where none of these models has a price."""
        price = self.find(*models)
        if price is None:
            return None
        cached = price.input if price.cached_input is None else price.cached_input
        written = price.input if price.cache_write is None else price.cache_write
        plain = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
        cost = plain * price.input + usage.cached_tokens * cached + usage.cache_write_tokens * written
        # Rounded at the ninth digit first: 0.1 * 3 must not become one micro more by the way floats are kept.
        return math.ceil(round(cost + usage.output_tokens * price.output, 9))
